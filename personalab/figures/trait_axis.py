"""Trait vectors on the Assistant Axis, each beside a control of its own and the limits of chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from personalab.figures.base import COLOURS, show

BAND = "#dddddd"


Cosine = tuple[float, float, float]  # and the ends of its 95 % interval


def plot_trait_axis(
    cosines: Mapping[str, Cosine],
    controls: Mapping[str, Cosine],
    limits: Mapping[str, float],
    contrast_limit: float,
    main: Sequence[str],
    title: str = "cosine with the Assistant Axis",
) -> None:
    """Cosines of trait vectors with an axis, one row each: main traits above, then the others, ascending upwards.

    Args:
        cosines: of the trait vectors, by trait.
        controls: of their prompt-only vectors.
        limits: below which 95 % of a trait's own random contrasts lie, in absolute value: a grey band.
        contrast_limit: the same for random contrasts of ordinary answers: dashed lines.
        main: the main traits; the rest form the second group.
    """
    groups = [[t for t in cosines if (t in main) is inside] for inside in (False, True)]
    order = [t for group in groups for t in sorted(group, key=lambda t: cosines[t][0])]
    fig, ax = plt.subplots(figsize=(8, 1.4 + 0.5 * len(order)))
    interactive = go.Figure()
    _chance(ax, interactive, [limits[trait] for trait in order], contrast_limit)
    for group, label, colour, symbol in (
        ([t for t in order if t in main], "main trait's vector", COLOURS["treated"], "o"),
        ([t for t in order if t not in main], "another trait's vector", COLOURS["treated"], "^"),
        (order, "control: prompts alone, identical texts", "#555555", "s"),
    ):
        prompts = symbol == "s"
        found = [(controls if prompts else cosines)[t] for t in group]
        rows = [order.index(t) + (-0.18 if prompts else 0.18) for t in group]
        _draw(ax, interactive, found, rows, label, colour, symbol)
    if all(groups):
        ax.axhline(len(groups[0]) - 0.5, color="black", lw=0.5)
        interactive.add_hline(y=len(groups[0]) - 0.5, line={"color": "black", "width": 0.5})
    ax.axvline(0, color="#777777", lw=0.8, zorder=1)
    ax.set_yticks(range(len(order)), order)
    xlabel = f"{title} (right: towards the Assistant)"
    ax.set(xlim=(-1, 1), xlabel=xlabel)
    _legend(ax, interactive, contrast_limit)
    interactive.update_layout(
        height=260 + 42 * len(order), xaxis={"title": xlabel, "range": [-1, 1]},
        yaxis={"tickvals": list(range(len(order))), "ticktext": order},
    )  # fmt: skip
    words = "; ".join(f"{t} {cosines[t][0]:+.2f} (prompts alone {controls[t][0]:+.2f})" for t in reversed(order))
    chance = f"95 % of random contrasts of ordinary answers lie within ±{contrast_limit:.2f}"
    show(fig, interactive, f"Points with intervals along a line, one row a trait: {title}. {words}. {chance}.")


def _draw(
    ax: Axes,
    interactive: go.Figure,
    found: Sequence[Cosine],
    rows: Sequence[float],
    label: str,
    colour: str,
    marker: str,
) -> None:
    if not found:
        return
    x, low, high = (list(v) for v in zip(*found, strict=True))
    less, more = [a - b for a, b in zip(x, low, strict=True)], [b - a for a, b in zip(x, high, strict=True)]
    hollow = marker == "s"
    ax.errorbar(x, rows, xerr=(less, more), ls="", color=colour, marker=marker, mfc="white" if hollow else colour,
                capsize=3, label=label, zorder=3)  # fmt: skip
    symbol = {"o": "circle", "^": "triangle-up", "s": "square-open"}[marker]
    interactive.add_scatter(
        x=x, y=rows, mode="markers", name=label, marker={"color": colour, "symbol": symbol, "size": 9},
        error_x={"type": "data", "symmetric": False, "array": more, "arrayminus": less},
    )  # fmt: skip


def _chance(ax: Axes, interactive: go.Figure, limits: Sequence[float], contrast_limit: float) -> None:
    """What chance reaches: a grey band a row, and dashed lines for all."""
    for row, limit in enumerate(limits):
        ax.barh(row, 2 * limit, left=-limit, height=0.8, color=BAND, zorder=0)
        interactive.add_shape(type="rect", x0=-limit, x1=limit, y0=row - 0.4, y1=row + 0.4, fillcolor=BAND,
                              line_width=0, layer="below")  # fmt: skip
    for limit in (-contrast_limit, contrast_limit):
        ax.axvline(limit, color="black", ls="--", lw=1, zorder=1)
        interactive.add_vline(x=limit, line={"color": "black", "dash": "dash", "width": 1})


def _legend(ax: Axes, interactive: go.Figure, contrast_limit: float) -> None:
    band = "95 % of random halves of the trait's own readings"
    line = f"95 % of contrasts of ordinary answers: ±{contrast_limit:.2f}"
    handles, labels = ax.get_legend_handles_labels()
    handles += [Patch(color=BAND), Line2D([], [], color="black", ls="--", lw=1)]
    ax.legend(handles, [*labels, band, line], frameon=False, fontsize=8, ncols=2, loc="upper center",
              bbox_to_anchor=(0.45, -0.14))  # fmt: skip
    interactive.add_scatter(x=[None], y=[None], mode="markers", name=band, marker={"color": BAND, "symbol": "square"})
    interactive.add_scatter(x=[None], y=[None], mode="lines", name=line, line={"color": "black", "dash": "dash"})
