"""Figures of Section 2: conversations that drift, sweeps of steering, answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
from IPython.display import display
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from plotly.subplots import make_subplots
from scipy.stats import bootstrap, t

from personalab.figures.base import COLOURS, MARKERS, PLOTLY_MARKERS, show

DASHES = {"-": "solid", "--": "dash", ":": "dot"}  # Plotly's words for Matplotlib's line styles
BESIDE: dict[str, Any] = {
    "loc": "upper left",
    "bbox_to_anchor": (1.01, 1),
    "frameon": False,
    "fontsize": 8,
}  # a legend off the data


class Style(NamedTuple):
    """How one line looks."""

    colour: str
    line: str  # Matplotlib's
    marker: int  # place in MARKERS


# Kinds of talk, in colours that mean nothing else (Tol's muted scheme). Solid: the paper says that they stay.
TALKS = {
    "coding": Style("#332288", "-", 0), "writing": Style("#44AA99", "-", 1),
    "therapy": Style("#CC6677", "--", 2), "philosophy": Style("#882255", "--", 3),
}  # fmt: skip


def style_of(name: str, place: int) -> Style:
    """Kinds of talk have their own; "…, capped" is treated and dashed; anything else is plain."""
    capped = name.endswith(", capped")
    return TALKS.get(name) or Style(COLOURS["treated" if capped else "plain"], "--" if capped else "-", place)


def plot_drift(
    projections: Mapping[str, Sequence[float] | Float[np.ndarray, "n turns"]],
    risks: Mapping[str, Sequence[float]] | None = None,
    title: str = "Projection on the Assistant Axis, turn by turn",
) -> None:
    """One line a conversation over its assistant turns; below, the autorater's risk scores where there are any.

    Args:
        projections: higher = more like the Assistant. Several conversations of one kind, of equal length, give their
            mean with a 95 % interval (t), and each of them as a thin line.
        risks: 0 to 100, by conversation.
    """
    panels = [("projection (up: the Assistant)", projections)] + ([("risk, 0-100", risks)] if risks else [])
    fig, axes = plt.subplots(len(panels), figsize=(7, 1 + 2.6 * len(panels)), sharex=True, squeeze=False)
    interactive = make_subplots(rows=len(panels), cols=1, shared_xaxes=True)
    for row, (label, lines) in enumerate(panels):
        for place, (name, values) in enumerate(lines.items()):
            _drift_line(
                axes[row, 0],
                interactive,
                row,
                name,
                np.atleast_2d(np.asarray(values, dtype=float)),
                style_of(name, place),
            )
        axes[row, 0].set_ylabel(label)
        interactive.update_yaxes(title_text=label, row=row + 1, col=1)
    if risks:
        axes[1, 0].set_ylim(-5, 105)
    axes[-1, 0].set_xlabel("assistant turn")
    axes[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].set_title(title)
    axes[0, 0].legend(**BESIDE)
    interactive.update_layout(title=title, height=140 + 260 * len(panels))
    means = {name: np.atleast_2d(v).mean(axis=0) for name, v in projections.items() if len(v)}
    ends = "; ".join(f"{name} from {v[0]:.1f} to {v[-1]:.1f}" for name, v in means.items() if len(v))
    risk = "".join(f"; risk of {name} from {v[0]:.0f} to {v[-1]:.0f}" for name, v in (risks or {}).items() if len(v))
    show(fig, interactive, f"Lines over assistant turns. {title}: {ends}{risk}.")


def _drift_line(
    ax: Axes, interactive: go.Figure, row: int, name: str, values: Float[np.ndarray, "n turns"], style: Style
) -> None:
    """A line, or the mean of several with its interval, in both figures."""
    n = len(values)
    turns = np.arange(1, values.shape[1] + 1) + (0.07 * (style.marker - 1.5) if n > 1 else 0)  # bars side by side
    label = name if n == 1 else f"{name}: mean of {n} talks, 95 % interval"
    margins = t.ppf(0.975, n - 1) * values.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else None
    if n > 1:
        ax.plot(turns, values.T, color=style.colour, ls=style.line, lw=0.6, alpha=0.35)
    look: dict[str, Any] = {
        "color": style.colour,
        "ls": style.line,
        "marker": MARKERS[style.marker % len(MARKERS)],
        "capsize": 3,
    }
    ax.errorbar(turns, values.mean(axis=0), yerr=margins, label=label, **look)
    interactive.add_scatter(
        x=turns, y=values.mean(axis=0), name=label, mode="lines+markers", showlegend=row == 0, row=row + 1, col=1,
        error_y={"array": margins} if n > 1 else None, line={"color": style.colour, "dash": DASHES[style.line]},
        marker={"symbol": PLOTLY_MARKERS[style.marker % len(PLOTLY_MARKERS)]},
    )  # fmt: skip


class Swept(NamedTuple):
    """Scores of single answers over a sweep."""

    x: Sequence[float] | Float[np.ndarray, "x"]
    panels: Mapping[str, Float[np.ndarray, "x n"]]


def plot_sweep(
    x: Sequence[float] | Float[np.ndarray, "x"],
    panels: Mapping[str, Float[np.ndarray, "x n"]],
    xlabel: str,
    control: tuple[Sequence[float], Mapping[str, Float[np.ndarray, "x m"]]] | None = None,
    limits: Mapping[str, tuple[float, str]] | None = None,
) -> None:
    """Mean and 95 % interval (percentile bootstrap, so inside the scale) of scores over a sweep, one panel each.

    Args:
        panels: scores of single answers by label, one row a value of `x`.
        control: the same for random directions, at its own values of `x`.
        limits: by panel, a level to draw and its name.
    """
    sweeps = {"along the axis": (Swept(x, panels), Style(COLOURS["treated"], "-", 0))}
    if control:
        sweeps["random directions, equal length"] = (Swept(*control), Style(COLOURS["control"], "--", 1))
    fig, axes = plt.subplots(len(panels), figsize=(7, 0.6 + 2.2 * len(panels)), sharex=True, squeeze=False)
    interactive = make_subplots(rows=len(panels), cols=1, shared_xaxes=True)
    for row, label in enumerate(panels):
        ax = axes[row, 0]
        for name, (sweep, style) in sweeps.items():
            _sweep_line(ax, interactive, row, name, Swept(sweep.x, {label: sweep.panels[label]}), style)
        if limits and label in limits:
            level, what = limits[label]
            ax.axhline(level, color="black", ls="--", lw=1, label=what)
            interactive.add_hline(y=level, line={"dash": "dash"}, annotation_text=what, row=row + 1, col=1)
        ax.set_ylabel(label)
        ax.legend(**BESIDE)
        interactive.update_yaxes(title_text=label, row=row + 1, col=1)
    axes[-1, 0].set_xlabel(xlabel)
    interactive.update_layout(height=120 + 240 * len(panels))
    interactive.update_xaxes(title_text=xlabel, row=len(panels), col=1)
    ends = "; ".join(
        f"{label} {name} from {v[0].mean():.2f} to {v[-1].mean():.2f}"
        for name, (sweep, _) in sweeps.items()
        for label, v in sweep.panels.items()
    )
    show(fig, interactive, f"Means with intervals over {xlabel} from {x[0]} to {x[-1]}: {ends}.")


def _sweep_line(ax: Axes, interactive: go.Figure, row: int, name: str, sweep: Swept, style: Style) -> None:
    """One sweep in one panel, in both figures."""
    (values,) = sweep.panels.values()
    means, label = values.mean(axis=1), f"{name}, n = {values.shape[1]} a point"
    ci = bootstrap((values,), np.mean, axis=1, method="percentile", n_resamples=1000, rng=0).confidence_interval
    below, above = means - ci.low, ci.high - means
    look: dict[str, Any] = {"color": style.colour, "ls": style.line, "marker": MARKERS[style.marker], "capsize": 3}
    x = np.asarray(sweep.x) + 0.02 * style.marker  # bars side by side
    ax.errorbar(x, means, yerr=np.stack([below, above]), label=label, **look)
    interactive.add_scatter(
        x=x, y=means, error_y={"symmetric": False, "array": above, "arrayminus": below}, name=label,
        line={"color": style.colour, "dash": DASHES[style.line]}, marker={"symbol": PLOTLY_MARKERS[style.marker]},
        showlegend=row == 0, row=row + 1, col=1,
    )  # fmt: skip


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
