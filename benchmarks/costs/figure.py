"""The committed results as one picture of small panels, `benchmarks/results/costs.svg`."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from benchmarks.costs.fit import growth
from benchmarks.costs.table import RESULTS, TITLES, Results
from personalab.figures.base import COLOURS, PALETTE

PICTURE = RESULTS.with_suffix(".svg")
COLUMNS = 4
_SETTINGS = {"svg.hashsalt": "costs", "svg.fonttype": "none", "font.size": 7, "font.sans-serif": ["DejaVu Sans"]}


def draw(results: Results) -> None:
    """A panel a quantity: seconds against size, logarithmic, with what the rounds span and a line as it should be."""
    found = [(q, part) for part in TITLES if part in results for q in results[part]["quantities"].values()]
    rows = -(-(len(found) + ("server" in results)) // COLUMNS)
    with plt.rc_context(_SETTINGS):
        figure, axes = plt.subplots(rows, COLUMNS, figsize=(10, 1.9 * rows), squeeze=False, layout="constrained")
        panels = iter(axes.flat)
        for quantity, part in found:
            _panel(next(panels), quantity, COLOURS["plain" if part == "engine" else "treated"])
        if "server" in results:
            _server(next(panels), results["server"])
        for empty in panels:
            empty.set_axis_off()
        for left in axes[:, 0]:
            left.set_ylabel("seconds")
        figure.savefig(PICTURE, metadata={"Date": None, "Creator": None})
        plt.close(figure)


def _panel(ax: Axes, quantity: Results, colour: str) -> None:
    sizes, seconds = np.array(quantity["sizes"]), np.array(quantity["processor"])
    middle = np.median(seconds, axis=1)
    errors = np.abs(np.stack([seconds.min(axis=1), seconds.max(axis=1)]) - middle)
    ax.errorbar(sizes, middle, yerr=errors, fmt="o", ms=3, capsize=2, color=colour)
    fit = growth(quantity["sizes"], quantity["processor"])
    along = np.geomspace(sizes[0], sizes[-1], 12)
    ax.plot(along, fit.fixed + fit.each * along, color=colour, lw=1)
    ax.plot(along, middle[-1] * (along / sizes[-1]) ** quantity["should"], "--", color="black", lw=0.8)
    _dress(ax, quantity["title"], quantity["unit"], sizes)
    ax.set_ylim(middle.min() / 2, 4 * middle.max())  # room for the words above
    ax.text(
        0.04,
        0.94,
        f"exponent {fit.exponent[0]:.2f}, at the end {fit.at_the_end[0]:.2f}",
        transform=ax.transAxes,
        va="top",
    )


def _server(ax: Axes, part: Results) -> None:
    workers, rates = np.array(part["workers"]), np.array(part["rate"])
    middle = np.median(rates, axis=1)
    errors = np.abs(np.stack([rates.min(axis=1), rates.max(axis=1)]) - middle)
    ax.errorbar(workers, middle, yerr=errors, fmt="s", ms=3, capsize=2, color=PALETTE[3])
    ax.plot(workers, workers / part["delay"], "--", color="black", lw=0.8)
    _dress(ax, "calls a second to a server", "calls in flight", workers)


def _dress(ax: Axes, title: str, unit: str, sizes: np.ndarray) -> None:
    ax.set(xscale="log", yscale="log", xlabel=unit)
    ax.set_title(title, fontsize=7)
    ax.set_xticks(sizes, [f"{s:,}" for s in sizes])
    ax.minorticks_off()
