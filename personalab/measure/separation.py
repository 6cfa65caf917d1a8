"""How well projections tell two groups of answers apart: AUC by column (a block, a vector), with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from personalab.measure.intervals import Interval, bca_ends
from personalab.tiers import GLOBAL_SEED

_Group: TypeAlias = tuple[Float[np.ndarray, "n k"], Shaped[np.ndarray, "n"]]  # projections, and their questions
_ROWS = 100  # resamples whose weights are held at once; our choice


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
    groups = [(values[which], number[which]) for which in (positive, ~positive)]
    draws = np.concatenate([_weighted(times[i : i + _ROWS], *groups) for i in range(0, n_resamples, _ROWS)])
    if not np.isfinite(draws).any():
        raise ValueError("Every resample of the questions misses one of the two groups: there are too few answers.")
    each = np.arange(n_questions)
    parts = (each[i : i + _ROWS, None] != each for i in range(0, n_questions, _ROWS))  # all questions but one
    left_out = np.concatenate([_weighted(part.astype(times.dtype), *groups) for part in parts])
    return Separation(_weighted(np.ones_like(times[:1]), *groups)[0], draws, left_out)


def _weighted(
    weights: Shaped[np.ndarray, "r questions"], positive: _Group, negative: _Group
) -> Float[np.ndarray, "r k"]:
    """AUC with every answer counted as often as its question's weight says; nan where a group has no weight.

    It sorts instead of comparing every pair, so that thousands of answers take no more than their share.
    """
    (above, asked_above), (below, asked_below) = positive, negative
    counts, others = weights[:, asked_above], weights[:, asked_below]  # (r, n_pos), (r, n_neg)
    pairs = counts.sum(axis=1) * others.sum(axis=1)
    sums = np.empty((len(weights), above.shape[1]))
    for column in range(above.shape[1]):
        order = below[:, column].argsort()
        beaten = np.pad(others[:, order].cumsum(axis=1), ((0, 0), (1, 0)))  # (r, n_neg + 1): weight of the m lowest
        lower, upper = (np.searchsorted(below[order, column], above[:, column], side) for side in ("left", "right"))
        sums[:, column] = (counts * (beaten[:, lower] + beaten[:, upper])).sum(axis=1) / 2  # ties count half
    return sums / np.where(pairs > 0, pairs, np.nan)[:, None]


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
