"""Figures of Section 2 that judge caps: what each setting buys and costs, and what its parts do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from matplotlib.axes import Axes
from plotly.subplots import make_subplots
from scipy.stats import binomtest

from personalab.figures.assistant_axis import BESIDE, DASHES, Style
from personalab.figures.base import COLOURS, MARKERS, PLOTLY_MARKERS, show


def plot_tradeoff(rows: Sequence[Mapping[str, Any]], chosen: str, strongest: str = "", max_ratio: float = 1.05) -> None:
    """Share out of persona against what perplexity grows by: a line for each run of blocks, through its percentiles.

    Args:
        rows: of a capping sweep (`personalab.studies.capping.sweep`).
        chosen: id of the setting that is ringed; `strongest` gets a square around it.
        max_ratio: the most that perplexity may grow; drawn as a limit, beside the half of the plain share.
    """
    plain = next(r for r in rows if r["id"] == "plain")
    points = {r["id"]: (100 * (r["perplexity"] / plain["perplexity"] - 1), r["out_of_persona"]) for r in rows}
    fig, ax = plt.subplots(figsize=(7, 4.5))
    interactive = go.Figure()
    for place, (name, ids) in enumerate(_groups([*points]).items()):
        styles = {"plain": Style(COLOURS["plain"], "-", place), "steer": Style("#000000", ":", place)}
        style = styles.get(name.partition("ing")[0], Style(COLOURS["treated"], "-", place))
        _tradeoff_line(ax, interactive, name, {i: points[i] for i in ids}, plain["n"], style)
    limit, half = 100 * (max_ratio - 1), plain["out_of_persona"] / 2
    ax.axvline(limit, color="black", ls="--", lw=1, label=f"limit: {limit:.0f} % more")
    ax.axhline(half, color="black", ls=":", lw=1, label="half of the plain share")
    interactive.add_vline(x=limit, line={"dash": "dash"}, annotation_text=f"limit: {limit:.0f} % more")
    interactive.add_hline(y=half, line={"dash": "dot"}, annotation_text="half of the plain share")
    for ident, marker, what in ((chosen, "o", "chosen"), (strongest, "s", "strongest within the limits")):
        if ident in points:
            ax.scatter(*points[ident], s=190, marker=marker, c="none", edgecolors="black", label=what, zorder=3)
    labels = ("growth of perplexity of prose, % (square-root scale)", f"share out of persona, n = {plain['n']} a point")
    ax.set_xscale("function", functions=(lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: np.sign(x) * x**2))
    ax.set(xlabel=labels[0], ylabel=labels[1], ylim=(0, None), xlim=(-0.2, None), xticks=(0, 1, 2, 5, 10, 20, 30))
    ax.legend(title="a cap's line: 25th, 50th,\n75th percentile from the left", title_fontsize=8, **BESIDE)
    interactive.update_layout(height=480, xaxis_title="growth of perplexity, %", yaxis_title=labels[1])
    x, y = points[chosen]
    alt = f"{len(rows)} settings by effect and cost, with 95 % intervals; plain: {plain['out_of_persona']:.0%} out of"
    show(fig, interactive, f"{alt} persona; the chosen cap, {chosen}: {y:.0%}, perplexity {x:.1f} % higher.")


def _groups(ids: Sequence[str]) -> dict[str, list[str]]:
    """A sweep's settings by what they do: nothing, a cap at a run of blocks, steering."""
    found: dict[str, list[str]] = {}
    for ident in ids:
        where, name = ident.rpartition("-")[0], ident
        if where.startswith("layers_"):
            first, _, end = where.removeprefix("layers_").partition(":")
            name = f"cap, blocks {first} to {int(end) - 1}"
        elif where.startswith("steer_"):
            name = f"steering, block {where.removeprefix('steer_')}: 0.5 to 2 gaps"
        found.setdefault(name, []).append(ident)
    return found


