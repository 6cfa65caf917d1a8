"""The chance that one is above another, and its interval."""

from __future__ import annotations

import numpy as np

from personalab.measure.auc import auc_with_interval


def test_it_counts_pairs_and_halves_ties() -> None:
    assert auc_with_interval(np.array([1.0, 2.0]), np.array([1.0, 0.0])).value == 7 / 8


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
