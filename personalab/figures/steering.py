"""Figures of steering and monitoring: curves over coefficients, projections by condition, projection against score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Patch
from plotly.subplots import make_subplots
from scipy.stats import pearsonr

from personalab.figures.base import COLOURS, MARKERS, PLOTLY_MARKERS, show


class Line(NamedTuple):
    """How a curve of the sweep is drawn: colour, marker and line style, in both libraries' words."""

    colour: str
    marker: str
    symbol: str
    style: str
    dash: str


LINES = {
    "trait score": Line(COLOURS["treated"], "o", "circle", "-", "solid"),
    "coherence": Line("#222222", "D", "diamond", ":", "dot"),
    "control: words shuffled": Line(COLOURS["control"], "s", "square", "--", "dash"),
    "control: random vectors": Line(COLOURS["control"], "X", "x", "-.", "dashdot"),
}
GREY, INCOHERENT = "#dddddd", "incoherent: mean coherence below the limit"


def plot_steering(
    coefficients: Sequence[float] | Float[np.ndarray, "c"],
    scores: Mapping[str, Float[np.ndarray, "c q"]],
    coherence: Mapping[str, Float[np.ndarray, "c q"]],
    coherent: Mapping[str, Bool[np.ndarray, "c"]],
    shuffled: Mapping[str, Float[np.ndarray, "c q"]] | None = None,
    random: Mapping[str, tuple[Sequence[float], Float[np.ndarray, "r v"]]] | None = None,
) -> None:
    """Trait score and coherence over steering coefficients, one panel a trait, with 95 % intervals over questions.

    Args:
        scores, coherence: 0 to 100, by trait; NaN (a refusal) is left out of the means.
        coherent: which coefficients lie in the coherent range; the others are shaded.
        shuffled: trait scores of the same answers with their words in random order, if there are any.
        random: by trait, some coefficients and the mean scores there along each of v random vectors of the same
            length, if there are any; their intervals are over vectors.
    """
    fig, axes = plt.subplots(1, len(scores), figsize=(4.2 * len(scores), 4.2), sharey=True, squeeze=False)
    titles = [f"{trait}, n = {values.shape[1]} questions" for trait, values in scores.items()]
    interactive = make_subplots(rows=1, cols=len(scores), shared_yaxes=True, subplot_titles=titles)
    x = np.array(coefficients, dtype=float)
    for col, trait in enumerate(scores):
        curves = {"trait score": (x, scores[trait]), "coherence": (x, coherence[trait])}
        curves |= {"control: words shuffled": (x, shuffled[trait])} if shuffled else {}
        curves |= {"control: random vectors": (np.array(random[trait][0]), random[trait][1])} if random else {}
        _draw_means(axes[0, col], interactive, col, curves)
        _shade(axes[0, col], interactive, col, _outside(x, coherent[trait]))
        axes[0, col].set_title(titles[col], fontsize=10)
        axes[0, col].set_xlabel("steering coefficient")
        interactive.update_xaxes(title_text="steering coefficient", row=1, col=col + 1)
    axes[0, 0].set(ylabel="judge's score (0-100)", ylim=(-3, 103))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    handles.append(Patch(color=GREY))
    fig.legend(handles, [*labels, INCOHERENT], frameon=False, fontsize=9, ncols=min(3, len(scores) + 1),
               loc="upper center", bbox_to_anchor=(0.5, 0.02))  # fmt: skip
    interactive.add_scatter(x=[None], y=[None], mode="markers", name=INCOHERENT,
                            marker={"color": GREY, "symbol": "square", "size": 12})  # fmt: skip
    interactive.update_layout(height=480, yaxis_range=[-3, 103])
    show(fig, interactive, _said(scores, coherent, shuffled, random))


def _said(
    scores: Mapping[str, Float[np.ndarray, "c q"]],
    coherent: Mapping[str, Bool[np.ndarray, "c"]],
    shuffled: Mapping[str, Float[np.ndarray, "c q"]] | None,
    random: Mapping[str, tuple[Sequence[float], Float[np.ndarray, "r v"]]] | None,
) -> str:
    """The sweep in words."""
    n = " and ".join(sorted({str(values.shape[1]) for values in scores.values()}))
    steps = len(next(iter(coherent.values())))
    words = (
        f"Curves of trait score and coherence over {steps} coefficients, {n} questions each, one panel a trait. "
        f"In the coherent range: {_ends(scores, coherent)}."
    )
    if shuffled:
        words += f" With the words of each answer shuffled: {_ends(shuffled, coherent)}."
    if random:
        ends = (f"{trait} {np.nanmean(v[-1]):.0f} at {c[-1]:+.2f}" for trait, (c, v) in random.items())
        words += f" Along random vectors of the same length: {'; '.join(ends)}."
    return words