def _tradeoff_line(
    ax: Axes, interactive: go.Figure, name: str, points: Mapping[str, tuple[float, float]], n: int, style: Style
) -> None:
    """One group's points with Wilson intervals, joined in their order."""
    x, y = zip(*points.values(), strict=True)
    below, above = wilson_margins(y, [n] * len(y))
    look: dict[str, Any] = {"color": style.colour, "ls": style.line, "marker": MARKERS[style.marker], "lw": 1, "ms": 5}
    ax.errorbar(x, y, yerr=[below, above], label=name, ecolor=style.colour + "40", **look)
    interactive.add_scatter(
        x=x, y=y, text=[*points], mode="lines+markers", name=name,
        error_y={"symmetric": False, "array": above, "arrayminus": below, "thickness": 0.5},
        line={"color": style.colour, "dash": DASHES[style.line]},
        marker={"symbol": PLOTLY_MARKERS[style.marker], "size": 8},
    )  # fmt: skip


def wilson_margins(shares: Sequence[float], counts: Sequence[int]) -> tuple[list[float], list[float]]:
    """How far the 95 % Wilson interval of each share reaches below and above it.

    >>> [margins[0] for margins in wilson_margins([0.0], [10])][0]
    0.0
    """
    found = [binomtest(round(s * n), n).proportion_ci(method="wilson") for s, n in zip(shares, counts, strict=True)]
    below = [max(0.0, s - ci.low) for s, ci in zip(shares, found, strict=True)]
    return below, [max(0.0, ci.high - s) for s, ci in zip(shares, found, strict=True)]


def plot_ablation(outcomes: Mapping[str, Float[np.ndarray, "n"]], removed: Mapping[str, float], label: str) -> None:
    """Shares of 0/1 outcomes by variant, with 95 % Wilson intervals, and beside them what each variant removes.

    Args:
        outcomes: the first one is plain, the second the variant that the others are compared with.
        removed: mean norm that all caps together remove from a token; 0 for plain.
    """
    names, place = list(outcomes), np.arange(len(outcomes))[::-1]
    shares, n = [float(v.mean()) for v in outcomes.values()], [len(v) for v in outcomes.values()]
    below, above = wilson_margins(shares, n)
    fig, (left, right) = plt.subplots(1, 2, figsize=(8, 0.8 + 0.36 * len(names)), sharey=True, width_ratios=(2, 1))
    interactive = make_subplots(rows=1, cols=2, shared_yaxes=True, column_widths=[0.66, 0.34])
    colours = [COLOURS["plain"], *[COLOURS["treated"]] * (len(names) - 1)]
    for i, name in enumerate(names):
        left.errorbar(
            shares[i], place[i], xerr=[[below[i]], [above[i]]], color=colours[i], fmt=MARKERS[i == 0], capsize=3
        )
        right.text(removed[name], place[i], f" {removed[name]:.1f}", va="center", fontsize=8)
    left.axvline(shares[1], color="black", ls="--", lw=1)
    right.barh(place, [removed[name] for name in names], color=COLOURS["treated"], height=0.5)
    right.set_xlim(0, 1.25 * max(removed.values()) or 1)
    left.set(yticks=place, yticklabels=names, xlim=(0, 1), xlabel=f"{label}, n = {n[0]} each (dashed: {names[1]})")
    right.set_xlabel("removed a token, all blocks")
    spread = {"symmetric": False, "array": above, "arrayminus": below}
    interactive.add_scatter(x=shares, y=names, error_x=spread, mode="markers", marker={"color": colours}, row=1, col=1)
    interactive.add_bar(
        x=[removed[name] for name in names],
        y=names,
        orientation="h",
        marker={"color": COLOURS["treated"]},
        row=1,
        col=2,
    )
    interactive.update_yaxes(autorange="reversed")
    interactive.update_layout(height=140 + 36 * len(names), showlegend=False)
    interactive.update_xaxes(title_text=label, range=[0, 1], row=1, col=1)
    interactive.update_xaxes(title_text="removed a token", row=1, col=2)
    each = "; ".join(f"{name} {s:.0%}, removes {removed[name]:.1f}" for name, s in zip(names, shares, strict=True))
    show(fig, interactive, f"Dots with intervals, and bars. {label}, n = {n[0]} each: {each}.")
