"""How well projections tell two groups of answers apart: AUC by column (a block, a vector), with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from personalab.measure.intervals import Interval, bca_ends
from personalab.tiers import GLOBAL_SEED

_WEIGHTS = 50_000  # held at once, of resamples times answers; our choice: they fit into a processor's cache


class Curve(NamedTuple):
    """A value in every column, with its 95 % interval."""

    value: Float[np.ndarray, "k"]
    low: Float[np.ndarray, "k"]
    high: Float[np.ndarray, "k"]


class Separation(NamedTuple):
    """AUC in every column; in every resample of the questions (nan where a resample misses one of the groups); and
    with each question left out (nan likewise).
    """

    auc: Float[np.ndarray, "k"]
    draws: Float[np.ndarray, "resamples k"]
    left_out: Float[np.ndarray, "questions k"]

    @property
    def curve(self) -> Curve:
        """The AUC with BCa intervals, which hold it."""
        return Curve(self.auc, *np.array([self.at(column)[1] for column in range(len(self.auc))]).T)

    def at(self, column: int) -> tuple[float, Interval]:
        """Value and interval in one column."""
        return self.of(lambda auc: auc[..., column])

    def difference(self, column: int, other: int) -> tuple[float, Interval]:
        """AUC in one column minus that in another, with its paired interval."""
        return self.of(lambda auc: auc[..., column] - auc[..., other])

    def of(self, statistic: Callable[[Float[np.ndarray, "... k"]], Any]) -> tuple[float, Interval]:
        """Value and interval of a combination of columns (their mean, say); `statistic` works on the last axis."""
        value = float(statistic(self.auc))
        return value, bca_ends(value, statistic(self.draws), statistic(self.left_out))


def separation(
    projections: Float[Tensor, "n k"],
    positive: Sequence[bool] | Bool[np.ndarray, "n"],
    questions: Sequence[object],
    *,
    n_resamples: int = 1000,
    seed: int = GLOBAL_SEED,
) -> Separation:
    """AUC of each column: the chance that a positive answer projects higher than a negative one, ties counting half.

    Resamples draw whole questions, with all of their answers: two answers to one question are not independent. All
    columns share their resamples, so differences between columns are paired.

    Args:
        positive: whether each answer belongs to the group that should project higher.
        questions: what each answer answers.

    Raises:
        ValueError: if there are no positive or no negative answers, or every resample misses one of the two; for
            projections that are NaN.
    """
    positive = np.asarray(positive, dtype=bool)
    if positive.all() or not positive.any():
        raise ValueError(f"Both groups are needed: {positive.sum()} of {len(positive)} answers are positive.")
    values = projections.double().cpu().numpy()
    if missing := int(np.isnan(values).any(axis=1).sum()):
        raise ValueError(f"The projections of {missing} of {len(values)} answers are NaN: leave these answers out.")
    number = np.unique([str(q) for q in questions], return_inverse=True)[1]  # question of each answer
    n_questions = number.max() + 1
    rng = np.random.default_rng(seed)
    times = rng.multinomial(n_questions, np.full(n_questions, 1 / n_questions), n_resamples)  # (resamples, questions)
    columns = [_ranked(column[positive], column[~positive], number[positive], number[~positive]) for column in values.T]
    rows = max(1, _WEIGHTS // len(values))
    draws = _by_parts((times[i : i + rows] for i in range(0, n_resamples, rows)), columns)
    if not np.isfinite(draws).any():
        raise ValueError("Every resample of the questions misses one of the two groups: there are too few answers.")
    each = np.arange(n_questions)
    without = ((each[i : i + rows, None] != each).astype(int) for i in range(0, n_questions, rows))
    auc = _weighted(np.ones((1, n_questions), dtype=int), columns)[0]
    return Separation(auc, draws, _by_parts(without, columns))


class _Column(NamedTuple):
    """Questions of the p positive and the n negative answers, each group from the lowest to the highest projection;
    and how many negative ones are below, or not above, each positive one.
    """

    upper: Int[np.ndarray, "p"]
    lower: Int[np.ndarray, "n"]
    below: Int[np.ndarray, "p"]
    not_above: Int[np.ndarray, "p"]


def _ranked(
    upper: Float[np.ndarray, "p"],
    lower: Float[np.ndarray, "n"],
    asked_upper: Int[np.ndarray, "p"],
    asked_lower: Int[np.ndarray, "n"],
) -> _Column:
    up, low = upper.argsort(), lower.argsort()
    counts = (np.searchsorted(lower[low], upper[up], side) for side in ("left", "right"))
    return _Column(asked_upper[up], asked_lower[low], *counts)


def _by_parts(parts: Iterable[Int[np.ndarray, "_ questions"]], columns: Sequence[_Column]) -> Float[np.ndarray, "r k"]:
    return np.concatenate([_weighted(part, columns) for part in parts])


def _weighted(weights: Int[np.ndarray, "r questions"], columns: Sequence[_Column]) -> Float[np.ndarray, "r k"]:
    """AUC with every answer counted as often as its question's weight says; nan where a group has no weight.

    From ranks and not from pairs, of which thousands of answers have millions.
    """
    found = np.empty((len(weights), len(columns)))
    for k, (upper, lower, below, not_above) in enumerate(columns):
        times = weights.take(upper, axis=1)  # (r, p)
        lowest = weights.take(lower, axis=1).cumsum(axis=1)
        beaten = np.pad(lowest, ((0, 0), (1, 0)))  # (r, n + 1): weight of the m lowest
        won = (times * (beaten.take(below, axis=1) + beaten.take(not_above, axis=1))).sum(axis=1) / 2  # ties count half
        pairs = times.sum(axis=1) * beaten[:, -1]
        found[:, k] = won / np.where(pairs > 0, pairs, np.nan)
    return found


def mean_separation(parts: Sequence[Separation]) -> Separation:
    """The mean of some traits' AUCs in every column. Give each part a seed of its own: their questions differ."""
    auc = np.mean([part.auc for part in parts], axis=0)
    left_out = np.concatenate([auc + (part.left_out - part.auc) / len(parts) for part in parts])
    return Separation(auc, np.mean([part.draws for part in parts], axis=0), left_out)


def mean_by_question(values: Sequence[float], questions: Sequence[object], n_resamples: int = 1000) -> Curve:
    """Mean of single answers' values, in one column, with an interval from resampling questions."""
    number = np.unique([str(q) for q in questions], return_inverse=True)[1]
    totals, counts = np.bincount(number, np.asarray(values, dtype=float)), np.bincount(number)
    times = np.random.default_rng(GLOBAL_SEED).multinomial(
        len(counts), np.full(len(counts), 1 / len(counts)), n_resamples
    )
    draws = (times @ totals) / (times @ counts)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Curve(np.array([np.mean(values)]), np.array([low]), np.array([high]))


def joined(curves: Sequence[Curve]) -> Curve:
    """Curves of one column each, side by side."""
    return Curve(*(np.concatenate(parts) for parts in zip(*curves, strict=True)))


def permuted_differences(
    differences: Float[Tensor, "pairs d"], n: int, seed: int = GLOBAL_SEED
) -> Float[Tensor, "n d"]:
    """The mean of paired differences whose signs are drawn at random, as if pos and neg were alike.

    No null for a *direction*: what all pairs share stays in it, small, with noise and either sign.
    """
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (n, len(differences)), generator=generator) * 2.0 - 1.0
    return signs @ differences / len(differences)
