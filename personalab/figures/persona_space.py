"""Figures of Section 1: personas in a plane, along a line, and their similarities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from personalab.figures.base import COLOURS, MARKERS, PALETTE, PLOTLY_MARKERS, show
from personalab.figures.labels import place_labels

CELLS_WITH_NUMBERS = 12  # names up to which a heatmap has room for a number in each cell
ROWS_WITH_NAMES = 80  # rows up to which a line names every one; beyond, the ends
ENDS = 20  # rows named at each end of a longer line
PERSONA_GROUPS = ("default", "assistant-like", "mid-range", "fantastical")
Style = tuple[str, str, str]


def group_styles(
    groups: Mapping[str, Sequence[str]], known: Mapping[str, object]
) -> Iterator[tuple[tuple[str, list[str]], Style]]:
    """Each non-empty group, restricted to known names, with its colour and its markers (Matplotlib's and Plotly's).

    A group of personas looks the same everywhere, "new, mid-range" like "mid-range". Other groups take what is left.
    """
    named = [g for g in groups if g.removeprefix("new, ") in PERSONA_GROUPS]
    free = len(PERSONA_GROUPS) if named else 0
    for group, members in groups.items():
        present = [m for m in members if m in known]
        key = group.removeprefix("new, ")
        if group in named:
            number, colour = PERSONA_GROUPS.index(key), COLOURS[key]
        else:
            number, colour = free % len(MARKERS), COLOURS["control"] if named else PALETTE[free % len(PALETTE)]
            free += 1
        if present:
            yield (group, present), (colour, MARKERS[number], PLOTLY_MARKERS[number])


def plot_similarity_matrix(
    matrix: Float[Tensor, "p p"], names: Sequence[str], title: str, groups: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Heatmap of cosine similarities; colours span the values off the diagonal, which is left white (it is always 1).

    Args:
        groups: names by group, in the order of `names`; lines are drawn between them.
    """
    values = np.asarray(matrix, dtype=float)
    off = np.where(np.eye(len(names), dtype=bool), np.nan, values)
    low, high = float(np.nanmin(off)), float(np.nanmax(off))
    label = f"cosine similarity, {low:.2f} to {high:.2f} between different ones"
    fig, ax = plt.subplots(figsize=(9, 8))
    ax.set_facecolor("white")
    image = ax.imshow(off, cmap="cividis", vmin=low, vmax=high)
    if len(names) <= CELLS_WITH_NUMBERS:
        for (row, column), value in np.ndenumerate(values):
            dark = row != column and value < (low + high) / 2
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if dark else "black")
    size = 7 if len(names) > CELLS_WITH_NUMBERS else 10
    ax.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    ax.set_yticks(range(len(names)), names, fontsize=size)
    starts = [names.index(m[0]) for m in (groups or {}).values() if m and m[0] in names]
    for start in starts:
        if start:
            ax.axhline(start - 0.5, color="white", lw=1.5)
            ax.axvline(start - 0.5, color="white", lw=1.5)
    ax.set_title(title)
    fig.colorbar(image, label=label, shrink=0.8)
    interactive = go.Figure(
        go.Heatmap(z=off, x=list(names), y=list(names), zmin=low, zmax=high, colorscale="cividis")
    ).update_layout(title=title, height=720, yaxis={"autorange": "reversed"}, plot_bgcolor="white")
    for start in filter(None, starts):
        interactive.add_hline(start - 0.5, line={"color": "white"})
        interactive.add_vline(start - 0.5, line={"color": "white"})
    show(fig, interactive, f"Heatmap: {title}, {len(names)} names; {label}.{_between(values, names, groups)}")


def _between(values: Float[np.ndarray, "p p"], names: Sequence[str], groups: Mapping[str, Sequence[str]] | None) -> str:
    """The mean similarity of neighbouring groups, in words."""
    rows = {g: [names.index(m) for m in members if m in names] for g, members in (groups or {}).items()}
    means = [f"{a} with {b} {values[np.ix_(rows[a], rows[b])].mean():.2f}" for a, b in pairwise(rows)]
    return f" Means: {', '.join(means)}." if means else ""


def plot_persona_space(
    coords: Float[np.ndarray, "p 2"],
    names: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    explained: Sequence[float],
    axis_direction: Float[np.ndarray, "2"] | None = None,
) -> None:
    """Personas in the plane of the first two principal components, coloured by group.

    Args:
        groups: names by group; names in no group are not drawn.
        explained: share of variance of both components.
        axis_direction: the Assistant Axis in this plane, drawn as an arrow towards the Assistant.
    """
    coords = np.asarray(coords, dtype=float)
    where = {name: xy for name, xy in zip(names, coords, strict=True)}
    fig, ax = plt.subplots(figsize=(10, 7))
    interactive, drawn, ends = go.Figure(), [], []
    for (group, members), (colour, marker, symbol) in group_styles(groups, where):
        xy = np.array([where[m] for m in members])
        drawn += members
        ends.append(f"{group} around ({xy[:, 0].mean():.1f}, {xy[:, 1].mean():.1f})")
        ax.scatter(xy[:, 0], xy[:, 1], c=colour, marker=marker, label=f"{group} (n = {len(members)})", s=40, zorder=2)
        interactive.add_scatter(
            x=xy[:, 0], y=xy[:, 1], text=members, mode="markers", name=group, hovertemplate="%{text}",
            marker={"color": colour, "symbol": symbol, "size": 10},
        )  # fmt: skip
    labels = [f"PC{i + 1} ({share:.0%} of the variance)" for i, share in enumerate(explained[:2])]
    ax.set(xlabel=labels[0], ylabel=labels[1])
    ax.axhline(0, color="#dddddd", zorder=0)
    ax.axvline(0, color="#dddddd", zorder=0)
    ax.margins(0.08)
    if axis_direction is not None:
        _draw_axis(ax, interactive, np.asarray(axis_direction, dtype=float), 0.8 * np.abs(coords).max())
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(ends) or 1)
    place_labels(ax, np.array([where[m] for m in drawn]), drawn)
    interactive.update_layout(height=600, xaxis_title=labels[0], yaxis_title=labels[1])
    show(fig, interactive, f"Scatter plot of {len(drawn)} personas on {labels[0]} and {labels[1]}: {'; '.join(ends)}.")


