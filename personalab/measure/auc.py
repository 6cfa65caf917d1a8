"""The chance that one of some units is above one of others, with an interval that holds at 0 and 1 as well."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.stats
from jaxtyping import Float

from personalab.measure.intervals import Interval


class Auc(NamedTuple):
    """A chance, and its 95 % interval."""

    value: float
    ci: Interval


def auc(above: Float[np.ndarray, "k"], below: Float[np.ndarray, "n"]) -> float:
    """Chance that one of `above` is larger than one of `below`; ties count half. NaN where one of them is empty.

    Time and memory grow with the number of values, not of pairs.

    Raises:
        ValueError: for values that are NaN, which have no order.
    """
    for name, values in (("above", above), ("below", below)):
        if missing := int(np.isnan(values).sum()):
            raise ValueError(f"{missing} of {len(values)} values of `{name}` are NaN: leave them out first.")
    upper, lower = np.sort(above), np.sort(below)
    won, won_or_tied = (np.searchsorted(lower, upper, side).sum() for side in ("left", "right"))
    pairs = np.float64(len(above) * len(below))
    return float(won / pairs + (won_or_tied - won) / pairs / 2)


def auc_with_interval(above: Float[np.ndarray, "k"], below: Float[np.ndarray, "n"], *, level: float = 0.95) -> Auc:
    """Chance that one of `above` is larger than one of `below` (ties count half), with an interval over both.

    Where the two groups do not overlap, nothing that resamples them sees any error: its interval is a point. This one
    asks which true chances would still allow what is found.

    >>> value, ci = auc_with_interval(np.array([3.0, 4.0, 5.0]), np.array([0.0, 1.0, 2.0]))
    >>> value, round(ci.low, 2), round(ci.high, 2)
    (1.0, 0.5, 1.0)

    Raises:
        ValueError: for values that are NaN.

    Source: Newcombe 2006, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic", part
    2, method 5.
    """
    m, n = len(above), len(below)
    value = auc(above, below)
    z, half = scipy.stats.norm.ppf((1 + level) / 2), (m + n) / 2 - 1

    def outside(chance: float) -> float:
        spread = 1 + half * (1 - chance) / (2 - chance) + half * chance / (1 + chance)
        return abs(value - chance) - z * np.sqrt(chance * (1 - chance) * spread / (m * n))

    low = 0.0 if value == 0 else scipy.optimize.brentq(outside, 0, value - 1e-9)
    high = 1.0 if value == 1 else scipy.optimize.brentq(outside, value + 1e-9, 1)
    return Auc(value, Interval(float(low), float(high)))
