"""The course's figures: a static picture, readable everywhere, and below it an interactive one where supported.

Colours are safe for colour-blind readers (Okabe and Ito's palette, the Viridis family).
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
from IPython.display import display
from jaxtyping import Float
from matplotlib.figure import Figure
from plotly.subplots import make_subplots
from scipy.stats import binomtest
from torch import Tensor

_PALETTE = ("#0072B2", "#E69F00", "#CC79A7", "#009E73", "#D55E00", "#56B4E9", "#999999")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_PLOTLY_MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")


def show(static: Figure, interactive: go.Figure, alt: str) -> None:
    """Display a figure as PNG and, below it, as Plotly; `alt` describes it where neither can be seen."""
    buffer = io.BytesIO()
    static.savefig(buffer, format="png", dpi=100, bbox_inches="tight", metadata={"Software": None})
    plt.close(static)
    picture = base64.b64encode(buffer.getvalue()).decode()
    plotly = json.loads(interactive.to_json())  # Plotly's own encoder knows its arrays
    # Two outputs: of one with both, JupyterLab shows only the picture, and Colab and GitHub know no Plotly.
    display({"image/png": picture, "text/plain": alt}, raw=True)
    display({"application/vnd.plotly.v1+json": plotly, "text/plain": f"(Interactive where supported.) {alt}"}, raw=True)


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
    for (group, members), colour, marker, symbol in _styles(groups, where):
        xy = np.array([where[m] for m in members])
        ax.scatter(xy[:, 0], xy[:, 1], c=colour, marker=marker, label=group, s=45)
        interactive.add_scatter(
            x=xy[:, 0], y=xy[:, 1], text=members, mode="markers+text", textposition="top center", name=group,
            marker={"color": colour, "symbol": symbol, "size": 10}, textfont={"size": 9},
        )  # fmt: skip
        for member in members:
            ax.annotate(member, where[member], fontsize=7, xytext=(3, 3), textcoords="offset points")
    if axis_direction is not None:
        tip = np.asarray(axis_direction, dtype=float)
        tip = tip / np.linalg.norm(tip) * np.abs(coords).max() * 0.8
        ax.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "->", "color": "black"})
        ax.annotate("Assistant Axis", tip / 2, xytext=(0, 5), textcoords="offset points", ha="center", fontsize=9)
        interactive.add_annotation(
            x=tip[0], y=tip[1], ax=0, ay=0, axref="x", ayref="y", arrowhead=2, text="Assistant Axis"
        )
    labels = [f"PC{i + 1} ({share:.0%} of the variance)" for i, share in enumerate(explained[:2])]
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    ax.axhline(0, color="#dddddd", zorder=0)
    ax.axvline(0, color="#dddddd", zorder=0)
    ax.legend(frameon=False)
    interactive.update_layout(width=860, height=600, xaxis_title=labels[0], yaxis_title=labels[1])
    show(fig, interactive, f"Scatter plot of {len(where)} personas on {labels[0]} and {labels[1]}.")


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
    for (group, members), colour, marker, symbol in _styles(groups or {"all": order}, similarities):
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


def plot_drift(
    projections: Mapping[str, Sequence[float]],
    risks: Mapping[str, Sequence[float]] | None = None,
    title: str = "Projection on the Assistant Axis, turn by turn",
) -> None:
    """One line a conversation over its assistant turns; below, the autorater's risk scores where there are any.

    Args:
        projections: higher = more like the Assistant.
        risks: 0 to 100, by conversation.
    """
    panels = [("projection (up: the Assistant)", projections)] + ([("risk, 0-100", risks)] if risks else [])
    fig, axes = plt.subplots(len(panels), figsize=(7, 1 + 2.6 * len(panels)), sharex=True, squeeze=False)
    interactive = make_subplots(rows=len(panels), cols=1, shared_xaxes=True)
    for row, (label, lines) in enumerate(panels):
        for (name, values), colour, marker, symbol in zip(
            lines.items(), cycle(_PALETTE), cycle(_MARKERS), cycle(_PLOTLY_MARKERS), strict=False
        ):
            turns = list(range(1, len(values) + 1))
            axes[row, 0].plot(turns, values, color=colour, marker=marker, label=name)
            interactive.add_scatter(
                x=turns, y=list(values), name=name, mode="lines+markers", showlegend=row == 0,
                line={"color": colour}, marker={"symbol": symbol}, row=row + 1, col=1,
            )  # fmt: skip
        axes[row, 0].set_ylabel(label)
        interactive.update_yaxes(title_text=label, row=row + 1, col=1)
    axes[-1, 0].set_xlabel("assistant turn")
    axes[0, 0].set_title(title)
    axes[0, 0].legend(frameon=False, fontsize=8)
    interactive.update_layout(title=title, width=760, height=140 + 260 * len(panels))
    ends = "; ".join(f"{name} from {v[0]:.1f} to {v[-1]:.1f}" for name, v in projections.items() if len(v))
    show(fig, interactive, f"{title}: {ends}.")


def plot_sweep(x: Sequence[float], panels: Mapping[str, Float[np.ndarray, "x n"]], xlabel: str) -> None:
    """Mean and 95 % interval of some scores over a sweep, one panel each, above one another.

    Args:
        panels: scores of single answers by label, one row a value of `x`.
    """
    fig, axes = plt.subplots(len(panels), figsize=(7, 0.6 + 2.2 * len(panels)), sharex=True, squeeze=False)
    interactive = make_subplots(rows=len(panels), cols=1, shared_xaxes=True)
    for row, ((label, values), colour) in enumerate(zip(panels.items(), cycle(_PALETTE), strict=False)):
        means = values.mean(axis=1)
        margins = 1.96 * values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
        axes[row, 0].errorbar(x, means, yerr=margins, color=colour, marker=_MARKERS[row], capsize=3)
        axes[row, 0].set_ylabel(label)
        interactive.add_scatter(
            x=list(x), y=means, error_y={"array": margins}, name=label, line={"color": colour}, row=row + 1, col=1
        )
        interactive.update_yaxes(title_text=label, row=row + 1, col=1)
    axes[-1, 0].set_xlabel(xlabel)
    interactive.update_layout(width=760, height=120 + 240 * len(panels), showlegend=False)
    interactive.update_xaxes(title_text=xlabel, row=len(panels), col=1)
    ends = "; ".join(f"{label} from {v[0].mean():.2f} to {v[-1].mean():.2f}" for label, v in panels.items())
    show(fig, interactive, f"Over {xlabel} from {x[0]} to {x[-1]}: {ends}.")


def plot_tradeoff(rows: Sequence[Mapping[str, Any]], chosen: str) -> None:
    """Share out of persona against perplexity, one point a setting of a capping sweep; the chosen one is ringed."""
    groups = {
        "plain": [r for r in rows if r["id"] == "plain"],
        "capped": [r for r in rows if r["id"].startswith("layers")],
        "steered": [r for r in rows if r["id"].startswith("steer")],
    }
    fig, ax = plt.subplots(figsize=(7.5, 4.5))
    interactive = go.Figure()
    styles = zip(groups.items(), _PALETTE, _MARKERS, _PLOTLY_MARKERS, strict=False)
    for (group, members), colour, marker, symbol in styles:
        x, y = [r["perplexity"] for r in members], [r["out_of_persona"] for r in members]
        ax.scatter(x, y, c=colour, marker=marker, label=group, s=36)
        for row in members:
            ax.annotate(row["id"].removeprefix("layers_"), (row["perplexity"], row["out_of_persona"]), fontsize=6)
        interactive.add_scatter(
            x=x, y=y, text=[r["id"] for r in members], mode="markers", name=group,
            marker={"color": colour, "symbol": symbol, "size": 9},
        )  # fmt: skip
    best = next(r for r in rows if r["id"] == chosen)
    ax.scatter([best["perplexity"]], [best["out_of_persona"]], s=180, facecolors="none", edgecolors="black")
    labels = ("perplexity of prose (left: no cost)", "share of answers out of persona")
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    ax.legend(frameon=False)
    interactive.update_layout(width=780, height=480, xaxis_title=labels[0], yaxis_title=labels[1])
    point = f"{best['out_of_persona']:.0%} out of persona at perplexity {best['perplexity']:.1f}"
    show(fig, interactive, f"{len(rows)} settings by effect and cost; the chosen one, {chosen}: {point}.")


def plot_rates(outcomes: Mapping[str, Float[np.ndarray, "n"]], label: str) -> None:
    """Shares of 0/1 outcomes by condition, as bars with 95 % Wilson intervals."""
    names, shares = list(outcomes), [float(v.mean()) for v in outcomes.values()]
    ranges = [binomtest(int(v.sum()), len(v)).proportion_ci(method="wilson") for v in outcomes.values()]
    errors = [
        [s - r.low for s, r in zip(shares, ranges, strict=True)],
        [r.high - s for s, r in zip(shares, ranges, strict=True)],
    ]
    colours = _PALETTE[: len(names)]
    fig, ax = plt.subplots(figsize=(6.5, 3.5))
    ax.bar(names, shares, yerr=errors, color=colours, capsize=4)
    ax.set_ylabel(label)
    interactive = go.Figure(
        go.Bar(
            x=names, y=shares, marker={"color": list(colours)},
            error_y={"type": "data", "symmetric": False, "array": errors[1], "arrayminus": errors[0]},
        )
    )  # fmt: skip
    interactive.update_layout(width=700, height=400, yaxis_title=label)
    show(fig, interactive, f"{label}: " + ", ".join(f"{n} {s:.0%}" for n, s in zip(names, shares, strict=True)) + ".")


def show_side_by_side(
    left: Sequence[Mapping[str, str]],
    right: Sequence[Mapping[str, str]],
    titles: tuple[str, str],
    note: str = "",
) -> None:
    """Two conversations with the same user turns, as a table. What the model wrote is escaped: it is untrusted text.

    Args:
        note: what to know before reading; the table is then folded behind it.
    """
    cell = "vertical-align:top;text-align:left;width:50%;white-space:pre-wrap;padding:6px"
    rows = ["<tr>" + "".join(f'<th style="text-align:left">{escape(title)}</th>' for title in titles) + "</tr>"]
    plain = []
    for a, b in zip(left, right, strict=True):
        if a["role"] == "user":
            said = f"<b>user</b> {escape(a['content'])}"
            rows.append(f'<tr><td colspan="2" style="{cell};background:#eee;color:#222">{said}</td></tr>')
            plain.append(f"user: {a['content']}")
        else:
            cells = "".join(f'<td style="{cell}">{escape(m["content"])}</td>' for m in (a, b))
            rows.append(f"<tr>{cells}</tr>")
            plain += [f"{title}: {m['content']}" for title, m in zip(titles, (a, b), strict=True)]
    table = f'<table style="width:100%">{"".join(rows)}</table>'
    if note:
        table = f"<details><summary>{escape(note)}</summary>{table}</details>"
    display({"text/html": table, "text/plain": "\n".join([note, *plain])}, raw=True)


def plot_null(null: Sequence[float], observed: float, xlabel: str) -> None:
    """Histogram of a statistic under the null hypothesis, with the observed value as a line."""
    fig, ax = plt.subplots(figsize=(7, 3))
    ax.hist(np.asarray(null), bins=40, color=_PALETTE[-1], label="null")
    ax.axvline(observed, color=_PALETTE[4], lw=2, label=f"observed: {observed:.2f}")
    ax.set_xlabel(xlabel)
    ax.set_ylabel("draws")
    ax.legend(frameon=False)
    interactive = go.Figure(go.Histogram(x=np.asarray(null), nbinsx=40, marker={"color": _PALETTE[-1]}))
    interactive.add_vline(x=observed, line={"color": _PALETTE[4]}, annotation_text=f"observed: {observed:.2f}")
    interactive.update_layout(width=700, height=320, xaxis_title=xlabel, yaxis_title="draws")
    show(fig, interactive, f"Histogram of {len(null)} null draws of the {xlabel}; observed {observed:.2f}.")


def _styles(
    groups: Mapping[str, Sequence[str]], known: Mapping[str, object]
) -> Iterator[tuple[tuple[str, list[str]], str, str, str]]:
    """Each non-empty group, restricted to known names, with its colour and its markers."""
    present = [(g, [m for m in members if m in known]) for g, members in groups.items()]
    return zip([p for p in present if p[1]], cycle(_PALETTE), cycle(_MARKERS), cycle(_PLOTLY_MARKERS), strict=False)
