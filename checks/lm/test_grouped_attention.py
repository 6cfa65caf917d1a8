"""Attention by groups of query heads: what transformers' own gives, wherever a model decodes with sdpa."""

from __future__ import annotations

import pytest
import torch

from personalab.lm.generation import Request, generate
from personalab.lm.grouped_attention import _NAME, grouped_attention
from personalab.lm.tiny import FAMILIES, load_tiny_model

DTYPES = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 3e-3}


def next_logits(model, ids, mask):
    """Of one more token for a padded batch whose cache holds the rest."""
    positions = mask.cumsum(1).sub(1).clamp_min(0)
    start = model(ids[:, :-1], attention_mask=mask[:, :-1], position_ids=positions[:, :-1], use_cache=True)
    cache = start.past_key_values
    return model(ids[:, -1:], attention_mask=mask, position_ids=positions[:, -1:], past_key_values=cache).logits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_it_gives_what_sdpa_gives(family, dtype):
    model, _ = load_tiny_model(family)
    model = model.to(getattr(torch, dtype))
    ids = torch.randint(5, 60, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    expected = next_logits(model, ids, mask).float()
    with grouped_attention(model):
        found = next_logits(model, ids, mask).float()
    assert (found - expected).norm() <= DTYPES[dtype] * expected.norm()


@pytest.fixture
def shared():
    """A model whose query heads share keys, in pairs."""
    model, tokenizer = load_tiny_model("llama")
    assert model.config.num_attention_heads > model.config.num_key_value_heads
    return model, tokenizer


def test_decoding_copies_no_keys_and_says_the_same(shared, monkeypatch):
    from transformers.integrations import sdpa_attention

    model, tokenizer = shared
    asked = [Request([{"role": "user", "content": "word " * n}], 6, temperature=0.0) for n in (1, 5, 9)]
    copied = []
    repeat = sdpa_attention.repeat_kv
    monkeypatch.setattr(sdpa_attention, "repeat_kv", lambda *args: copied.append(1) or repeat(*args))
    texts = generate(model, tokenizer, asked)
    blocks = model.config.num_hidden_layers
    assert len(copied) == 2 * blocks  # keys and values, in the pass that reads the prompts
    model.set_attn_implementation("eager")
    assert [c.text for c in generate(model, tokenizer, asked)] == [c.text for c in texts]


def test_the_model_is_left_as_it_was(shared):
    model, _ = shared
    for own in ("sdpa", "eager"):
        model.set_attn_implementation(own)
        with pytest.raises(KeyError), grouped_attention(model):
            assert (model.config._attn_implementation == _NAME) == (own == "sdpa")
            raise KeyError
        assert model.config._attn_implementation == own
