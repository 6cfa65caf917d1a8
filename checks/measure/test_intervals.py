"""Intervals that hold their own estimate: BCa, and the jackknife on a bounded scale."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from personalab.measure.crossed import crossed_interval
from personalab.measure.intervals import bca_ends, bca_interval, bootstrap_interval, jackknife_interval

RNG = np.random.default_rng(0)


def test_bca_equals_scipys():
    x = RNG.exponential(size=30)
    ours = bca_interval(30, lambda i: float(x[i].mean()), n_resamples=20_000)
    theirs = scipy.stats.bootstrap((x,), np.mean, method="BCa", n_resamples=20_000, rng=1).confidence_interval
    assert np.allclose(ours, theirs, atol=0.02)


def test_bca_covers_a_skewed_mean_about_as_often_as_percentiles_or_more():
    hits = {bca_interval: 0, bootstrap_interval: 0}
    for seed in range(200):
        x = RNG.exponential(size=25)
        for interval in hits:
            low, high = interval(25, lambda i, x=x: float(x[i].mean()), n_resamples=300, seed=seed)
            hits[interval] += low < 1.0 < high
    assert hits[bca_interval] >= hits[bootstrap_interval] - 2 and hits[bca_interval] > 172


def norm_of_mean(x):
    """Noise makes it larger, and resampling adds noise: percentiles lie above the estimate."""
    return lambda i: float(np.linalg.norm(x[i].mean(axis=0)))


def test_where_percentiles_miss_the_estimate_bca_holds_it():
    x = RNG.normal(size=(12, 200))
    statistic = norm_of_mean(x)
    estimate = statistic(np.arange(12))
    assert bootstrap_interval(12, statistic).low > estimate
    low, high = bca_interval(12, statistic)
    assert low <= estimate <= high and low < high


def test_a_statistic_that_never_varies_has_an_interval_of_no_width():
    assert bca_interval(5, lambda i: 1.0) == (1.0, 1.0)
    assert bca_interval(5, lambda i: 1.0 if len(set(i)) > 1 else 0.9)[1] == 1.0


def test_what_is_not_finite_is_passed_over():
    draws = np.array([0.1, 0.2, np.nan, 0.3, 0.4])
    assert bca_ends(0.25, draws, np.array([0.2, 0.25, np.nan, 0.3])) == bca_ends(
        0.25, draws[[0, 1, 3, 4]], np.array([0.2, 0.25, 0.3])
    )
    with pytest.raises(ValueError, match="at least 3"):
        bca_interval(2, lambda i: float(i.sum()))


def test_a_bounded_jackknife_stays_in_its_bounds_and_holds_the_estimate():
    x = RNG.normal(size=(8, 3)) * 0.2 + np.array([1.0, 0, 0])

    def cosine(i: np.ndarray) -> float:
        mean = x[i].mean(axis=0)
        return float(mean[0] / np.linalg.norm(mean))

    low, high = jackknife_interval(8, cosine, bounds=(-1, 1))
    assert -1 <= low < cosine(np.arange(8)) < high <= 1
    y = RNG.normal(size=40)  # far from its bounds the scale hardly matters
    plain = jackknife_interval(40, lambda i: float(y[i].mean()))
    bounded = jackknife_interval(40, lambda i: float(y[i].mean()), bounds=(-30, 30))
    assert np.allclose(plain, bounded, atol=0.01)
    assert jackknife_interval(4, lambda i: 1.0, bounds=(-1, 1))[1] == 1.0
    with pytest.raises(ValueError, match="leaves its bounds"):
        jackknife_interval(4, lambda i: 1.5, bounds=(-1, 1))


@pytest.mark.parametrize(
    "interval",
    [bca_interval, bootstrap_interval, jackknife_interval, lambda n, statistic: crossed_interval((n,), statistic)],
)
def test_a_statistic_computes_in_one_thread(interval):
    seen, before = set(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        interval(4, lambda i: seen.add(torch.get_num_threads()) or float(i.mean()))
        assert (seen, torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)
