"""Figures of steering and monitoring: curves over coefficients, projections by condition, projection against score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from plotly.subplots import make_subplots
from scipy.stats import pearsonr

from personalab.figures.base import MARKERS, PALETTE, PLOTLY_MARKERS, show


def plot_steering(
    coefficients: Sequence[float] | Float[np.ndarray, "c"],
    scores: Mapping[str, Float[np.ndarray, "c q"]],
    coherence: Mapping[str, Float[np.ndarray, "c q"]],
    coherent: Mapping[str, Bool[np.ndarray, "c"]],
    shuffled: Mapping[str, Float[np.ndarray, "c q"]] | None = None,
) -> None:
    """Trait score and coherence over steering coefficients, one panel a trait, with 95 % intervals over questions.

    Args:
        scores, coherence: 0 to 100, by trait; NaN (a refusal) is left out of the means.
        coherent: which coefficients lie in the coherent range; the others are shaded.
        shuffled: trait scores of the same answers with their words in random order, if there are any.
    """
    fig, axes = plt.subplots(1, len(scores), figsize=(4.2 * len(scores), 3.8), sharey=True, squeeze=False)
    interactive = make_subplots(rows=1, cols=len(scores), shared_yaxes=True, subplot_titles=list(scores))
    x = np.array(coefficients, dtype=float)
    for col, trait in enumerate(scores):
        ax = axes[0, col]
        curves = {"trait score": scores[trait], "coherence": coherence[trait]}
        _draw_means(ax, interactive, col, x, curves | ({"words shuffled": shuffled[trait]} if shuffled else {}))
        for left, right in _outside(x, coherent[trait]):
            ax.axvspan(left, right, color="#dddddd", zorder=0)
            interactive.add_vrect(
                x0=left, x1=right, fillcolor="#dddddd", line_width=0, layer="below", row=1, col=col + 1
            )
        ax.set_title(trait)
        ax.set_xlabel("steering coefficient")
        interactive.update_xaxes(title_text="steering coefficient", row=1, col=col + 1)
    axes[0, 0].set_ylabel("judge's score (0-100)")
    axes[0, 0].legend(frameon=False, fontsize=8)
    interactive.update_layout(width=320 * len(scores) + 120, height=420)
    words = f"Trait score and coherence over {len(x)} coefficients. In the coherent range: {_ends(scores, coherent)}."
    if shuffled:
        words += f" With the words of each answer shuffled: {_ends(shuffled, coherent)}."
    show(fig, interactive, words)


def _ends(scores: Mapping[str, Float[np.ndarray, "c q"]], coherent: Mapping[str, Bool[np.ndarray, "c"]]) -> str:
    """In words, the mean scores at both ends of the coherent range."""
    return "; ".join(
        f"{trait} from {np.nanmean(v[c][0]):.0f} to {np.nanmean(v[c][-1]):.0f}"
        for trait, v in scores.items()
        if (c := coherent[trait]).any()
    )


def _draw_means(
    ax: Axes, interactive: go.Figure, col: int, x: Float[np.ndarray, "c"], curves: Mapping[str, np.ndarray]
) -> None:
    for i, (label, values) in enumerate(curves.items()):
        means, low, high = _means(values)
        ax.errorbar(x, means, yerr=(means - low, high - means), color=PALETTE[i], marker=MARKERS[i], capsize=3,
                    label=label)  # fmt: skip
        interactive.add_scatter(
            x=x, y=means, name=label, legendgroup=label, showlegend=col == 0, row=1, col=col + 1,
            line={"color": PALETTE[i]}, marker={"symbol": PLOTLY_MARKERS[i]},
            error_y={"type": "data", "symmetric": False, "array": high - means, "arrayminus": means - low},
        )  # fmt: skip


def plot_conditions(values: Mapping[str, Mapping[str, Float[np.ndarray, "n"]]], ylabel: str) -> None:
    """Means with 95 % intervals and single values, one group a trait, one column a condition.

    Args:
        values: single values by condition, by trait.
    """
    conditions = list(next(iter(values.values())))
    fig, ax = plt.subplots(figsize=(max(6.5, 2.4 * len(values)), 4))
    interactive = go.Figure()
    rng = np.random.default_rng(0)
    for i, (condition, colour, marker) in enumerate(zip(conditions, cycle(PALETTE), cycle(MARKERS), strict=False)):
        x = np.arange(len(values)) + 0.8 * ((i + 0.5) / len(conditions) - 0.5)
        rows = [by[condition][None] for by in values.values()]
        means, low, high = (
            np.array(v) for v in zip(*((m[0], a[0], b[0]) for m, a, b in map(_means, rows)), strict=True)
        )
        for place, row in zip(x, rows, strict=True):
            ax.scatter(place + rng.uniform(-0.06, 0.06, row.size), row, s=6, color=colour, alpha=0.25, lw=0)
        ax.errorbar(x, means, yerr=(means - low, high - means), color=colour, marker=marker, ls="", capsize=4,
                    label=condition)  # fmt: skip
        interactive.add_scatter(
            x=x, y=means, name=condition, mode="markers", marker={"color": colour, "size": 9},
            error_y={"type": "data", "symmetric": False, "array": high - means, "arrayminus": means - low},
        )  # fmt: skip
    ax.set_xticks(range(len(values)), list(values))
    ax.set_ylabel(ylabel)
    ax.legend(frameon=False, fontsize=8)
    ticks = {"tickmode": "array", "tickvals": list(range(len(values))), "ticktext": list(values)}
    interactive.update_layout(width=760, height=420, xaxis=ticks, yaxis_title=ylabel)
    words = "; ".join(
        f"{trait}: " + ", ".join(f"{c} {np.nanmean(v):.1f}" for c, v in by.items()) for trait, by in values.items()
    )
    show(fig, interactive, f"{ylabel}. {words}.")


def plot_monitor(
    projections: Mapping[str, Float[np.ndarray, "grades q"]], scores: Mapping[str, Float[np.ndarray, "grades q"]]
) -> None:
    """Score of an answer against the projection before it, one panel a trait, coloured by the system prompt's grade.

    Small points are single answers, large ones the means of a grade. Titles give r, and that of the grade's number.
    """
    fig, axes = plt.subplots(1, len(projections), figsize=(4.2 * len(projections), 3.8), sharey=True, squeeze=False)
    titles, words = [], []
    for trait, x in projections.items():
        grades = np.arange(1.0, len(x) + 1)[:, None].repeat(x.shape[1], axis=1)
        r, dull = (_correlation(v, scores[trait]) for v in (x, grades))
        titles.append(f"{trait}: r = {r:.2f} (grade alone {dull:.2f})")
        words.append(f"{trait} {r:.2f}, with the grade's number in its place {dull:.2f}")
    interactive = make_subplots(rows=1, cols=len(projections), shared_yaxes=True, subplot_titles=titles)
    for col, trait in enumerate(projections):
        ax, x, y = axes[0, col], projections[trait], scores[trait]
        for grade in range(len(x)):
            colour = to_hex(colormaps["viridis"](grade / max(1, len(x) - 1)))
            label = f"grade {grade + 1}"
            ax.scatter(x[grade], y[grade], s=10, color=colour, alpha=0.6, lw=0)
            ax.scatter(x[grade].mean(), np.nanmean(y[grade]), s=70, color=colour, edgecolors="black", label=label)
            interactive.add_scatter(
                x=x[grade], y=y[grade], mode="markers", name=label, legendgroup=label, showlegend=col == 0,
                marker={"color": colour, "size": 6}, row=1, col=col + 1,
            )  # fmt: skip
        ax.set_title(titles[col])
        ax.set_xlabel("projection of the last prompt token")
        interactive.update_xaxes(title_text="projection of the last prompt token", row=1, col=col + 1)
    axes[0, 0].set_ylabel("trait score of the answer (0-100)")
    axes[0, -1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    interactive.update_layout(width=320 * len(projections) + 140, height=420)
    show(fig, interactive, f"Score of the answer against the projection before it; correlations: {'; '.join(words)}.")


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's over single answers that have a score; NaN where there are too few."""
    known = ~np.isnan(y)
    return float(pearsonr(x[known], y[known]).statistic) if known.sum() > 2 else float("nan")


def _means(values: Float[np.ndarray, "c q"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of the rows, and the ends of their intervals from resampling columns; NaN is left out."""
    draws = np.random.default_rng(0).integers(0, values.shape[1], (500, values.shape[1]))
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):  # a resample of missing values alone has no mean: NaN
        resampled = np.where(known, values, 0)[:, draws].sum(axis=2) / known[:, draws].sum(axis=2)  # (c, 500)
    low, high = np.nanquantile(resampled, [0.025, 0.975], axis=1)
    return np.nanmean(values, axis=1), low, high


def _outside(x: Float[np.ndarray, "c"], inside: Bool[np.ndarray, "c"]) -> list[tuple[float, float]]:
    """Stretches of a sorted `x` around the points that are not inside, out to half way to their neighbours."""
    edges = np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])
    return [(float(edges[i]), float(edges[i + 1])) for i in range(len(x)) if not inside[i]]
