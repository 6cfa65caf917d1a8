"""Figures over a model's blocks: lines with bands, one panel a trait, and a mark at the block that was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from plotly.subplots import make_subplots

from personalab.figures.base import MARKERS, PALETTE, PLOTLY_MARKERS, show
from personalab.measure.separation import Curve


def plot_by_block(
    panels: Mapping[str, Mapping[str, Curve]],
    ylabel: str,
    *,
    blocks: Sequence[int] | None = None,
    chosen: Mapping[str, int] | None = None,
    reference: float | None = None,
    title: str = "",
) -> None:
    """One panel a trait, one line with its interval a curve.

    Args:
        panels: curves by name, by panel.
        blocks: block of each entry of the curves (default: 0, 1, 2, …).
        chosen: block to mark in a panel.
        reference: height of a dashed line (0.5 for an AUC).
    """
    fig, axes = plt.subplots(
        1, len(panels), figsize=(max(6.0, 3.9 * len(panels)), 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    interactive = make_subplots(rows=1, cols=len(panels), shared_yaxes=True, subplot_titles=list(panels))
    for col, (panel, curves) in enumerate(panels.items()):
        ax = axes[0, col]
        _draw_curves(ax, interactive, col, curves, blocks)
        if chosen and panel in chosen:
            ax.axvline(chosen[panel], color="black", lw=0.8, ls=":")
            interactive.add_vline(x=chosen[panel], line={"color": "black", "dash": "dot"}, row=1, col=col + 1)
        if reference is not None:
            ax.axhline(reference, color="#999999", lw=0.8, ls="--", zorder=0)
        ax.set_title(panel)
        ax.set_xlabel("block")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        interactive.update_xaxes(title_text="block", row=1, col=col + 1)
    axes[0, 0].set_ylabel(ylabel)
    axes[0, 0].legend(frameon=False, fontsize=8)
    if title:
        fig.suptitle(title)
    interactive.update_yaxes(title_text=ylabel, row=1, col=1)
    interactive.update_layout(title=title, width=320 * max(2, len(panels)), height=420, legend={"orientation": "h"})
    show(fig, interactive, f"{title or ylabel}, by block. " + _words(panels, blocks, chosen))


def _draw_curves(
    ax: Axes, interactive: go.Figure, col: int, curves: Mapping[str, Curve], blocks: Sequence[int] | None
) -> None:
    styles = zip(cycle(PALETTE), cycle(MARKERS), cycle(PLOTLY_MARKERS), strict=False)
    for (name, curve), (colour, marker, symbol) in zip(curves.items(), styles, strict=False):
        x = list(blocks if blocks is not None else range(len(curve.value)))
        ax.plot(x, curve.value, color=colour, marker=marker, ms=3, label=name)
        ax.fill_between(x, curve.low, curve.high, color=colour, alpha=0.18, lw=0)
        interactive.add_scatter(
            x=x, y=curve.value, name=name, legendgroup=name, showlegend=col == 0, mode="lines+markers",
            line={"color": colour}, marker={"symbol": symbol, "size": 5}, row=1, col=col + 1,
            error_y={
                "type": "data", "symmetric": False, "thickness": 0.7, "width": 0,
                "array": curve.high - curve.value, "arrayminus": curve.value - curve.low,
            },
        )  # fmt: skip


def _words(
    panels: Mapping[str, Mapping[str, Curve]], blocks: Sequence[int] | None, chosen: Mapping[str, int] | None
) -> str:
    """What the figure shows, for readers who cannot see it: the highest point of every curve."""
    parts = []
    for panel, curves in panels.items():
        peaks = []
        for name, curve in curves.items():
            best = int(curve.value.argmax())
            peaks.append(f"{name} peaks at block {blocks[best] if blocks else best} with {curve.value[best]:.2f}")
        mark = f"; chosen: block {chosen[panel]}" if chosen and panel in chosen else ""
        parts.append(f"{panel}: {', '.join(peaks)}{mark}")
    return "; ".join(parts) + "."
