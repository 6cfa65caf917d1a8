"""Intervals and permutation tests, seeded. Every claim in the course carries one of these."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.stats

from personalab.records.results import record
from personalab.tiers import current_tier


class Interval(NamedTuple):
    """Lower and upper end."""

    low: float
    high: float


def bootstrap_interval(
    n: int,
    statistic: Callable[[np.ndarray], float],
    *,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of `statistic(indices)` over resamples of `n` units (questions, say) with replacement.

    A resample that leaves a group empty, so that the statistic is not finite, is drawn again.

    >>> scores = np.array([0.0, 0.0, 1.0, 1.0])
    >>> bootstrap_interval(4, lambda i: float(scores[i].mean()))
    Interval(low=0.0, high=1.0)

    Args:
        statistic: takes an integer array of `n` indices, returns a number.

    Raises:
        ValueError: if there are fewer than two units, or the statistic is finite on fewer than half of the resamples.
    """
    if n < 2:
        raise ValueError(f"A bootstrap needs at least 2 units, not {n}.")
    rng = np.random.default_rng(seed)
    values: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's and SciPy's, of empty and of constant groups
        for _ in range(2 * n_resamples):
            values += [value for value in [statistic(rng.integers(0, n, n))] if np.isfinite(value)]
            if len(values) == n_resamples:
                break
    if len(values) < n_resamples:
        raise ValueError(
            f"The statistic is finite on {len(values)} of {2 * n_resamples} resamples: check for empty groups."
        )
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def jackknife_interval(n: int, statistic: Callable[[np.ndarray], float], *, level: float = 0.95) -> Interval:
    """Student interval of `statistic(indices)` from leaving out one of `n` units at a time.

    For statistics that noise biases (a share of variance, say): a bootstrap repeats units, which makes its resamples
    noisier than the data, so that its interval can miss the estimate itself. Source: Efron and Tibshirani 1993, ch. 11.

    Raises:
        ValueError: if there are fewer than three units, or the statistic is not finite.
    """
    if n < 3:
        raise ValueError(f"A jackknife needs at least 3 units, not {n}.")
    everyone = np.arange(n)
    left_out = np.array([statistic(np.delete(everyone, i)) for i in range(n)])
    estimate = statistic(everyone)
    if not np.isfinite([estimate, *left_out]).all():
        raise ValueError("The statistic is not finite with every unit left out: check for empty groups.")
    error = np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    margin = float(scipy.stats.t.ppf((1 + level) / 2, n - 1) * error)
    return Interval(estimate - margin, estimate + margin)


def permutation_p(observed: float, null: np.ndarray) -> float:
    """Share of null draws at least as large as `observed`, counting the observation itself (never 0).

    >>> permutation_p(2.0, np.array([0.0, 1.0, 2.0]))
    0.5

    Source: Phipson and Smyth 2010, "Permutation p-values should never be zero".
    """
    null = np.asarray(null)
    return float((1 + (null >= observed).sum()) / (1 + null.size))


def measure(
    key: str,
    n_units: int,
    statistic: Callable[[np.ndarray], float],
    n: int | None = None,
    *,
    model: str | None = None,
) -> Interval | None:
    """Record `statistic` of all units with its bootstrap interval, which is returned.

    Where there are too few values to measure it (a model that refuses nearly every question, say), the reason is
    printed, nothing is recorded, and None is returned.

    Args:
        n_units: what is resampled: questions, prompts, answers.
        statistic: takes an integer array of indices of units, returns a number.
        n: number of values behind the statistic (default: `n_units`).
        key, model: see `record`.
    """
    try:
        ci = bootstrap_interval(n_units, statistic, n_resamples=current_tier().budget.n_bootstrap)
    except ValueError as error:
        print(f"{key}: not measured. {error}")
        return None
    record(key, statistic(np.arange(n_units)), n_units if n is None else n, ci, model=model)
    return ci