def _ends(scores: Mapping[str, Float[np.ndarray, "c q"]], coherent: Mapping[str, Bool[np.ndarray, "c"]]) -> str:
    """In words, the mean scores at both ends of the coherent range."""
    return "; ".join(
        f"{trait} from {np.nanmean(v[c][0]):.0f} to {np.nanmean(v[c][-1]):.0f}"
        for trait, v in scores.items()
        if (c := coherent[trait]).any()
    )


def _draw_means(
    ax: Axes, interactive: go.Figure, col: int, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    for label, (x, values) in curves.items():
        means, low, high = _means(values)
        line = LINES[label]
        ax.errorbar(x, means, yerr=(means - low, high - means), color=line.colour, marker=line.marker, ms=5,
                    ls=line.style, capsize=2, lw=1.5, label=label)  # fmt: skip
        interactive.add_scatter(
            x=x, y=means, name=label, legendgroup=label, showlegend=col == 0, row=1, col=col + 1,
            mode="lines+markers", line={"color": line.colour, "dash": line.dash}, marker={"symbol": line.symbol},
            error_y={"type": "data", "symmetric": False, "array": high - means, "arrayminus": means - low},
        )  # fmt: skip


def _shade(ax: Axes, interactive: go.Figure, col: int, stretches: Sequence[tuple[float, float]]) -> None:
    for left, right in stretches:
        ax.axvspan(left, right, color=GREY, zorder=0)
        interactive.add_vrect(x0=left, x1=right, fillcolor=GREY, line_width=0, layer="below", row=1, col=col + 1)


def plot_conditions(values: Mapping[str, Mapping[str, Float[np.ndarray, "n"]]], ylabel: str) -> None:
    """Means with 95 % intervals and single values, one group a trait, one column a condition.

    The first condition is the plain one, the others are treated: shape and filling tell them apart.

    Args:
        values: single values by condition, by trait; NaN is left out.
    """
    conditions = list(next(iter(values.values())))
    fig, ax = plt.subplots(figsize=(max(6.5, 2.6 * len(values)), 4))
    interactive = go.Figure()
    rng = np.random.default_rng(0)
    for i, (condition, marker, symbol) in enumerate(
        zip(conditions, cycle(MARKERS), cycle(PLOTLY_MARKERS), strict=False)
    ):
        colour, fill = COLOURS["treated" if i else "plain"], "white" if i % 2 == 0 and i else None
        x = np.arange(len(values)) + 0.8 * ((i + 0.5) / len(conditions) - 0.5)
        rows = [by[condition][None] for by in values.values()]
        means, low, high = (
            np.array(v) for v in zip(*((m[0], a[0], b[0]) for m, a, b in map(_means, rows)), strict=True)
        )
        for place, row in zip(x, rows, strict=True):
            ax.scatter(place + rng.uniform(-0.06, 0.06, row.size), row, s=6, color=colour, alpha=0.3, lw=0)
        ax.errorbar(x, means, yerr=(means - low, high - means), color=colour, marker=marker, mfc=fill, ms=7, ls="",
                    capsize=4, label=condition)  # fmt: skip
        interactive.add_scatter(
            x=x, y=means, name=condition, mode="markers",
            marker={"color": colour, "size": 9, "symbol": symbol + ("-open" if fill else "")},
            error_y={"type": "data", "symmetric": False, "array": high - means, "arrayminus": means - low},
        )  # fmt: skip
    names = [f"{trait} (n = {_n(by.values())})" for trait, by in values.items()]
    ax.set_xticks(range(len(values)), names)
    ax.set_ylabel(ylabel)
    ax.legend(frameon=False, fontsize=9, ncols=len(conditions), loc="upper center", bbox_to_anchor=(0.5, -0.1))
    ticks = {"tickmode": "array", "tickvals": list(range(len(values))), "ticktext": names}
    interactive.update_layout(height=460, xaxis=ticks, yaxis_title=ylabel)
    words = "; ".join(
        f"{trait}: " + ", ".join(f"{c} {np.nanmean(v):.1f}" for c, v in by.items()) for trait, by in values.items()
    )
    show(fig, interactive, f"Means and single values of the {ylabel}, {', '.join(names)}. {words}.")


def _n(conditions: Iterable[Float[np.ndarray, "n"]]) -> str:
    """How many values the conditions have: one number, or from the fewest to the most."""
    sizes = sorted(int((~np.isnan(v)).sum()) for v in conditions)
    return str(sizes[0]) if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"


def plot_monitor(
    projections: Mapping[str, Float[np.ndarray, "grades q"]], scores: Mapping[str, Float[np.ndarray, "grades q"]]
) -> None:
    """Score of an answer against the projection before it, one panel a trait, by the system prompt's grade.

    Small points are single answers; a number is its grade's mean, with the 95 % interval of the score over questions.
    Titles give r, and that of the grade's number.
    """
    fig, axes = plt.subplots(1, len(projections), figsize=(4.2 * len(projections), 4), sharey=True, squeeze=False)
    titles, words = [], []
    for trait, x in projections.items():
        grades = np.arange(1.0, len(x) + 1)[:, None].repeat(x.shape[1], axis=1)
        r, dull = (_correlation(v, scores[trait]) for v in (x, grades))
        n = int((~np.isnan(scores[trait])).sum())
        titles.append(f"{trait}, n = {n}: r = {r:.2f} (grade alone {dull:.2f})")
        words.append(f"{trait} {r:.2f} (n = {n}), with the grade's number in its place {dull:.2f}")
    interactive = make_subplots(rows=1, cols=len(projections), shared_yaxes=True, subplot_titles=titles)
    for col, trait in enumerate(projections):
        _draw_grades(axes[0, col], interactive, col, projections[trait], scores[trait])
        axes[0, col].set_title(titles[col], fontsize=9)
        axes[0, col].set_xlabel("projection of the last prompt token")
        interactive.update_xaxes(title_text="projection of the last prompt token", row=1, col=col + 1)
    axes[0, 0].set(ylabel="trait score of the answer (0-100)", ylim=(-6, 106))
    axes[0, -1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), title="prompt")
    interactive.update_layout(height=420, yaxis_range=[-6, 106])
    interactive.update_annotations(font_size=12)
    kind = "Scatter plots of the trait score of an answer against the projection of the last prompt token"
    show(fig, interactive, f"{kind}, by the system prompt's grade; correlations: {'; '.join(words)}.")


