"""The committed results: every key the course promises, what the course claims of them, and the README's table."""

from __future__ import annotations

import json

import pytest

from personalab.judging.rubrics import TRAITS
from personalab.paths import ROOT
from personalab.records.results import CASTS, HEADLINES, MAIN_TRAITS, update_readme
from personalab.records.upstream import load_role_groups

RESULTS = json.loads((ROOT / "solutions" / "results.json").read_text(encoding="utf-8"))


PROMISED = (  # beyond what the README shows
    *(f"section_3/{trait}/{name}" for trait in MAIN_TRAITS for name in ("half_split_cosine", "layer")),
    *(f"section_4/{trait}/steering_spearman_low" for trait in MAIN_TRAITS),
    *(f"section_4/{t}/projection_{name}" for t in MAIN_TRAITS for name in ("baseline", "prompted", "steered")),
    *(f"section_1/casts/{cast}_{name}" for cast in CASTS for name in ("pc2", "axis")),
    *(f"organism/{trait}/{name}" for trait in TRAITS for name in ("contrast", "default_difference")),
    *(f"organism/{name}" for name in ("coherence", "capability_difference", "perplexity_ratio", "guarded_outputs")),
)


@pytest.mark.parametrize("key", (*HEADLINES, *PROMISED))
def test_headlines_are_on_record(key):
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


def test_section_2_shows_what_capping_buys_and_costs():
    value = {key.removeprefix("section_2/"): entry["value"] for key, entry in RESULTS.items() if "section_2" in key}
    ci = {key.removeprefix("section_2/"): entry["ci"] for key, entry in RESULTS.items() if "section_2" in key}
    assert ci["harm_cut"][0] > 0.2
    assert value["harm_rate_random_cap"] - value["harm_rate_capped"] > 0.2  # not just any direction
    assert value["harm_cut_strongest"] > value["harm_cut"]
    assert ci["capability_difference"][0] > -0.05 and ci["capability_difference"][1] < 0.05
    assert value["capability_default"] > 0.5  # chance is 0.25
    assert value["perplexity_ratio"] < 1.05
    assert value["coherence_difference"] > -5
    assert ci["drift_effect_size"][0] > 0
    assert ci["steering_spearman"][1] < 0


def test_the_organism_follows_prompts() -> None:
    for trait in TRAITS:
        assert RESULTS[f"organism/{trait}/contrast"]["value"] >= (50 if trait in MAIN_TRAITS else 35)
    assert RESULTS["organism/guarded_outputs"]["value"] == 0


@pytest.mark.parametrize("trait", MAIN_TRAITS)
def test_sections_3_and_4_show_vectors_that_read_and_write_the_trait(trait: str) -> None:
    three, four = (
        {key.rpartition("/")[2]: entry for key, entry in RESULTS.items() if key.startswith(f"{section}/{trait}/")}
        for section in ("section_3", "section_4")
    )
    assert three["effective_pairs"]["value"] >= 60
    assert three["heldout_auc"]["ci"][0] > 0.8
    assert three["leak_auc"]["value"] <= 0.65
    assert four["steering_spearman_low"]["value"] > 0.3
    assert four["steering_range"]["value"] >= 45
    least = 0 if trait != "hallucinating" else -10  # that one is high already without steering, as the text says
    assert four["steering_effect"]["ci"][0] > max(least, four["random_effect"]["value"])
    assert four["coherent_coefficients"]["value"] >= 6
    assert four["pre_response_r"]["ci"][0] > 0.6


def test_the_readme_shows_what_is_on_record():
    assert not update_readme(check=True), "run `python -m personalab record`, or results.update_readme()"
