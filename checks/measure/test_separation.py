"""AUC with intervals over questions, and the null vectors of paired differences."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from personalab.measure.separation import joined, mean_by_question, mean_separation, permuted_differences, separation

GENERATOR = torch.Generator().manual_seed(0)
LABELS = np.array([7 * i % 5 < 2 for i in range(60)])
QUESTIONS = [f"question {i % 12}" for i in range(60)]
PROJECTIONS = torch.randn(60, 4, generator=GENERATOR).round(decimals=1) + torch.tensor(LABELS)[:, None] * torch.tensor(
    [0.0, 0.5, 2.0, -1.0]
)


def test_auc_equals_scikit_learns_ties_included():
    found = separation(PROJECTIONS, LABELS, QUESTIONS, n_resamples=10)
    right = [roc_auc_score(LABELS, column) for column in PROJECTIONS.T.numpy()]
    np.testing.assert_allclose(found.auc, right, atol=1e-12)


def test_a_resample_equals_the_auc_of_the_answers_that_it_repeats():
    found = separation(PROJECTIONS, LABELS, QUESTIONS, n_resamples=3, seed=5)
    rng = np.random.default_rng(5)
    names = sorted(set(QUESTIONS))
    times = rng.multinomial(12, np.full(12, 1 / 12), 3)
    for draw, counts in zip(found.draws, times, strict=True):
        rows = [
            i
            for name, k in zip(names, counts, strict=True)
            for i in np.repeat(np.flatnonzero(np.array(QUESTIONS) == name), k)
        ]
        right = [roc_auc_score(LABELS[rows], column[rows]) for column in PROJECTIONS.T.numpy()]
        np.testing.assert_allclose(draw, right, atol=1e-12)


def test_memory_grows_with_answers_and_not_with_pairs():
    n = 5000  # of each group
    tracemalloc.start()
    found = separation(torch.arange(2.0 * n)[:, None], np.arange(2 * n) % 2 == 0, [str(i % 50) for i in range(2 * n)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.auc[0] == pytest.approx(0.5, abs=1e-3)
    assert peak < 8 * n**2 / 2, "a number for every pair"


def test_what_has_no_order_is_named():
    with pytest.raises(ValueError, match="1 of 60 answers are NaN"):
        separation(PROJECTIONS.index_fill(0, torch.tensor([7]), torch.nan), LABELS, QUESTIONS)


def test_the_interval_holds_the_value():
    value, (low, high) = separation(PROJECTIONS, LABELS, QUESTIONS).at(2)
    assert low <= value <= high and value > 0.8


def test_an_interval_holds_its_estimate_where_percentiles_miss_it():
    labels = np.arange(40) % 2 == 0
    projections = torch.tensor(labels)[:, None] * 3 + torch.randn(40, 30, generator=GENERATOR)
    questions = [str(i // 2) for i in range(40)]
    found = separation(projections, labels, questions)
    low, high = found.curve.low, found.curve.high
    assert (low <= found.auc).all() and (found.auc <= high).all() and (high <= 1).all()
    perfect = separation(projections * 0 + torch.tensor(labels)[:, None], labels, questions)
    assert perfect.at(0) == (1.0, (1.0, 1.0))
    for value, ci in (found.at(3), found.difference(3, 4), found.of(lambda auc: auc.mean(axis=-1))):
        assert ci.low <= value <= ci.high


def test_leaving_a_question_out_equals_the_auc_without_it():
    found = separation(PROJECTIONS, LABELS, QUESTIONS, n_resamples=2)
    rest = [i for i, q in enumerate(QUESTIONS) if q != sorted(set(QUESTIONS))[4]]
    right = [roc_auc_score(LABELS[rest], column[rest]) for column in PROJECTIONS.T.numpy()]
    np.testing.assert_allclose(found.left_out[4], right, atol=1e-12)


def test_the_mean_of_traits_is_surer_than_each():
    parts = [separation(PROJECTIONS, LABELS, QUESTIONS, seed=seed) for seed in range(4)]
    mean = mean_separation(parts)
    np.testing.assert_allclose(mean.auc, parts[0].auc)
    width = [np.ptp(s.at(1)[1]) for s in (parts[0], mean)]
    assert 0.4 < width[1] / width[0] < 0.6  # half, as of four times the questions
    assert len(mean.left_out) == 4 * 12


def test_copies_of_the_same_answers_do_not_narrow_the_interval():
    once = separation(PROJECTIONS, LABELS, QUESTIONS, n_resamples=100)
    often = separation(PROJECTIONS.repeat(5, 1), np.tile(LABELS, 5), QUESTIONS * 5, n_resamples=100)
    np.testing.assert_allclose(often.draws, once.draws, atol=1e-12)


def test_differences_between_columns_are_paired():
    twice = PROJECTIONS[:, [1, 1, 2]]
    found = separation(twice, LABELS, QUESTIONS, n_resamples=50)
    assert found.difference(0, 1) == (0.0, (0.0, 0.0))
    assert found.difference(2, 0)[0] > 0


@pytest.mark.parametrize("labels", [np.zeros(60, bool), np.ones(60, bool)])
def test_one_group_alone_is_refused(labels):
    with pytest.raises(ValueError, match="Both groups"):
        separation(PROJECTIONS, labels, QUESTIONS)


def test_resamples_without_one_group_are_left_out():
    one_question = np.array([q == "question 3" for q in QUESTIONS])
    found = separation(PROJECTIONS, one_question, QUESTIONS)
    missing = np.isnan(found.draws).all(axis=1)
    assert 0 < missing.mean() < 1 and not np.isnan(found.draws[~missing]).any()
    assert all(np.isfinite(part).all() for part in found.curve)
    seed = next(s for s in range(20) if 2 in np.random.default_rng(s).multinomial(2, [0.5, 0.5], 1))
    with pytest.raises(ValueError, match="Every resample"):
        separation(PROJECTIONS[:2], [True, False], ["a", "b"], n_resamples=1, seed=seed)


def test_means_by_question():
    values = [1.0, 2.0, 3.0, 10.0]
    curve = mean_by_question(values, ["a", "a", "a", "b"])
    assert curve.value[0] == 4.0
    assert curve.low[0] == 2.0 and curve.high[0] == 10.0  # a resample may hold one question alone
    both = joined([curve, mean_by_question([5.0, 5.0], ["a", "b"])])
    assert both.value.tolist() == [4.0, 5.0] and both.low[1] == both.high[1] == 5.0


def test_permuted_differences_average_to_nothing():
    differences = torch.randn(40, 6, generator=GENERATOR) + 3
    null = permuted_differences(differences, 2000)
    assert null.shape == (2000, 6)
    assert null.mean(dim=0).abs().max() < 0.1
    assert null.norm(dim=1).mean() < differences.mean(dim=0).norm() / 3
    assert torch.equal(null, permuted_differences(differences, 2000))
