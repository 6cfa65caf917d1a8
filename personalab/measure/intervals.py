"""Intervals and permutation tests, seeded. Every claim in the course carries one of these."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.special
import scipy.stats
from jaxtyping import Float

from personalab.records.results import record
from personalab.setup.machine import one_thread
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
    values = bootstrap_draws(n, statistic, n_resamples=n_resamples, seed=seed)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


@one_thread()
def bootstrap_draws(
    n: int, statistic: Callable[[np.ndarray], float], *, n_resamples: int = 1000, seed: int = 0
) -> Float[np.ndarray, "rows"]:
    """`statistic(indices)` in resamples of `n` units with replacement. Arguments, errors: `bootstrap_interval`'s."""
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
    return np.array(values)


@one_thread()
def jackknife_interval(
    n: int,
    statistic: Callable[[np.ndarray], float],
    *,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Student interval of `statistic(indices)` from leaving out one of `n` units at a time.

    For statistics that noise biases (a share of variance, say): a bootstrap repeats units, which makes its resamples
    noisier than the data, so that its interval can miss the estimate itself. Source: Efron and Tibshirani 1993, ch. 11.

    Args:
        bounds: of the statistic: (-1, 1) for a cosine. The interval is then Student's on the scale of the logit between
            them (for a cosine: Fisher's z), and stays inside.

    Raises:
        ValueError: if there are fewer than three units, or the statistic is not finite, or out of its bounds.
    """
    if n < 3:
        raise ValueError(f"A jackknife needs at least 3 units, not {n}.")
    everyone = np.arange(n)
    estimate = statistic(everyone)
    left_out = np.array([statistic(np.delete(everyone, i)) for i in range(n)])
    if not np.isfinite([estimate, *left_out]).all():
        raise ValueError("The statistic is not finite with every unit left out: check for empty groups.")
    if bounds is None:
        return _students(estimate, left_out, level)
    low, high = bounds
    if not (low - 1e-6 <= min(estimate, *left_out) and max(estimate, *left_out) <= high + 1e-6):
        raise ValueError(f"The statistic leaves its bounds {bounds}.")
    shares = np.clip((np.array([estimate, *left_out]) - low) / (high - low), 1e-9, 1 - 1e-9)
    z = scipy.special.logit(shares)
    ends = low + (high - low) * scipy.special.expit(np.array(_students(float(z[0]), z[1:], level)))
    return Interval(min(float(ends[0]), estimate), max(float(ends[1]), estimate))


def _students(estimate: float, left_out: Float[np.ndarray, "n"], level: float) -> Interval:
    n = len(left_out)
    error = np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    margin = float(scipy.stats.t.ppf((1 + level) / 2, n - 1) * error)
    return Interval(estimate - margin, estimate + margin)


@one_thread()
def bca_interval(
    n: int,
    statistic: Callable[[np.ndarray], float],
    *,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Bias-corrected and accelerated interval of `statistic(indices)` over resamples of `n` units.

    Args and errors: those of `bootstrap_interval`, and at least three units. What it does: `bca_ends`.

    >>> scores = np.array([0.0, 0.0, 0.0, 1.0])
    >>> bca_interval(4, lambda i: float(scores[i].mean()))
    Interval(low=0.0, high=0.75)
    """
    draws = bootstrap_draws(n, statistic, n_resamples=n_resamples, seed=seed)
    if n < 3:
        raise ValueError(f"The acceleration needs at least 3 units, not {n}.")
    everyone = np.arange(n)
    left_out = np.array([statistic(np.delete(everyone, i)) for i in range(n)])
    return bca_ends(statistic(everyone), draws, left_out, level)


def bca_ends(
    estimate: float, draws: Float[np.ndarray, "rows"], left_out: Float[np.ndarray, "n"], level: float = 0.95
) -> Interval:
    """BCa interval from resamples, and from the statistic with each unit left out (NaN is passed over).

    It moves the percentiles by how far the resamples' median lies from the estimate, and by how skewed the statistic
    is. Where nearly all resamples lie on one side of the estimate no percentile of them holds it: resampling with
    repeats then measures its own bias, and the jackknife's interval, kept inside the range of all these values, takes
    its place. The estimate is always inside. Source: Efron and Tibshirani 1993, ch. 14.
    """
    draws, left_out = draws[np.isfinite(draws)], left_out[np.isfinite(left_out)]
    below = float(np.mean(draws < estimate) + np.mean(draws == estimate) / 2)
    if np.ptp(draws) == 0 and draws[0] == estimate:
        return Interval(estimate, estimate)
    tail = (1 - level) / 2
    if tail < below < 1 - tail:
        pulls = left_out.mean() - left_out
        size = float((pulls**2).sum() ** 1.5)
        acceleration = float((pulls**3).sum()) / (6 * size) if size else 0.0
        bias = float(scipy.stats.norm.ppf(below))
        z = bias + np.array([scipy.stats.norm.ppf(tail), scipy.stats.norm.ppf(1 - tail)])
        levels = scipy.stats.norm.cdf(bias + z / np.maximum(1 - acceleration * z, 1e-3))
        low, high = (float(end) for end in np.quantile(draws, levels))
    else:
        low, high = _students(estimate, left_out, level)
        low, high = max(low, float(draws.min())), min(high, float(draws.max()))
    return Interval(min(low, estimate), max(high, estimate))


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
