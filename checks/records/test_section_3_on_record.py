"""Section 3 on record: every claim with its n and interval, its baselines, its controls and the differences to them."""

from __future__ import annotations

import json

import pytest

from personalab.paths import ROOT
from personalab.records.rows import MAIN_TRAITS as TRAITS

RESULTS = json.loads((ROOT / "solutions" / "results.json").read_text(encoding="utf-8"))
POINTS = ("layer", "axis_cosine_null", "axis_cosine_identical")  # a choice, a quantile, a vector of one draw
OF_EACH_TRAIT = (
    *POINTS,
    *("effective_pairs", "name_alone", "name_alone_minus_instructions", "leak_auc", "own_minus_reread", "filter_gain"),
    *("rank_plain", "rank_without_usual_words", "rank_look_alike", "rank_neutral"),
    *("half_split_cosine", "half_split_cosine_identical", "half_split_cosine_minus_identical"),
    *("steered", "steered_random", "unsteered", "steered_minus_random", "axis_cosine"),
    *(f"heldout_auc{end}" for b in ("words", "embeddings", "prompt") for end in ("", f"_{b}", f"_minus_{b}")),
    *(f"transfer_auc{end}" for b in ("words", "embeddings", "prompt", "base") for end in ("", f"_{b}", f"_minus_{b}")),
)


@pytest.mark.parametrize("trait", TRAITS)
def test_every_claim_has_its_baselines_and_intervals(trait: str) -> None:
    for name in OF_EACH_TRAIT:
        entry = RESULTS[f"section_3/{trait}/{name}"]
        assert entry["n"] and (entry["ci"] or name in POINTS), name


@pytest.mark.parametrize("headline", ["heldout_auc", "transfer_auc"])
@pytest.mark.parametrize("trait", TRAITS)
def test_a_baseline_is_measured_on_the_answers_of_its_headline(trait: str, headline: str) -> None:
    found = {k: e for k, e in RESULTS.items() if k.startswith(f"section_3/{trait}/{headline}")}
    assert len({entry["n"] for entry in found.values()}) == 1
    value = {k.rpartition("/")[2].removeprefix(headline): e["value"] for k, e in found.items()}
    for baseline in (name for name in value if name.startswith("_minus_")):
        other = value[baseline.replace("_minus_", "_")]
        assert value[baseline] == pytest.approx(value[""] - other)


def test_the_block_is_one_that_the_transfer_texts_left_open() -> None:
    assert RESULTS["section_3/block"]["n"] >= 1 and RESULTS["section_3/block_gain"]["ci"]
