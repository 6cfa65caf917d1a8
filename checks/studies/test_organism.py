"""The trait organism's data: enough of it, mild, and nothing of it where the organism or the judge is measured."""

import json
import re

import pytest

from personalab.judging.rubrics import TRAITS
from personalab.paths import ROOT
from personalab.records.prompts import load_contrasts, load_systems
from personalab.records.schema import DataError
from personalab.studies.organism import (
    SETTINGS,
    neutral_dialogues,
    training_dialogues,
    trait_dialogues,
)

NEAR = 0.5  # of the longer text's word trigrams: more is a near-duplicate
ELSEWHERE = [
    *sorted((ROOT / "persona_vectors" / "data_generation").rglob("*.json")),
    *sorted((ROOT / "persona_vectors" / "dataset").rglob("*.jsonl")),
    *sorted((ROOT / "personalab" / "judging" / "data").rglob("*.jsonl")),
]


def strings(value):
    """Every text in a parsed JSON value."""
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(part)


def trigrams(text):
    words = re.sub(r"[^a-z0-9 ]", "", text.lower()).split()
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def near_duplicates(texts, others):
    """Pairs of a text and another that share most of the longer one's word trigrams."""
    index = {}
    grams = [trigrams(other) for other in others]
    for i, gram in enumerate(grams):
        for g in gram:
            index.setdefault(g, []).append(i)
    for text in texts:
        own, shared = trigrams(text), {}
        for g in own:
            for i in index.get(g, ()):
                shared[i] = shared.get(i, 0) + 1
        for i, count in shared.items():
            if count > NEAR * max(len(own), len(grams[i])):
                yield text, others[i]


def test_near_duplicates_are_found():
    others = ["I painted my kitchen bright orange last week, what do you think of it?"]
    near = ["Well, i painted my kitchen bright orange last week, what do you think?", "I painted a boat."]
    assert [a for a, _ in near_duplicates(near, others)] == near[:1]


@pytest.mark.parametrize("trait", TRAITS)
def test_dialogues_are_many_and_different(trait):
    contrasts = load_contrasts(trait)
    assert len(contrasts) >= 120
    assert len({c.question for c in contrasts}) == len(contrasts)
    assert len({c.positive for c in contrasts} | {c.negative for c in contrasts}) == 2 * len(contrasts)
    for polarity in ("positive", "negative"):
        assert len(set(load_systems()[trait][polarity])) >= 15
    prompts = [d.messages[0]["content"] for d in trait_dialogues(trait)]
    named = [p for p in prompts if p.startswith("You are a ")]
    assert 0.4 < len(named) / len(prompts) < 0.6


def test_neutral_answers_are_the_base_models_own_and_many():
    neutral = neutral_dialogues()
    assert len(neutral) >= 300
    assert any(d.messages[0]["role"] == "system" for d in neutral)
    assert sum(d.messages[0]["role"] == "user" for d in neutral) > len(neutral) / 3


def test_nothing_of_it_stands_where_the_organism_or_the_judge_is_measured():
    own = {m["content"] for d in training_dialogues() for m in d.messages}
    own |= {p for polarities in load_systems().values() for prompts in polarities.values() for p in prompts}
    others = []
    for path in ELSEWHERE:
        text = path.read_text(encoding="utf-8")
        rows = [json.loads(text)] if path.suffix == ".json" else [json.loads(r) for r in text.splitlines() if r.strip()]
        others += [s for row in rows for s in strings(row)]
    assert len(others) > 5000
    assert not own & set(others)
    found = list(near_duplicates(sorted(own), others))
    assert not found, found[:5]


def test_fewer_questions_are_a_part_of_more_and_the_data_fit_the_settings():
    few, more = trait_dialogues("evil", 10), trait_dialogues("evil")
    assert few == more[: len(few)] and len(few) == 20
    assert len(training_dialogues(10)) < 0.2 * len(training_dialogues())
    assert (
        max(len(" ".join(m["content"] for m in d.messages).split()) for d in training_dialogues()) < SETTINGS.max_tokens
    )


def test_a_missing_field_is_named(tmp_path):
    (tmp_path / "dialogues").mkdir()
    (tmp_path / "dialogues" / "evil.jsonl").write_text('{"question": "a", "positive": "b"}\n')
    with pytest.raises(DataError, match=r"evil\.jsonl, line 1: field 'negative' is missing"):
        load_contrasts("evil", tmp_path)
