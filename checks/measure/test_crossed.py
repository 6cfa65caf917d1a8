"""Intervals over several kinds of units at once."""

from __future__ import annotations

import numpy as np
import pytest

from personalab.measure.crossed import crossed_interval
from personalab.measure.intervals import jackknife_interval


def test_it_covers_where_an_interval_over_one_kind_does_not() -> None:
    both = one = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(20, 1)) + rng.normal(size=(1, 12)) + rng.normal(size=(20, 12))  # roles, questions, noise
        low, high = crossed_interval((20, 12), lambda r, q, x=x: float(x[np.ix_(r, q)].mean()))
        both += low < 0 < high
        low, high = crossed_interval((12,), lambda q, x=x: float(x[:, q].mean()))
        one += low < 0 < high
    assert both / 200 > 0.92
    assert one < both


def test_of_one_kind_it_is_the_plain_jackknife() -> None:
    x = np.random.default_rng(0).normal(size=30)
    found = crossed_interval((30,), lambda i: float(x[i].mean()))
    assert np.allclose(found, jackknife_interval(30, lambda i: float(x[i].mean())))


def test_a_bounded_statistic_keeps_its_interval_inside() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=12)
    y = x + 0.3 * rng.normal(size=12)

    def correlation(i: np.ndarray) -> float:
        return float(np.corrcoef(x[i], y[i])[0, 1])

    low, high = crossed_interval((12,), correlation, fisher=True)
    assert crossed_interval((12,), correlation, limits=(0, 0.9)).high == 0.9
    assert low < correlation(np.arange(12)) < high < 1
    assert correlation(np.arange(12)) - low > high - correlation(np.arange(12))


def test_what_does_not_vary_has_an_interval_of_one_point() -> None:
    assert crossed_interval((4, 5), lambda r, q: 0.5) == (0.5, 0.5)


def test_it_refuses_what_it_cannot_leave_out() -> None:
    with pytest.raises(ValueError, match="at least 3 units of each kind"):
        crossed_interval((5, 2), lambda r, q: 0.0)
    with pytest.raises(ValueError, match="not finite"):
        crossed_interval((5, 5), lambda r, q: float("nan") if len(q) < 5 else 1.0)
