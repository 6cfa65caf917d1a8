"""Capability and perplexity against plain loops; the shipped items."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch

from personalab.lm.chat import render_prompt
from personalab.lm.interventions import Steer, applied
from personalab.lm.tiny import FAMILIES, load_tiny_model
from personalab.measure.capability import INSTRUCTION, WINDOW, multiple_choice, prose_nll
from personalab.records.items import Item, load_items, load_prose
from personalab.records.schema import DataError

ITEMS = [
    Item("facts", "The sea is", ("very deep", "a pirate and a friend", "one", "the moon"), 1),
    Item("facts", "A good friend tells", ("the truth", "two", "three and four", "nothing at all"), 0),
    Item("facts", "I would say that the moon", ("sees the city", "is", "answers", "listens first"), 3),
]


@torch.inference_mode()
def plain_choice(model, tokenizer, item: Item) -> int:
    """One option at a time, no shared prefix, no batch."""
    head = render_prompt([{"role": "user", "content": INSTRUCTION}], tokenizer)
    means = []
    for option in item.options:
        ids = tokenizer(f"{head}{item.stem} {option}.", add_special_tokens=False)["input_ids"]
        stem = tokenizer(head + item.stem, add_special_tokens=False)["input_ids"]
        start = next(i for i, (a, b) in enumerate(zip([*stem, None], ids, strict=False)) if a != b)
        log_p = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
        means.append(np.mean([log_p[t - 1, ids[t]].item() for t in range(start, len(ids))]))
    return int(np.argmax(means))


@pytest.mark.parametrize("family", FAMILIES)
def test_multiple_choice_is_what_a_plain_loop_finds(family):
    model, tokenizer = load_tiny_model(family)
    steer = [Steer(1, 2 * torch.randn(32, generator=torch.Generator().manual_seed(0)))]
    for interventions in ([], steer):
        with applied(model, interventions):
            expected = [plain_choice(model, tokenizer, item) == item.answer for item in ITEMS]
        assert multiple_choice(model, tokenizer, ITEMS, interventions).tolist() == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_prose_nll_is_the_models_own_loss(family):
    model, tokenizer = load_tiny_model(family)
    texts = ["the sea and the city and the moon " * 200]
    ids = tokenizer(texts[0], add_special_tokens=False)["input_ids"]
    found = prose_nll(model, tokenizer, texts, n_tokens=2 * WINDOW, skip=5)
    with torch.inference_mode():
        for i, nll in enumerate(found):
            window = torch.tensor([ids[5 + i * WINDOW : 5 + (i + 1) * WINDOW]])
            assert nll == pytest.approx(model(input_ids=window, labels=window).loss.item(), rel=1e-4)
    with pytest.raises(ValueError, match=r"tokens, .* are needed"):
        prose_nll(model, tokenizer, ["short"], n_tokens=2 * WINDOW)


def test_items_are_many_different_and_balanced():
    items, calibration = load_items(), load_items("calibration")
    assert len(items) >= 300
    assert not {(i.stem, i.options[i.answer]) for i in items} & {(i.stem, i.options[i.answer]) for i in calibration}
    assert len({(i.stem, i.options) for i in items}) == len(items)
    assert all(len(set(i.options)) == 4 for i in items)
    places = Counter(i.answer for i in items)
    assert max(places.values()) < 0.32 * len(items)  # the right ending has no favourite place


def test_a_bad_item_is_named(tmp_path):
    (tmp_path / "capability").mkdir()
    item = {"kind": "facts", "stem": "One plus one is", "options": ["two"], "answer": 3}
    (tmp_path / "capability" / "calibration.jsonl").write_text(json.dumps(item) + "\n")
    with pytest.raises(DataError, match=r"calibration\.jsonl, line 1: field 'answer'"):
        load_items("calibration", tmp_path)


def test_prose_is_prose():
    prose = load_prose()
    assert sum(len(p.split()) for p in prose) > 18_000
    assert not any("::=" in p or "\n" in p for p in prose)
