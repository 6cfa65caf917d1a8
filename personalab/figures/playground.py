"""The playground: a panel that steers a model, and colours each token of its answers by a trait vector.

What a model writes is untrusted text: everywhere here it is escaped before it becomes HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from html import escape

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
from IPython.display import display
from jaxtyping import Float
from matplotlib.patches import Rectangle
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.figures.base import COLOURS, show
from personalab.lm.activations import answer_token_activations
from personalab.lm.chat import as_messages
from personalab.lm.generation import Request, generate
from personalab.lm.models import n_blocks

POSITIONS = ("all", "prompt", "response")
LOW, HIGH = (0, 114, 178), (230, 159, 0)  # blue and orange, told apart by colour-blind readers too
LABEL = {"description_width": "initial"}  # no label is cut off
PAPER = "background:#fff;color:#222"  # of all text, so that it can be read on a dark page, too
COLUMN = 44  # characters a line of the picture
Steerer = Callable[..., AbstractContextManager[object]]  # (model, vector, coeff, layer, positions)


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


class Playground:
    """Steers with `steerer`, your own `ActivationSteerer`, say.

    Args:
        vectors: trait -> one vector a block; row k belongs to the output of block k.
        steerer: `steerer(model, vector, coeff=…, layer=…, positions=…)` is a context manager; `layer` is a **block**.
        block: **block** index, where the panel starts.
        coefficients: where the sliders start (default: 1 for the first trait, 0 for the others).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        vectors: Mapping[str, Float[Tensor, "L d"]],
        steerer: Steerer,
        block: int,
        *,
        prompt: str = "What do you think about my plan?",
        coefficients: Mapping[str, float] | None = None,
        max_tokens: int = 40,
    ) -> None:
        self.model, self.tokenizer, self.vectors, self.steerer = model, tokenizer, vectors, steerer
        self.max_tokens = max_tokens
        first = next(iter(vectors))
        self.coefficients = dict.fromkeys(vectors, 0.0) | dict({first: 1.0} if coefficients is None else coefficients)
        self.trait = max(self.coefficients, key=lambda t: abs(self.coefficients[t]))
        self.prompt, self.block = prompt, block

    def answer(
        self, prompt: str, coefficients: Mapping[str, float], block: int, positions: str = "all", seed: int = 0
    ) -> str:
        """One answer, steered along every trait whose coefficient is not 0; none: the plain answer."""
        with ExitStack() as stack:
            for trait, coefficient in coefficients.items():
                if coefficient:
                    vector = self.vectors[trait][block]
                    stack.enter_context(
                        self.steerer(self.model, vector, coeff=coefficient, layer=block, positions=positions)
                    )
            request = Request(as_messages(None, prompt), self.max_tokens, seed=seed)
            return generate(self.model, self.tokenizer, [request])[0].text

    def read(self, prompt: str, answer: str, trait: str, block: int) -> Answer:
        """Every token of an answer with its projection on the unit vector of `trait`, after `block`, unsteered."""
        if not answer.strip():
            return Answer((), np.zeros(0))
        ids, states = answer_token_activations(self.model, self.tokenizer, as_messages(None, prompt, answer), block)
        vector = self.vectors[trait][block].float().cpu()
        return Answer(tuple(pieces(ids, self.tokenizer)), (states @ vector / vector.norm()).numpy())

    def compare(
        self,
        prompt: str,
        coefficients: Mapping[str, float],
        block: int,
        positions: str = "all",
        trait: str | None = None,
        seed: int = 0,
    ) -> Comparison:
        """Plain and steered answer to a prompt, from the same random numbers."""
        trait = trait or self.trait
        base, steered = (self.answer(prompt, c, block, positions, seed) for c in ({}, coefficients))
        pushes = ", ".join(f"{c:+.1f} {t}" for t, c in coefficients.items() if c) or "nothing"
        setting = f"{pushes} at block {block}, positions: {positions}"
        answers = (self.read(prompt, text, trait, block) for text in (base, steered))
        return Comparison(prompt, setting, trait, *answers)

    def picture(self) -> None:
        """What the panel shows at its start, as a picture that stays in a saved notebook."""
        draw(self.compare(self.prompt, self.coefficients, self.block))

    def show(self) -> None:
        """Display the panel."""
        display(self.panel())

    def panel(self) -> widgets.VBox:
        """Sliders, prompt and button, and the answers below them."""
        sliders = {
            trait: widgets.FloatSlider(
                self.coefficients[trait],
                min=-3,
                max=3,
                step=0.1,
                description=trait,
                style=LABEL,
                tooltip=f"coefficient of the vector of {trait}",
            )
            for trait in self.vectors
        }
        block = widgets.IntSlider(self.block, min=0, max=n_blocks(self.model) - 1, description="block", style=LABEL)
        positions = widgets.Dropdown(options=POSITIONS, description="positions", style=LABEL)
        trait = widgets.Dropdown(options=list(self.vectors), value=self.trait, description="colours by", style=LABEL)
        seed = widgets.IntText(0, description="seed", style=LABEL)
        prompt = widgets.Textarea(self.prompt, description="prompt", style=LABEL, layout={"width": "90%"})
        button = widgets.Button(description="Answer", button_style="primary")
        answers = widgets.HTML()

        def run(_: object) -> None:
            button.disabled, answers.value = True, "Answering: a few seconds."
            try:
                coefficients = {name: slider.value for name, slider in sliders.items()}
                found = self.compare(prompt.value, coefficients, block.value, positions.value, trait.value, seed.value)
                answers.value = to_html(found)
            except Exception as error:  # shown, since a button has no cell under which it could appear
                answers.value = f"<b>{escape(type(error).__name__)}</b>: {escape(str(error))}"
            finally:
                button.disabled = False

        button.on_click(run)
        grid = widgets.GridBox(list(sliders.values()), layout={"grid_template_columns": "repeat(2, 320px)"})
        choices = widgets.HBox([block, positions, trait], layout={"flex_flow": "row wrap"})
        return widgets.VBox([grid, choices, prompt, widgets.HBox([button, seed]), answers])


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
    """Both answers side by side, each token on its colour, its projection when you point at it."""
    cell = "vertical-align:top;text-align:left;width:50%;white-space:pre-wrap;padding:6px;" + PAPER
    cells = []
    for answer in (comparison.base, comparison.steered):
        spans = [
            f'<span style="background:{colour(value)};color:{_ink(value)}" title="{projection:+.2f}">'
            f"{escape(piece)}</span>"
            for piece, value, projection in zip(
                answer.pieces, comparison.values(answer).tolist(), answer.projections, strict=True
            )
        ]
        cells.append(f'<td style="{cell}">{"".join(spans) or "(an empty answer)"}</td>')
    means = [f"{a.projections.mean():+.1f}" if a.pieces else "none" for a in (comparison.base, comparison.steered)]
    head = f'<th style="text-align:left;{PAPER}">'
    return (
        f'<div style="padding:6px;{PAPER}"><b>user</b> {escape(comparison.prompt)}</div>'
        f'<table style="width:100%;{PAPER}">'
        f"<tr>{head}plain (mean projection {means[0]})</th>{head}{escape(comparison.setting)} ({means[1]})</th></tr>"
        f"<tr>{''.join(cells)}</tr></table>"
        f'<small style="{PAPER}">Projection on the vector of {escape(comparison.trait)}: orange '
        "above the plain answer's mean, blue below.</small>"
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
        width=860, height=380, xaxis_title="token of the answer", legend={"orientation": "h"},
        yaxis_title=f"projection on {comparison.trait}",
    )  # fmt: skip
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
