"""How well projections tell two groups of answers apart: AUC by column (a block, a vector), with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from personalab.tiers import GLOBAL_SEED


class Curve(NamedTuple):
    """A value in every column, with its 95 % interval."""

    value: Float[np.ndarray, "k"]
    low: Float[np.ndarray, "k"]
    high: Float[np.ndarray, "k"]


class Separation(NamedTuple):
    """AUC in every column, and in every resample of the questions (nan where a resample misses one of the groups)."""

    auc: Float[np.ndarray, "k"]
    draws: Float[np.ndarray, "resamples k"]

    @property
    def curve(self) -> Curve:
        """The AUC with percentile intervals."""
        low, high = np.nanquantile(self.draws, [0.025, 0.975], axis=0)
        return Curve(self.auc, low, high)

    def at(self, column: int) -> tuple[float, tuple[float, float]]:
        """Value and interval in one column."""
        value, low, high = (float(v[column]) for v in self.curve)
        return value, (low, high)

    def difference(self, column: int, other: int) -> tuple[float, tuple[float, float]]:
        """AUC in one column minus that in another, with its paired interval."""
        low, high = np.nanquantile(self.draws[:, column] - self.draws[:, other], [0.025, 0.975])
        return float(self.auc[column] - self.auc[other]), (float(low), float(high))


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
        ValueError: if there are no positive or no negative answers, or every resample misses one of the two.
    """
    positive = np.asarray(positive, dtype=bool)
    if positive.all() or not positive.any():
        raise ValueError(f"Both groups are needed: {positive.sum()} of {len(positive)} answers are positive.")
    values = projections.double().cpu().numpy()
    pos, neg = values[positive][:, None], values[~positive][None]
    won = (pos > neg) + 0.5 * (pos == neg)  # (n_pos, n_neg, k)
    number = np.unique([str(q) for q in questions], return_inverse=True)[1]  # question of each answer
    n_questions = number.max() + 1
    rng = np.random.default_rng(seed)
    times = rng.multinomial(n_questions, np.full(n_questions, 1 / n_questions), n_resamples)  # (resamples, questions)
    weights_pos, weights_neg = times[:, number[positive]], times[:, number[~positive]]
    pairs = weights_pos.sum(axis=1) * weights_neg.sum(axis=1)
    if not pairs.any():
        raise ValueError("Every resample of the questions misses one of the two groups: there are too few answers.")
    sums = np.einsum("rp,pnk,rn->rk", weights_pos, won, weights_neg, optimize=True)
    draws = sums / np.where(pairs > 0, pairs, np.nan)[:, None]
    return Separation(won.mean(axis=(0, 1)), draws)


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
    """Null vectors: the mean of paired differences whose signs are drawn at random, as if pos and neg were alike."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (n, len(differences)), generator=generator) * 2.0 - 1.0
    return signs @ differences / len(differences)