def _draw_axis(ax: Axes, interactive: go.Figure, direction: Float[np.ndarray, "2"], length: float) -> None:
    tip = direction / np.linalg.norm(direction) * length
    ax.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "->", "color": "black"}, zorder=1)
    ax.annotate("Assistant Axis", tip / 2, xytext=(0, 5), textcoords="offset points", ha="center", fontsize=9)
    interactive.add_annotation(x=tip[0], y=tip[1], ax=0, ay=0, axref="x", ayref="y", arrowhead=2, text="Assistant Axis")


def plot_similarity_line(
    similarities: Mapping[str, float],
    groups: Mapping[str, Sequence[str]] | None = None,
    title: str = "cosine similarity with the Assistant Axis",
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Names laid along a line from -1 to 1 by their similarity with an axis, one row each, ascending upwards.

    Long lines name the lowest and the highest only. A dashed line marks the mean of the group "default", if there is
    one.

    Args:
        groups: names by group, for the colours (default: one group).
        intervals: 95 % intervals `(low, high)` by name, drawn as bars.
    """
    order = sorted(similarities, key=lambda name: similarities[name])
    height = dict(zip(order, _heights(len(order)), strict=True))
    named = order if len(order) <= ROWS_WITH_NAMES else [*order[:ENDS], *order[-ENDS:]]
    fig, ax = plt.subplots(figsize=(8, max(2.5, 0.19 * max(height.values(), default=0) + 0.5)))
    interactive = go.Figure()
    for (group, members), (colour, marker, symbol) in group_styles(groups or {"all": order}, similarities):
        x, y = [similarities[m] for m in members], [height[m] for m in members]
        bars = [(intervals or {}).get(m, (similarities[m],) * 2) for m in members]
        label = f"{group} (n = {len(members)})" if groups else None
        ax.scatter(x, y, c=colour, marker=marker, label=label, s=28, zorder=3)
        ax.hlines(y, [b[0] for b in bars], [b[1] for b in bars], colors=colour, lw=1)
        interactive.add_scatter(
            x=x, y=y, text=members, mode="markers", name=group, hovertemplate="%{text} %{x:.2f}",
            showlegend=bool(groups), marker={"color": colour, "symbol": symbol},
            error_x={
                "type": "data", "symmetric": False, "thickness": 1,
                "array": [b[1] - v for b, v in zip(bars, x, strict=True)],
                "arrayminus": [v - b[0] for b, v in zip(bars, x, strict=True)],
            },
        )  # fmt: skip
    _line_limits(ax, interactive, [similarities[m] for m in (groups or {}).get("default", ()) if m in similarities])
    ax.set_yticks([height[name] for name in named], named, fontsize=7)
    ax.set_xlabel(title + (", with 95 % intervals" if intervals else ""))
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    interactive.update_layout(
        height=max(320, int(18 * max(height.values(), default=0))), xaxis_title=title,
        xaxis={"range": [-1.05, 1.05]},
        yaxis={"tickvals": [height[name] for name in named], "ticktext": named, "tickfont": {"size": 9}},
    )  # fmt: skip
    ends = f"from {order[0]} ({similarities[order[0]]:.2f}) to {order[-1]} ({similarities[order[-1]]:.2f})"
    bars_said = ", with 95 % intervals" if intervals else ""
    show(fig, interactive, f"Points along a line from -1 to 1: {title}, {len(order)} names, {ends}{bars_said}.")


def _heights(n: int) -> list[float]:
    """Rows 1 apart, or, where there are too many to name, those between the named ends 0.2 apart."""
    if n <= ROWS_WITH_NAMES:
        return [float(i) for i in range(n)]
    steps = [1.0 if i <= ENDS or i >= n - ENDS else 0.2 for i in range(1, n)]
    return [0.0, *np.cumsum(steps).tolist()]


def _line_limits(ax: Axes, interactive: go.Figure, defaults: Sequence[float]) -> None:
    """The ends of the scale, its middle, and the mean of the defaults."""
    ax.set_xlim(-1.05, 1.05)
    for x, text in ((-1, "opposite"), (0, "unrelated"), (1, "same direction")):
        ax.axvline(x, color="#cccccc", zorder=0)
        ax.annotate(text, (x, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
                    ha="center", fontsize=8, color="#555555")  # fmt: skip
        interactive.add_vline(x, line={"color": "#cccccc"})
    if defaults:
        mean = float(np.mean(defaults))
        ax.axvline(mean, color="black", ls="--", lw=1, zorder=1, label=f"mean of the defaults, {mean:.2f}")
        interactive.add_vline(mean, line={"color": "black", "dash": "dash"}, annotation_text="mean of the defaults")
