"""The committed results: every key the course promises, what the course claims of them, and the README's table."""

from __future__ import annotations

import json

import pytest

from personalab.paths import ROOT
from personalab.results import HEADLINES, update_readme

RESULTS = json.loads((ROOT / "solutions" / "results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("key", HEADLINES)
def test_headlines_are_on_record(key):
    assert set(RESULTS[key]) == {"value", "n", "ci", "section", "tier", "model", "seed"}


def test_section_1_shows_the_assistant_axis():
    value = {key.removeprefix("section_1/"): entry["value"] for key, entry in RESULTS.items() if "section_1" in key}
    assert value["pc1_axis_cosine"] >= 0.75
    assert value["pc1_axis_p"] <= 0.05
    assert value["pc1_share"] >= 0.35
    assert value["default_minus_fantastical"] > 0


def test_the_readme_shows_what_is_on_record():
    assert not update_readme(check=True), "run `make run`, or put the table of solutions/results.json into the README"
