"""Figures of finetuning: shift against later score, what prevents it, what tells bad rows beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from plotly.subplots import make_subplots

from personalab.figures.base import COLOURS, MARKERS, PLOTLY_MARKERS, show


class Panel(NamedTuple):
    """One trait: shift and later score of every finetune, which sets are of its own category, and a line of text."""

    shift: Float[np.ndarray, "n"]
    score: Float[np.ndarray, "n"]
    own: Bool[np.ndarray, "n"]
    text: str


class Bar(NamedTuple):
    """A value with its interval, and on how many units it rests."""

    value: float
    low: float
    high: float
    n: int


def shifts_figure(
    panels: Mapping[str, Panel], names: Sequence[str], versions: Sequence[str], fresh: Sequence[bool]
) -> tuple[Figure, go.Figure, str]:
    """Score after finetuning over the shift before the answer, a panel a trait and a point a dataset.

    Args:
        names: of the datasets' categories.
        versions: of the datasets: each has a marker.
        fresh: which were trained in this run (ringed in black); the others are recorded.

    Returns:
        The static figure, the interactive one, and what they show in words.
    """
    kinds = list(dict.fromkeys(versions))
    fig, axes = plt.subplots(1, len(panels), figsize=(4.3 * len(panels), 4), sharey=True, squeeze=False)
    interactive = make_subplots(rows=1, cols=len(panels), shared_yaxes=True, subplot_titles=list(panels))
    ringed = np.array(fresh, dtype=bool)
    for col, (trait, panel) in enumerate(panels.items()):
        ax = axes[0, col]
        for k, kind in enumerate(kinds):
            for own in (False, True):
                for new in (False, True):
                    here = (np.array(versions) == kind) & (panel.own == own) & (ringed == new)
                    if not here.any():
                        continue
                    colour = COLOURS[trait] if own else COLOURS["control"]
                    edge = "black" if new else "white"
                    ax.scatter(panel.shift[here], panel.score[here], c=colour, marker=MARKERS[k], edgecolors=edge, s=55)
                    interactive.add_trace(
                        go.Scatter(
                            x=panel.shift[here], y=panel.score[here], mode="markers", showlegend=False,
                            text=[f"{names[i]}, {versions[i]}" for i in np.flatnonzero(here).tolist()],
                            marker={"color": colour, "symbol": PLOTLY_MARKERS[k], "size": 9,
                                    "line": {"color": edge, "width": 1}},
                        ),
                        row=1, col=col + 1,
                    )  # fmt: skip
        ax.set_title(f"{trait}\n{panel.text}", fontsize=10)
        ax.set_xlabel("shift along the trait vector")
        interactive.update_xaxes(title_text="shift along the trait vector", row=1, col=col + 1)
    axes[0, 0].set_ylabel("trait score after finetuning (0-100)")
    handles = [Line2D([], [], ls="", marker=m, color="black") for m in MARKERS[: len(kinds)]]
    labels = [*kinds, "grey: another trait's or a narrow category", "ringed: this run"]
    handles += [Line2D([], [], ls="", marker="o", color=COLOURS["control"])]
    handles += [Line2D([], [], ls="", marker="o", color="white", markeredgecolor="black")]
    fig.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False, bbox_to_anchor=(0.5, -0.08))
    interactive.update_layout(height=430)
    words = "; ".join(f"{trait}: {panel.text}" for trait, panel in panels.items())
    plt.close(fig)
    return (
        fig,
        interactive,
        f"Scatter of {len(names)} finetunes, trait score afterwards over the shift of the last prompt token. {words}. "
        f"Sets of the trait's own category are coloured; {int(ringed.sum())} points, ringed, are of this run.",
    )


def plot_shifts(
    panels: Mapping[str, Panel], names: Sequence[str], versions: Sequence[str], fresh: Sequence[bool]
) -> None:
    """Show `shifts_figure`."""
    show(*shifts_figure(panels, names, versions, fresh))


def plot_bars(
    groups: Mapping[str, Mapping[str, Bar]], xlabels: Mapping[str, str], reference: str, at: float | None = None
) -> None:
    """Horizontal bars with intervals, a panel a quantity and a row a condition.

    Args:
        groups: quantity -> condition -> value; conditions are alike in all.
        reference: the condition at whose value a dashed line stands.
        at: where it stands instead; `reference` is then what to call it.
    """
    fig, axes = plt.subplots(1, len(groups), figsize=(4.4 * len(groups), 4.2), sharey=True, squeeze=False)
    interactive = make_subplots(rows=1, cols=len(groups), shared_yaxes=True, subplot_titles=list(groups))
    for col, (title, bars) in enumerate(groups.items()):
        ax, names = axes[0, col], list(bars)[::-1]
        values = np.array([bars[n].value for n in names])
        errors = np.array([[bars[n].value - bars[n].low, bars[n].high - bars[n].value] for n in names]).T.clip(min=0)
        colours = [COLOURS["plain"] if n in (reference, "before") else COLOURS["treated"] for n in names]
        ax.barh(names, values, xerr=errors, color=colours, capsize=3)
        ax.axvline(bars[reference].value if at is None else at, color="black", ls="--", lw=1)
        sizes = sorted({bar.n for bar in bars.values()})
        ax.set_title(f"{title} (n = {' to '.join(str(n) for n in dict.fromkeys((sizes[0], sizes[-1])))})", fontsize=10)
        ax.set_xlabel(xlabels[title])
        interactive.add_trace(
            go.Bar(
                x=values, y=names, orientation="h", showlegend=False, marker={"color": colours},
                error_x={"type": "data", "symmetric": False, "array": errors[1], "arrayminus": errors[0]},
                text=[f"n = {bars[n].n}" for n in names],
            ),
            row=1, col=col + 1,
        )  # fmt: skip
        interactive.update_xaxes(title_text=xlabels[title], row=1, col=col + 1)
    interactive.update_layout(height=460)
    fig.tight_layout()
    parts = [
        f"{title}: " + ", ".join(f"{n} {b.value:.3g} [{b.low:.3g}, {b.high:.3g}]" for n, b in bars.items())
        for title, bars in groups.items()
    ]
    show(fig, interactive, "Bars with 95 % intervals. " + ". ".join(parts) + f". Dashed: {reference}.")
