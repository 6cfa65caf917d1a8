"""A model's answers token by token, each on a colour that says how far it lies along a trait vector.

What a model writes is untrusted text: everywhere here it is escaped before it becomes HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from matplotlib.patches import Rectangle
from transformers import PreTrainedTokenizerBase

from personalab.figures.base import COLOURS, show

LOW, HIGH = (0, 114, 178), (230, 159, 0)  # blue and orange, told apart by colour-blind readers too
PAPER = "background:#fff;color:#222"  # of all text, so that it can be read on a dark page, too
NARROWEST = 230  # pixels of an answer, and of a slider: from twice as many on, two stand side by side
COLUMN = 44  # characters a line of the picture


@dataclass(frozen=True)
class Answer:
    """An answer, token by token."""

    pieces: tuple[str, ...]  # the text that each token adds
    projections: Float[np.ndarray, "tokens"]  # on the unit trait vector, read without steering

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(self.pieces)


@dataclass(frozen=True)
class Comparison:
    """One prompt's answers without and with steering."""

    prompt: str
    setting: str
    trait: str  # whose vector gives the colours
    base: Answer
    steered: Answer

    def values(self, answer: Answer) -> Float[np.ndarray, "tokens"]:
        """From -1 to 1: projections minus the unsteered answer's mean, in units of nearly the largest of them."""
        everything = np.concatenate([self.base.projections, self.steered.projections])
        if not everything.size:
            return answer.projections
        centre = self.base.projections.mean() if self.base.projections.size else everything.mean()
        scale = np.quantile(np.abs(everything - centre), 0.95) or 1.0
        return np.clip((answer.projections - centre) / scale, -1, 1)


def pieces(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text that each token adds. A token that ends inside a character adds nothing, the next one adds both."""
    found, done = [], ""
    for n in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:n], clean_up_tokenization_spaces=False)
        whole = not text.endswith("\ufffd") or n == len(ids)
        found.append(text[len(done) :] if whole else "")
        done = text if whole else done
    return found


def colour(value: float) -> str:
    """Background for a value from -1 (blue) over 0 (white) to 1 (orange)."""
    end = HIGH if value > 0 else LOW
    return "#" + "".join(f"{round(255 + abs(value) * (channel - 255)):02x}" for channel in end)


def _ink(value: float) -> str:
    return "#ffffff" if value < -0.7 else "#222222"  # on dark blue only


def to_html(comparison: Comparison) -> str:
    """Both answers, side by side where there is room, each token on its colour, its projection if you point at it."""
    columns = (("plain", comparison.base), (comparison.setting, comparison.steered))
    shown = "".join(_column(title, answer, comparison.values(answer)) for title, answer in columns)
    return (
        f'<div style="padding:6px;{PAPER}"><b>user</b> {escape(comparison.prompt)}</div>'
        f'<div style="display:flex;flex-wrap:wrap;{PAPER}">{shown}</div>'
        f'<small style="display:block;padding:6px;{PAPER}">Projection on the vector of {escape(comparison.trait)}: '
        "orange above the plain answer's mean, blue below.</small>"
    )


def _column(title: str, answer: Answer, values: Float[np.ndarray, "tokens"]) -> str:
    mean = f"{answer.projections.mean():+.1f}" if answer.pieces else "none"
    spans = [
        f'<span style="background:{colour(value)};color:{_ink(value)}" title="{projection:+.2f}">{escape(piece)}</span>'
        for piece, value, projection in zip(answer.pieces, values.tolist(), answer.projections, strict=True)
    ]
    style = f"flex:1 1 {NARROWEST}px;white-space:pre-wrap;overflow-wrap:anywhere;padding:6px;box-sizing:border-box"
    return (
        f'<div style="{style};{PAPER}"><b>{escape(title)} (mean projection {mean})</b>\n'
        f"{''.join(spans) or '(an empty answer)'}</div>"
    )


def draw(comparison: Comparison) -> None:
    """Both answers as a picture, and the projections token by token as an interactive figure."""
    answers = {"plain": comparison.base, comparison.setting: comparison.steered}
    laid = [_lines(answer, comparison.values(answer)) for answer in answers.values()]
    height = max(line for runs, line in laid)
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 1.1 + 0.22 * height))
    interactive = go.Figure()
    for ax, (title, answer), (runs, _) in zip(axes, answers.items(), laid, strict=True):
        for x, y, text, value in runs:
            ax.add_patch(Rectangle((x, y), len(text), 1, color=colour(value), lw=0))
            ax.text(x, y + 0.5, text, family="monospace", fontsize=8, va="center", color=_ink(value), parse_math=False)
        ax.set(xlim=(0, COLUMN), ylim=(height, 0))
        ax.set_title(title, fontsize=9, loc="left", parse_math=False)
        ax.axis("off")
        line = {"color": COLOURS["plain"]} if ax is axes[0] else {"color": COLOURS["treated"], "dash": "dash"}
        interactive.add_scatter(
            y=answer.projections, hovertext=[escape(piece) for piece in answer.pieces], mode="lines+markers",
            name=title, line=line,
        )  # fmt: skip
    fig.suptitle(comparison.prompt, fontsize=9, x=0.02, ha="left", parse_math=False)
    fig.tight_layout()
    interactive.update_layout(
        height=380, xaxis_title="token of the answer", yaxis_title=f"projection on {comparison.trait}"
    )
    said = "; ".join(f"{title}: {answer.text!r}" for title, answer in answers.items())
    means = [f"{a.projections.mean():.1f}" if a.pieces else "none" for a in answers.values()]
    alt = (
        f"Two answers to {comparison.prompt!r}, tokens coloured by their projection on the vector of {comparison.trait}"
    )
    show(fig, interactive, f"{alt} (means {means[0]} and {means[1]}). {said}")


def _lines(answer: Answer, values: Float[np.ndarray, "tokens"]) -> tuple[list[tuple[int, int, str, float]], int]:
    """Runs of characters at (column, line), with their values, wrapped at `COLUMN`; and the number of lines."""
    runs, x, y = [], 0, 0
    for piece, value in zip(answer.pieces, values, strict=True):
        for number, part in enumerate(piece.split("\n")):
            if number or (x and x + len(part) > COLUMN):
                x, y = 0, y + 1
            for start in range(0, len(part), COLUMN):
                text = part[start : start + COLUMN]
                x, y = (0, y + 1) if start else (x, y)
                runs.append((x, y, "".join(c if c.isprintable() else " " for c in text), float(value)))
                x += len(text)
    return runs, y + 1
