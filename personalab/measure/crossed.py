"""Intervals over several kinds of units at once: questions and roles, say, when every role answers every question."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy.stats

from personalab.measure.intervals import Interval
from personalab.setup.machine import one_thread


@one_thread()
def crossed_interval(
    sizes: Sequence[int],
    statistic: Callable[..., float],
    *,
    fisher: bool = False,
    limits: tuple[float, float] = (-math.inf, math.inf),
    level: float = 0.95,
) -> Interval:
    """Student interval of `statistic(indices, …)` over every kind of unit, by leaving one unit out at a time.

    An interval over questions alone speaks of new questions to the same roles. Where the roles are a sample too, the
    variances of both are added, which is on the safe side: the noise of single answers counts in each.

    Not a bootstrap: one that repeats units is noisier than the data. On 92 simulated casts like Section 1's (40 roles,
    22 questions) it held the population's cosine of PC1 and axis in 23 % (percentiles) and 43 % (BCa), this in 88 %.

    >>> scores = np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0], [1.0, 2.0, 3.0]])  # 3 roles, 3 questions
    >>> low, high = crossed_interval((3, 3), lambda r, q: float(scores[np.ix_(r, q)].mean()))
    >>> round(low, 2), round(high, 2)
    (-0.27, 4.27)

    Args:
        sizes: number of units of each kind.
        statistic: takes an integer array of indices for each kind, returns a number.
        fisher: for a statistic between -1 and 1: compute on Fisher's scale (the inverse hyperbolic tangent), on which
            the interval stays between them, and is longer towards 0.
        limits: the least and the largest value that the statistic can take; the interval ends there at the latest.

    Raises:
        ValueError: if a kind has fewer than three units, or the statistic is not finite with a unit left out.

    Source: the jackknife, Efron and Tibshirani 1993, ch. 11; variances of crossed units, Owen 2007; degrees of freedom
    of a sum of variances, Satterthwaite 1946.
    """
    if min(sizes) < 3:
        raise ValueError(f"A jackknife needs at least 3 units of each kind, not {tuple(sizes)}.")
    scale, back = (np.arctanh, np.tanh) if fisher else (np.asarray, np.asarray)
    everyone = [np.arange(n) for n in sizes]
    estimate = float(scale(statistic(*everyone)))
    variances = []
    for kind, n in enumerate(sizes):
        left_out = scale(
            [statistic(*everyone[:kind], np.delete(everyone[kind], i), *everyone[kind + 1 :]) for i in range(n)]
        )
        if not np.isfinite([estimate, *left_out]).all():
            raise ValueError("The statistic is not finite with every unit left out: check for empty groups.")
        variances.append((n - 1) * float(np.var(left_out)))
    margin = 0.0
    if total := sum(variances):
        freedom = total**2 / sum(v**2 / (n - 1) for v, n in zip(variances, sizes, strict=True))
        margin = float(scipy.stats.t.ppf((1 + level) / 2, freedom)) * math.sqrt(total)
    low, high = np.clip(back([estimate - margin, estimate + margin]), *limits)
    return Interval(float(low), float(high))
