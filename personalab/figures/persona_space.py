"""Figures of Section 1: personas in a plane, along a line, and their similarities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from personalab.figures.base import group_styles, show


def plot_similarity_matrix(matrix: Float[Tensor, "p p"], names: Sequence[str], title: str) -> None:
    """Heatmap of cosine similarities between personas, from -1 to 1."""
    values = np.asarray(matrix, dtype=float)
    limit = float(np.abs(values[~np.eye(len(names), dtype=bool)]).max())
    low = -limit if values.min() < 0 else float(values.min())
    fig, ax = plt.subplots(figsize=(9, 8))
    scale = "cividis" if low >= 0 else "PuOr"
    image = ax.imshow(values, cmap=scale, vmin=low, vmax=limit)
    ax.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    ax.set_yticks(range(len(names)), names, fontsize=7)
    ax.set_title(title)
    fig.colorbar(image, label="cosine similarity", shrink=0.8)
    interactive = go.Figure(
        go.Heatmap(z=values, x=list(names), y=list(names), zmin=low, zmax=limit, colorscale=scale)
    ).update_layout(title=title, width=760, height=720, yaxis={"autorange": "reversed"})
    show(fig, interactive, f"Heatmap: {title}. Off-diagonal values from {values.min():.2f} to {limit:.2f}.")


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
    fig, ax = plt.subplots(figsize=(9, 6))
    interactive = go.Figure()
    for (group, members), colour, marker, symbol in group_styles(groups, where):
        xy = np.array([where[m] for m in members])
        ax.scatter(xy[:, 0], xy[:, 1], c=colour, marker=marker, label=group, s=45)
        interactive.add_scatter(
            x=xy[:, 0], y=xy[:, 1], text=members, mode="markers+text", textposition="top center", name=group,
            marker={"color": colour, "symbol": symbol, "size": 10}, textfont={"size": 9},
        )  # fmt: skip
        for member in members:
            ax.annotate(member, where[member], fontsize=7, xytext=(3, 3), textcoords="offset points")
    if axis_direction is not None:
        _draw_axis(ax, interactive, np.asarray(axis_direction, dtype=float), 0.8 * np.abs(coords).max())
    labels = [f"PC{i + 1} ({share:.0%} of the variance)" for i, share in enumerate(explained[:2])]
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    ax.axhline(0, color="#dddddd", zorder=0)
    ax.axvline(0, color="#dddddd", zorder=0)
    ax.legend(frameon=False)
    interactive.update_layout(width=860, height=600, xaxis_title=labels[0], yaxis_title=labels[1])
    show(fig, interactive, f"Scatter plot of {len(where)} personas on {labels[0]} and {labels[1]}.")


def _draw_axis(ax: Axes, interactive: go.Figure, direction: Float[np.ndarray, "2"], length: float) -> None:
    tip = direction / np.linalg.norm(direction) * length
    ax.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "->", "color": "black"})
    ax.annotate("Assistant Axis", tip / 2, xytext=(0, 5), textcoords="offset points", ha="center", fontsize=9)
    interactive.add_annotation(x=tip[0], y=tip[1], ax=0, ay=0, axref="x", ayref="y", arrowhead=2, text="Assistant Axis")


def plot_similarity_line(
    similarities: Mapping[str, float],
    groups: Mapping[str, Sequence[str]] | None = None,
    title: str = "cosine similarity with the Assistant Axis",
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Names laid along a line by their similarity with an axis, one row each, ascending upwards.

    Args:
        groups: names by group, for the colours (default: one group).
        intervals: `(low, high)` by name, drawn as bars.
    """
    order = sorted(similarities, key=lambda name: similarities[name])
    height = {name: i for i, name in enumerate(order)}
    fig, ax = plt.subplots(figsize=(8, max(2.5, 0.19 * len(order))))
    interactive = go.Figure()
    for (group, members), colour, marker, symbol in group_styles(groups or {"all": order}, similarities):
        x, y = [similarities[m] for m in members], [height[m] for m in members]
        bars = [(intervals or {}).get(m, (similarities[m],) * 2) for m in members]
        ax.scatter(x, y, c=colour, marker=marker, label=group, s=28, zorder=2)
        ax.hlines(y, [b[0] for b in bars], [b[1] for b in bars], colors=colour, lw=1)
        interactive.add_scatter(
            x=x, y=members, mode="markers", name=group, marker={"color": colour, "symbol": symbol},
            error_x={
                "type": "data", "symmetric": False, "thickness": 1,
                "array": [b[1] - v for b, v in zip(bars, x, strict=True)],
                "arrayminus": [v - b[0] for b, v in zip(bars, x, strict=True)],
            },
        )  # fmt: skip
    ax.set_yticks(range(len(order)), order, fontsize=7)
    ax.axvline(0, color="#cccccc", zorder=0)
    ax.set_xlabel(title)
    ax.legend(frameon=False, loc="lower right")
    interactive.update_layout(
        width=760, height=max(320, 18 * len(order)), xaxis_title=title,
        yaxis={"categoryorder": "array", "categoryarray": order, "tickfont": {"size": 9}, "dtick": 1},
    )  # fmt: skip
    ends = f"from {order[0]} ({similarities[order[0]]:.2f}) to {order[-1]} ({similarities[order[-1]]:.2f})"
    show(fig, interactive, f"{title}, {len(order)} names, {ends}.")
