"""What Section 4 has on record: each claim with its n, its interval, its baseline or control, and their difference.

Nothing here asks how large a value is, or how small a p: a null is a result, and the text reports it as one.
"""

from __future__ import annotations

import json
import math

import pytest

from personalab.judging.rubrics import TRAITS
from personalab.paths import ROOT
from personalab.records.rows import MAIN_TRAITS

RESULTS = json.loads((ROOT / "solutions" / "results.json").read_text(encoding="utf-8"))


def each(*names: str, traits: tuple[str, ...] = MAIN_TRAITS) -> tuple[str, ...]:
    return tuple(f"section_4/{trait}/{name}" for trait in traits for name in names)


ESTIMATES = (
    *each("steering_spearman", "steering_range", "steering_gain", "steering_effect"),
    *each("projection_baseline", "projection_prompted", "projection_prompted_reread", "projection_steered"),
    *each("pre_response_r", "pre_response_r_within", "pre_response_r_between"),
    "section_4/pre_response_r",
    "section_4/pre_response_r_within",
    "section_4/pre_response_r_between",
    "section_4/pre_response_r_prompts",
    "section_4/axis_share",
    "section_4/axis_share_beyond_prompts",
    *each("axis_cosine", "prompt_length", "prompt_cosine", traits=tuple(TRAITS)),
)
CONTROLS = (
    *each("steering_spearman_shuffled", "steering_range_shuffled", "steering_effect_shuffled"),
    *each("random_effect", "other_effect"),
    *each("pre_response_r_grade", "pre_response_r_other"),
    "section_4/pre_response_r_grade",
    "section_4/pre_response_r_random",
    "section_4/axis_share_prompts",
    "section_4/axis_share_random",
    "section_4/axis_share_contrasts",
    "section_4/axis_share_beyond_contrasts",
    *each("axis_cosine_prompts", traits=tuple(TRAITS)),
)
DIFFERENCES = {
    **{f"section_4/{t}/steering_spearman_minus_shuffled": "steering_spearman_shuffled" for t in MAIN_TRAITS},
    **{f"section_4/{t}/steering_range_minus_shuffled": "steering_range_shuffled" for t in MAIN_TRAITS},
    **{f"section_4/{t}/pre_response_r_minus_grade": "pre_response_r_grade" for t in MAIN_TRAITS},
    "section_4/pre_response_r_minus_grade": "pre_response_r_grade",
    "section_4/axis_share_minus_prompts": "axis_share_prompts",
    **{f"section_4/{t}/axis_cosine_minus_prompts": "axis_cosine_prompts" for t in TRAITS},
}
WITHOUT_INTERVAL = (
    *each("steering_spearman_low", "coherent_coefficients"),
    *each("axis_cosine_null", traits=tuple(TRAITS)),
    "section_4/pre_response_p",
    "section_4/pre_response_p_within",
    "section_4/pre_response_within_clear",
    "section_4/axis_share_beyond_p",
    "section_4/axis_cosine_random",
    "section_4/axis_cosine_contrasts",
)


PAIRED = each("steering_effect_minus_shuffled", "steering_effect_minus_random")  # over questions with both scores


@pytest.mark.parametrize("key", (*ESTIMATES, *CONTROLS, *DIFFERENCES, *PAIRED))
def test_with_n_and_an_interval_that_holds_the_estimate(key: str) -> None:
    entry = RESULTS[key]
    assert entry["n"] > 1
    low, high = entry["ci"]
    assert low <= entry["value"] <= high


@pytest.mark.parametrize("key", WITHOUT_INTERVAL)
def test_with_n(key: str) -> None:
    assert RESULTS[key]["n"] > 1 and math.isfinite(RESULTS[key]["value"])


@pytest.mark.parametrize(("key", "baseline"), DIFFERENCES.items())
def test_a_difference_is_that_of_estimate_and_baseline(key: str, baseline: str) -> None:
    folder = key.rpartition("/")[0]
    estimate = RESULTS[f"{folder}/{baseline.rpartition('_')[0]}"]["value"]
    assert RESULTS[key]["value"] == pytest.approx(estimate - RESULTS[f"{folder}/{baseline}"]["value"], abs=1e-6)


@pytest.mark.parametrize("name", ("pre_response_p", "pre_response_p_within", "axis_share_beyond_p"))
def test_no_p_is_smaller_than_its_draws_allow(name: str) -> None:
    assert RESULTS[f"section_4/{name}"]["value"] >= 1 / (RESULTS[f"section_4/{name}"]["n"] + 1) - 1e-12


def test_correlations_cosines_and_shares_stay_within_their_limits() -> None:
    for key, entry in RESULTS.items():
        name = key.rpartition("/")[2]
        if not key.startswith("section_4/") or "minus" in name or entry["ci"] is None:
            continue
        if "share" in name:
            assert 0 <= entry["ci"][0] <= entry["ci"][1] <= 1, key
        if "cosine" in name or "spearman" in name or name.startswith("pre_response_r"):
            assert -1 <= entry["ci"][0] <= entry["ci"][1] <= 1, key
