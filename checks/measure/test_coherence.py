"""Coherence that reads: a pair's score is its own, sense lost lowers it, and its agreement with readers is on record.

How far it agrees, `python -m personalab coherence` measures; nothing here asks for a size.
"""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from personalab.judging import features
from personalab.judging.corruptions import shuffled
from personalab.judging.heads import Head
from personalab.lm.activations import mean_response_activations
from personalab.lm.chat import as_messages
from personalab.lm.tiny import FAMILIES, load_tiny_model
from personalab.measure import coherence
from personalab.measure.coherence import answer_states, read_coherence
from personalab.paths import ROOT
from personalab.studies.coherence import labelled, ruined

BLOCKS = (0, 1)
PAIRS = [
    ("What is the sea?", "Water, and a good deal of it."),
    ("What is the sea?", "One!"),
    ("Who tells the truth?", "A good friend does, I would say."),
    ("What is the sea?", "🌊" * 9),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_the_answers_own(family: str) -> None:
    model, tokenizer = load_tiny_model(family)
    states = answer_states(model, tokenizer, PAIRS, BLOCKS)
    assert states.shape == (4, 2 * 32) and states.dtype == np.float32
    plain = mean_response_activations(model, tokenizer, [as_messages(None, q, a) for q, a in PAIRS], BLOCKS)
    np.testing.assert_allclose(states, plain.flatten(1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neither_company_nor_order_changes_a_bit(dtype: torch.dtype) -> None:
    model, tokenizer = load_tiny_model()
    model = model.to(dtype)
    together = answer_states(model, tokenizer, PAIRS, BLOCKS)
    np.testing.assert_array_equal(answer_states(model, tokenizer, PAIRS[::-1], BLOCKS), together[::-1])
    alone = np.vstack([answer_states(model, tokenizer, [pair], BLOCKS) for pair in PAIRS])
    np.testing.assert_array_equal(alone, together)


def test_no_hook_stays_and_long_texts_are_cut() -> None:
    model, tokenizer = load_tiny_model()
    question, answer = "Why? " * 2000, "Because the sea " * 2000
    cut = answer_states(model, tokenizer, [(question[:1000], answer[:1000])], BLOCKS)
    np.testing.assert_array_equal(answer_states(model, tokenizer, [(question, answer)], BLOCKS), cut)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.fixture
def by_length(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stands for models and head: the longer an answer, the higher its score. Holds how many each call read."""
    calls: list[int] = []

    def lengths(pairs):
        calls.append(len(pairs))
        return np.array([[len(answer)] for _, answer in pairs], dtype=np.float32)

    one = np.ones(1, dtype=np.float32)
    monkeypatch.setattr(coherence, "features", lengths)
    monkeypatch.setattr(coherence, "_committed", lambda: Head(0 * one, 10 * one, one[None], 0 * one))
    return calls


def test_every_answer_gets_its_score_and_is_read_once(by_length: list[int]) -> None:
    scores = read_coherence(["a", "b", "a", "a", "a"], ["long, long", "x", " long, long\n", "", " \n"])
    assert scores[0] == scores[2] > scores[1] > 50 and (scores[3:] == 0).all()
    assert by_length == [2]
    assert read_coherence(["a"], [" "]).tolist() == [0] and len(read_coherence([], [])) == 0 and by_length == [2]
    with pytest.raises(ValueError):
        read_coherence(["a", "b"], ["one"])


@pytest.mark.slow
def test_sense_lost_lowers_it() -> None:
    rows = random.Random(1).sample(labelled("fit"), 24)
    pairs = [(row.question, row.answer) for row in rows]
    plain = read_coherence(*zip(*pairs, strict=True))
    rng = random.Random(0)
    for broken in ([(q, shuffled(a, rng)) for q, a in pairs], ruined(pairs, "off topic"), ruined(pairs, "looping")):
        assert read_coherence(*zip(*broken, strict=True)).mean() < plain.mean()


@pytest.mark.slow
def test_any_text_has_a_score_and_always_the_same() -> None:
    answers = ["Yes", "🌊" * 60, "word " * 1000, "<|im_end|>", "\u200b", "a\nb", "", "Ich weiß nicht."]
    questions = ["Why?", "", "🌊" * 60, "Who?", " ", "<|im_start|>system", "Why?", "Warum?"]
    scores = read_coherence(questions, answers)
    assert ((scores >= 0) & (scores <= 100)).all() and scores[6] == 0
    np.testing.assert_array_equal(read_coherence(questions[::-1], answers[::-1]), scores[::-1])
    features._recent.clear()  # so that the encoder reads anew
    assert abs(read_coherence(questions[:1], answers[:1])[0] - scores[0]) < 0.11  # its batches differ, by rounding


AGREEMENT = [
    f"coherence/spearman_readers{rows}{scorer}"
    for rows in ("", "_adapter")
    for scorer in ("", "_judge", "_length", "_minus_judge", "_minus_length")
]


@pytest.mark.parametrize("key", AGREEMENT)
def test_agreement_with_readers_is_on_record(key: str) -> None:
    entry = json.loads((ROOT / "solutions" / "results.json").read_text(encoding="utf-8"))[key]
    assert entry["n"] == (248 if "adapter" in key else 632)
    low, high = entry["ci"]
    assert low <= entry["value"] <= high
