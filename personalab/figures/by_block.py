"""Figures over a model's blocks: lines with intervals, one panel a trait, and a mark at the block that was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from plotly.subplots import make_subplots

from personalab.figures.base import COLOURS, MARKERS, PALETTE, PLOTLY_MARKERS, show
from personalab.measure.separation import Curve

_DASHES = (("-", "solid"), ("--", "dash"), (":", "dot"), ("-.", "dashdot"))  # matplotlib's and Plotly's names
_INTERVALS = 10  # at most so many a curve: more of them cover the lines


def plot_by_block(
    panels: Mapping[str, Mapping[str, Curve]],
    ylabel: str,
    *,
    blocks: Sequence[int] | None = None,
    chosen: Mapping[str, int] | None = None,
    chosen_name: str = "chosen",
    reference: float | None = None,
    reference_name: str = "",
    colours: Mapping[str, str] | None = None,
    title: str = "",
) -> None:
    """One panel a trait, one line a curve, each with a marker and a dash of its own; intervals at some of the blocks.

    Args:
        panels: curves by name, by panel; the same names in every panel.
        blocks: block of each entry of the curves (default: 0, 1, 2, …).
        chosen: block to mark in a panel; `chosen_name` says in the legend why.
        reference: height of a dashed line (0.5 for an AUC); `reference_name` says in the legend what it is.
        colours: what each curve is in `base.COLOURS`; without it a curve of that name has its colour, or one of the
            palette.
    """
    width = max(6.0, 3.4 * len(panels))
    fig, axes = plt.subplots(1, len(panels), figsize=(width, 4.0), sharey=True, squeeze=False, layout="constrained")
    interactive = make_subplots(rows=1, cols=len(panels), shared_yaxes=True, subplot_titles=list(panels))
    for col, (panel, curves) in enumerate(panels.items()):
        ax = axes[0, col]
        _draw_curves(ax, interactive, col, curves, blocks, colours or {})
        if chosen and panel in chosen:
            ax.axvline(chosen[panel], color="black", lw=1.2, ls=(0, (1, 3)), label=chosen_name, zorder=0)
            note = {"text": chosen_name, "font": {"size": 10}}
            line = {"color": "black", "dash": "dot"}
            interactive.add_vline(x=chosen[panel], line=line, row=1, col=col + 1, annotation=note)
        if reference is not None:
            ax.axhline(reference, color="black", lw=0.8, ls="--", label=reference_name, zorder=0)
            interactive.add_hline(y=reference, line={"dash": "dash", "width": 1}, row=1, col=col + 1)
        ax.set(title=panel, xlabel="block")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].set_ylabel(ylabel)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 3), frameon=False, handlelength=4)
    fig.suptitle(title)
    interactive.update_xaxes(title_text="block")
    interactive.update_yaxes(title_text=ylabel, row=1, col=1)
    interactive.update_layout(title=title, height=460)
    what = f"{title}: {ylabel} by block." if title else f"{ylabel}, by block."
    show(fig, interactive, _words(panels, blocks, chosen, chosen_name, what))


def _draw_curves(
    ax: Axes,
    interactive: go.Figure,
    col: int,
    curves: Mapping[str, Curve],
    blocks: Sequence[int] | None,
    colours: Mapping[str, str],
) -> None:
    styles = zip(cycle(PALETTE), cycle(MARKERS), cycle(PLOTLY_MARKERS), cycle(_DASHES), strict=False)
    for i, (name, curve) in enumerate(curves.items()):
        colour, marker, symbol, (ls, dash) = next(styles)
        colour = COLOURS.get(colours.get(name, name), colour)
        x = [float(block) for block in (range(len(curve.value)) if blocks is None else blocks)]
        every, first = _shown(curve, i, len(curves))
        if every == 1 and i:  # no two curves' intervals on one another
            x = [block + 0.12 * i * (x[-1] - x[0]) / len(x) for block in x]
        errors = np.maximum(0, [curve.value - curve.low, curve.high - curve.value])  # (2, blocks)
        ax.errorbar(
            x, curve.value, yerr=errors if errors.any() else None, errorevery=(first, every), markevery=(first, every),
            color=colour, ls=ls, lw=1.6, marker=marker, ms=5, mfc="white" if i % 2 else colour, elinewidth=1,
            capsize=3, label=name,
        )  # fmt: skip
        low, high = np.where(np.arange(len(x)) % every == first, errors, 0)
        interactive.add_scatter(
            x=x, y=curve.value, name=name, legendgroup=name, showlegend=col == 0, mode="lines+markers",
            line={"color": colour, "dash": dash}, row=1, col=col + 1,
            marker={"symbol": f"{symbol}-open" if i % 2 else symbol, "size": 6},
            error_y={"type": "data", "symmetric": False, "thickness": 1, "array": high, "arrayminus": low},
            customdata=np.stack([curve.low, curve.high], axis=1),
            hovertemplate="block %{x}: %{y:.2f} [%{customdata[0]:.2f}, %{customdata[1]:.2f}]",
        )  # fmt: skip


def _shown(curve: Curve, i: int, n_curves: int) -> tuple[int, int]:
    """Which of a curve's points have a marker and an interval: every so many, from the first of them."""
    n = len(curve.value)
    if n > 1 and np.ptp(curve.value) == 0:  # a level: one will do
        return n, n // 2
    every = -(-n // _INTERVALS)  # rounded up
    return every, (1 + i * every // n_curves) % every


def _words(
    panels: Mapping[str, Mapping[str, Curve]],
    blocks: Sequence[int] | None,
    chosen: Mapping[str, int] | None,
    chosen_name: str,
    what: str,
) -> str:
    """What the figure shows, for readers who cannot see it: the range and the highest point of every curve."""
    parts = []
    for panel, curves in panels.items():
        peaks = []
        for name, curve in curves.items():
            best, least = int(curve.value.argmax()), curve.value.min()
            at = blocks[best] if blocks else best
            if curve.value[best] == least:
                peaks.append(f"{name} lies at {least:.2f}")
            else:
                peaks.append(
                    f"{name} peaks at block {at} with {curve.value[best]:.2f} and is nowhere under {least:.2f}"
                )
        mark = f"; {chosen_name}: block {chosen[panel]}" if chosen and panel in chosen else ""
        parts.append(f"{panel}: {', '.join(peaks)}{mark}")
    return f"Lines with intervals. {what} " + "; ".join(parts) + "."
