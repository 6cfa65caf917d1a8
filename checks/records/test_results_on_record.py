"""The committed results: all that is promised, each claim with n, interval and control, and the pages made of them.

How large a result is, and whether it is significant, is no business of these checks: the text reports what came out.
"""

from __future__ import annotations

import json
from itertools import chain

import pytest

from personalab.judging.rubrics import TRAITS
from personalab.paths import ROOT
from personalab.records.pages import HEADLINES, Headline, update_pages
from personalab.records.rows import CASTS, MAIN_TRAITS, ROWS
from personalab.records.upstream import load_role_groups

RESULTS = json.loads((ROOT / "solutions" / "results.json").read_text(encoding="utf-8"))


PROMISED = (  # beyond what has a line in RESULTS.md
    *(f"section_3/{trait}/{name}" for trait in MAIN_TRAITS for name in ("half_split_cosine", "layer")),
    *(f"section_1/casts/{cast}_{name}" for cast in CASTS for name in ("pc2", "axis")),
    *(f"organism/{trait}/{name}" for trait in TRAITS for name in ("contrast", "default_difference")),
    *(f"organism/{name}" for name in ("coherence", "capability_difference", "perplexity_ratio", "guarded_outputs")),
)


@pytest.mark.parametrize("key", sorted({*ROWS, *PROMISED, *chain.from_iterable(line.all_keys() for line in HEADLINES)}))
def test_what_is_promised_is_on_record(key: str) -> None:
    assert set(RESULTS[key]) == {"value", "n", "ci", "section", "tier", "model", "seed"}


# Sizes and p-values are nobody's to assert: another draw of answers or of roles changes them, and the text says so.
WITH_INTERVALS = (
    *(f"section_1/{name}" for name in ("pc1_axis_cosine", "pc1_axis_cosine_minus_null", "pc1_share", "new_roles_auc")),
    *(f"section_1/{name}" for name in ("default_minus_fantastical", "filtered_pc1_axis_cosine")),
    *(f"section_1/casts/{cast}" for cast in CASTS),
)


@pytest.mark.parametrize("key", WITH_INTERVALS)
def test_section_1_says_of_how_many_and_how_sure(key: str) -> None:
    entry = RESULTS[key]
    assert entry["n"] >= 4
    assert entry["ci"][0] <= entry["value"] <= entry["ci"][1]


def test_section_1_headlines_all_roles_beside_its_control() -> None:
    roles = {name for names in load_role_groups().values() for name in names}
    assert RESULTS["section_1/pc1_axis_cosine"]["n"] == len(roles) == 40
    assert RESULTS["section_1/pc1_axis_p"]["n"] >= 1000
    assert all(0 < RESULTS[f"section_1/casts/{cast}_p"]["value"] <= 1 for cast in CASTS)


def test_section_2_has_controls_and_intervals() -> None:
    """Presence, n, interval and control of each claim; sizes are for the text, which quotes them."""
    two = {key.removeprefix("section_2/"): entry for key, entry in RESULTS.items() if key.startswith("section_2/")}
    for key, entry in two.items():
        if key != "seconds":
            low, high = entry["ci"]
            assert low <= entry["value"] <= high and entry["n"], key
    for claim, controls in {
        "drift_slope_effect_size": ("_shuffled", "_random", "_minus_random"),
        "removal_ratio_random": (),
        "harm_rate_capped": ("_minus_default", "_minus_random", "_asked", "_unasked"),
        "harm_rate_random": ("_cap", "_minus_default", "_cap_asked", "_cap_unasked"),
        "perplexity_ratio": ("_random", "_capped_over_random"),
        "perplexity_ratio_voices": ("_random", "_capped_over_random"),
        "capability_capped": ("_minus_random",),
        "coherence_capped": ("_minus_random",),
    }.items():
        assert {claim + control for control in controls} <= set(two)
    prompts = {two[f"harm_rate_{name}"]["n"] for name in ("default", "capped", "strongest", "steered", "random_cap")}
    assert prompts == {two["harm_rate_capped_minus_random"]["n"]}, "all conditions answer the same prompts"
    assert two["removal_ratio_random"]["value"] >= 0.8, "the control is matched, or it is none"


@pytest.mark.parametrize("line", HEADLINES, ids=lambda line: line.key)
def test_a_headline_stands_beside_a_baseline_or_control_with_intervals(line: Headline) -> None:
    assert line.baseline or line.control
    for key in line.all_keys():
        assert RESULTS[key]["n"] and RESULTS[key]["ci"], key


@pytest.mark.parametrize("key", sorted(key for key, entry in RESULTS.items() if entry["ci"]))
def test_no_interval_misses_its_own_estimate(key: str) -> None:
    low, high = RESULTS[key]["ci"]
    assert low <= RESULTS[key]["value"] <= high and RESULTS[key]["n"]


def test_the_readme_has_eight_to_ten_headlines() -> None:
    assert 8 <= len(HEADLINES) <= 10


def test_the_guard_left_nothing_through() -> None:
    assert RESULTS["organism/guarded_outputs"]["value"] == 0


def test_the_pages_show_what_is_on_record() -> None:
    assert not update_pages(check=True), "run `python -m personalab record`, or pages.update_pages()"
