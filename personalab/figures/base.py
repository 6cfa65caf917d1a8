"""The course's figures: a picture, readable everywhere, and folded below it an interactive one where supported.

Colours are safe for colour-blind readers (Okabe and Ito's palette, the Viridis family), and one of them means one thing
throughout the course: `COLOURS`. Nothing hangs on colour alone: a marker, a line style or a label says it too.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
from IPython.display import display
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy.stats import binomtest

PALETTE = ("#0072B2", "#E69F00", "#CC79A7", "#009E73", "#D55E00", "#56B4E9", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# What a colour means: plain, treated and control are conditions of an experiment; then groups of personas, and
# the main traits. A limit or a reference is a black dashed line, a region that does not count is light grey.
COLOURS = {
    "plain": PALETTE[0], "treated": PALETTE[4], "control": PALETTE[6],
    "default": PALETTE[0], "assistant-like": PALETTE[5], "mid-range": PALETTE[3], "fantastical": PALETTE[4],
    "sycophantic": PALETTE[1], "evil": PALETTE[2], "hallucinating": PALETTE[3],
}  # fmt: skip
ABOVE: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2, "frameon": False}  # off the data
FOLD = "\u25b8 The same, interactive: point here"
PLOTLY_MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")


class Picture(NamedTuple):
    """A figure as a PNG file in base64, and what it shows, in words."""

    png: str
    alt: str


_collected: list[list[Picture]] = []  # the innermost last


@contextmanager
def collected() -> Iterator[list[Picture]]:
    """While open, figures go into the list instead of a notebook's cell."""
    _collected.append([])
    try:
        yield _collected[-1]
    finally:
        _collected.pop()


def show(static: Figure, interactive: go.Figure, alt: str) -> None:
    """Display a figure as PNG and, folded below it, as Plotly; `alt` describes it where neither can be seen.

    The picture shrinks with the window, the interactive figure is as wide as there is room. JupyterLab shows `FOLD`,
    and the interactive figure in its place when you point at it.
    """
    picture = _png(static)
    if _collected:
        _collected[-1].append(Picture(picture, alt))
        return
    _legend_below(interactive)
    plotly = json.loads(interactive.to_json())  # Plotly's own encoder knows its arrays
    plotly["config"] = {"responsive": True, "displaylogo": False}
    said = f"(Interactive where supported.) {alt}"
    # Two outputs: a picture that JupyterLab shows in place of a Plotly figure does not shrink with the window.
    display({"image/png": picture, "text/plain": alt}, metadata={"image/png": {"alt": alt}}, raw=True)
    folded = {"application/vnd.plotly.v1+json": plotly, "image/png": _fold(), "text/plain": said}
    display(folded, metadata={"image/png": {"alt": said}}, raw=True)


def _png(figure: Figure) -> str:
    """In base64; the figure is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


@cache
def _fold() -> str:
    """`FOLD` as a picture on white, so that it can be read on a dark page, too."""
    figure = plt.figure(figsize=(2.6, 0.25))
    figure.text(0, 0.5, FOLD, fontsize=8, color="#222222", va="center")
    return _png(figure)


def _legend_below(interactive: go.Figure) -> None:
    """The legend in rows under the plot, where it covers nothing and leaves a narrow window its width."""
    plot = max(40, (interactive.layout.height or 450) - 180)  # pixels between the margins, all Plotly's defaults
    interactive.update_layout(legend={"orientation": "h", "y": -80 / plot, "yanchor": "top"})


def plot_rates(outcomes: Mapping[str, Float[np.ndarray, "n"]], label: str) -> None:
    """Shares of 0/1 outcomes by condition, as bars with n and 95 % Wilson intervals.

    The condition called plain, and controls (their names begin with "random"), have colours of their own.
    """
    names = [f"{name}\n{values.mean():.0%}, n = {len(values)}" for name, values in outcomes.items()]
    shares = [float(v.mean()) for v in outcomes.values()]
    ranges = [binomtest(int(v.sum()), len(v)).proportion_ci(method="wilson") for v in outcomes.values()]
    errors = [
        [s - r.low for s, r in zip(shares, ranges, strict=True)],
        [r.high - s for s, r in zip(shares, ranges, strict=True)],
    ]
    kinds = ["plain" if n == "plain" else "control" if n.startswith("random") else "treated" for n in outcomes]
    colours = [COLOURS[kind] for kind in kinds]
    fig, ax = plt.subplots(figsize=(7.5, 3.5))
    hatches = ["//" if kind == "control" else "" for kind in kinds]
    ax.bar(names, shares, yerr=errors, color=colours, hatch=hatches, edgecolor="white", capsize=4)
    ax.set_ylim(0, 1)
    ax.set_ylabel(label)
    interactive = go.Figure(
        go.Bar(
            x=[name.replace("\n", "<br>") for name in names], y=shares, marker={"color": colours},
            error_y={"type": "data", "symmetric": False, "array": errors[1], "arrayminus": errors[0]},
        )
    )  # fmt: skip
    interactive.update_layout(height=400, yaxis_title=label, yaxis_range=[0, 1])
    shown = ", ".join(f"{n} {s:.0%} of {len(v)}" for (n, v), s in zip(outcomes.items(), shares, strict=True))
    show(fig, interactive, f"Bars, {label}, with 95 % intervals: {shown}.".replace("\n", " "))


def plot_null(null: Sequence[float] | Float[np.ndarray, "n"], observed: float, xlabel: str) -> None:
    """Histogram of a statistic under the null hypothesis, with the observed value as a line."""
    fig, ax = plt.subplots(figsize=(7, 3))
    ax.hist(np.asarray(null), bins=40, color=PALETTE[-1], label="null")
    ax.axvline(observed, color=PALETTE[4], lw=2, label=f"observed: {observed:.2f}")
    ax.set_xlabel(xlabel)
    ax.set_ylabel("draws")
    ax.legend(**ABOVE)
    interactive = go.Figure(go.Histogram(x=np.asarray(null), nbinsx=40, marker={"color": PALETTE[-1]}))
    interactive.add_vline(x=observed, line={"color": PALETTE[4]}, annotation_text=f"observed: {observed:.2f}")
    interactive.update_layout(height=320, xaxis_title=xlabel, yaxis_title="draws")
    show(fig, interactive, f"Histogram of {len(null)} null draws of the {xlabel}; observed {observed:.2f}.")
