"""The chance that one is above another, and its interval."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from personalab.measure.auc import auc, auc_with_interval


def test_it_counts_pairs_and_halves_ties() -> None:
    assert auc_with_interval(np.array([1.0, 2.0]), np.array([1.0, 0.0])).value == 7 / 8


def test_it_is_the_share_of_pairs_and_nan_where_there_are_none() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        above, below = (rng.normal(size=rng.integers(1, 30)).round(1) for _ in range(2))
        pairs = np.subtract.outer(above, below)
        assert auc(above, below) == (pairs > 0).mean() + (pairs == 0).mean() / 2
    with np.errstate(invalid="ignore"):
        assert np.isnan(auc(np.empty(0), np.ones(3)))


def test_memory_grows_with_values_and_not_with_pairs() -> None:
    above, below = np.arange(20_000.0), np.arange(20_000.0) + 0.5
    tracemalloc.start()
    assert auc(above, below) == pytest.approx(0.5, abs=1e-4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6, "pairs would take gigabytes"


def test_what_has_no_order_is_named() -> None:
    with pytest.raises(ValueError, match="1 of 3 values of `below` are NaN"):
        auc_with_interval(np.ones(2), np.array([0.0, np.nan, 1.0]))


def test_groups_that_do_not_overlap_still_have_an_interval() -> None:
    few = auc_with_interval(np.arange(6) + 10.0, np.arange(8.0))
    many = auc_with_interval(np.arange(60) + 100.0, np.arange(80.0))
    assert few.value == few.ci.high == many.ci.high == 1
    assert 0.6 < few.ci.low < 0.8 < many.ci.low < 1
    turned = auc_with_interval(np.arange(8.0), np.arange(6) + 10.0)
    assert turned.value == turned.ci.low == 0
    assert np.isclose(turned.ci.high, 1 - few.ci.low)


def test_it_covers() -> None:
    truth = 0.76025  # of two normals, one of them shifted by 1: the normal distribution's function at 1 / sqrt(2)
    hits = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        low, high = auc_with_interval(rng.normal(1, 1, 15), rng.normal(0, 1, 15)).ci
        hits += low < truth < high
    assert hits / 300 > 0.92