def _draw_grades(ax: Axes, interactive: go.Figure, col: int, x: np.ndarray, y: np.ndarray) -> None:
    """One panel: light grades elicit the trait, dark ones suppress it, so that greyscale keeps their order."""
    means, low, high = _means(y)
    for grade, symbol in zip(range(len(x)), cycle(PLOTLY_MARKERS), strict=False):
        share = grade / max(1, len(x) - 1)
        colour, label = to_hex(colormaps["viridis"](share)), f"grade {grade + 1}"
        ink = "white" if share < 0.6 else "black"
        ax.scatter(x[grade], y[grade], s=12, color=colour, alpha=0.7, edgecolors="#444444", lw=0.3)
        ax.errorbar(x[grade].mean(), means[grade], yerr=[[means[grade] - low[grade]], [high[grade] - means[grade]]],
                    color="black", capsize=2, lw=1, zorder=3)  # fmt: skip
        ax.scatter(x[grade].mean(), means[grade], s=120, color=colour, edgecolors="black", label=label, zorder=4)
        ax.text(x[grade].mean(), means[grade], str(grade + 1), color=ink, fontsize=8, ha="center", va="center",
                zorder=5)  # fmt: skip
        interactive.add_scatter(
            x=x[grade], y=y[grade], mode="markers", name=label, legendgroup=label, showlegend=col == 0,
            marker={"color": colour, "size": 7, "symbol": symbol, "line": {"color": "#444444", "width": 0.5}},
            row=1, col=col + 1,
        )  # fmt: skip


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
    means = np.nanmean(values, axis=1)
    return (
        means,
        np.fmin(low, means),
        np.fmax(high, means),
    )  # equal values: rounding must not put an end beyond the mean


def _outside(x: Float[np.ndarray, "c"], inside: Bool[np.ndarray, "c"]) -> list[tuple[float, float]]:
    """Stretches of a sorted `x` around the points that are not inside, out to half way to their neighbours."""
    edges = np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])
    return [(float(edges[i]), float(edges[i + 1])) for i in range(len(x)) if not inside[i]]
