"""Figures of Section 2: conversations that drift, sweeps of steering and capping, answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
from IPython.display import display
from jaxtyping import Float
from plotly.subplots import make_subplots

from personalab.figures.base import MARKERS, PALETTE, PLOTLY_MARKERS, show


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
            lines.items(), cycle(PALETTE), cycle(MARKERS), cycle(PLOTLY_MARKERS), strict=False
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


def plot_sweep(
    x: Sequence[float] | Float[np.ndarray, "x"], panels: Mapping[str, Float[np.ndarray, "x n"]], xlabel: str
) -> None:
    """Mean and 95 % interval of some scores over a sweep, one panel each, above one another.

    Args:
        panels: scores of single answers by label, one row a value of `x`.
    """
    fig, axes = plt.subplots(len(panels), figsize=(7, 0.6 + 2.2 * len(panels)), sharex=True, squeeze=False)
    interactive = make_subplots(rows=len(panels), cols=1, shared_xaxes=True)
    for row, ((label, values), colour) in enumerate(zip(panels.items(), cycle(PALETTE), strict=False)):
        means = values.mean(axis=1)
        margins = 1.96 * values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
        axes[row, 0].errorbar(x, means, yerr=margins, color=colour, marker=MARKERS[row], capsize=3)
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
    styles = zip(groups.items(), PALETTE, MARKERS, PLOTLY_MARKERS, strict=False)
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
