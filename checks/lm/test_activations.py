"""Pooled activations against the plain loop, and the properties that make batching safe."""

from __future__ import annotations

import pytest
import torch

from personalab.lm import activations, chat, prefix_cache
from personalab.lm.models import d_model, decoder_blocks, n_blocks
from personalab.lm.tiny import FAMILIES, load_tiny_model

CONVERSATIONS = [
    chat.as_messages(system, f"Question {i}: what about the sea?", "It is deep. " * (1 + i % 4) + str(i))
    for system in (
        "You are a pirate who loves the sea and the stars above it.",
        "",
        "You are a judge of long cases.",
    )
    for i in range(5)
]


@torch.inference_mode()
def plain(model, tokenizer, conversations):
    """(n, blocks, d): one conversation at a time."""
    rows = []
    for messages in conversations:
        ids, ((start, end),) = chat.encode(messages, tokenizer)
        hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        rows.append(torch.stack([h[0, start:end].float().mean(0) for h in hidden[1:]]))
    return torch.stack(rows)


@pytest.fixture(params=FAMILIES)
def tiny(request):
    return load_tiny_model(request.param)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("batch_tokens", [1, 150, 100_000])
def test_equals_the_plain_loop_at_every_block_but_the_normed_last(tiny, batch_tokens):
    expected = plain(*tiny, CONVERSATIONS)
    found = activations.mean_response_activations(*tiny, CONVERSATIONS, batch_tokens=batch_tokens)
    assert found.shape == expected.shape
    assert relative(found[:, :-1], expected[:, :-1]) < 1e-5


def test_order_and_company_do_not_matter(tiny):
    together = activations.mean_response_activations(*tiny, CONVERSATIONS, [1])
    backwards = activations.mean_response_activations(*tiny, CONVERSATIONS[::-1], [1]).flip(0)
    alone = torch.cat([activations.mean_response_activations(*tiny, [c], [1]) for c in CONVERSATIONS])
    assert relative(backwards, together) < 1e-5
    assert relative(alone, together) < 1e-5


def test_blocks_come_in_the_order_asked_for(tiny):
    every = activations.mean_response_activations(*tiny, CONVERSATIONS[:3])
    some = activations.mean_response_activations(*tiny, CONVERSATIONS[:3], [2, 0, 2])
    assert torch.allclose(some, every[:, [2, 0, 2]], atol=1e-5)


def test_a_shared_prefix_is_run_once_and_changes_nothing(tiny, monkeypatch):
    shared = activations.mean_response_activations(*tiny, CONVERSATIONS, [1])
    monkeypatch.setattr(prefix_cache, "MIN_PREFIX", 10_000)
    separate = activations.mean_response_activations(*tiny, CONVERSATIONS, [1])
    assert relative(shared, separate) < 1e-5


def test_later_blocks_and_the_head_never_run(tiny):
    model, tokenizer = tiny
    ran = []
    for i, block in enumerate(decoder_blocks(model)):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    model.get_output_embeddings().register_forward_hook(lambda *_: ran.append("head"))
    activations.mean_response_activations(model, tokenizer, CONVERSATIONS[:2], [1])
    assert set(ran) == {0, 1}


def test_hooks_are_gone_afterwards_also_after_an_error(tiny):
    model, tokenizer = tiny
    before = [len(b._forward_hooks) for b in decoder_blocks(model)]
    activations.mean_response_activations(model, tokenizer, CONVERSATIONS[:2], [1])
    with pytest.raises(IndexError):
        activations.pool(model, [chat.Encoded([10**9], [(0, 1)])], [1])
    assert [len(b._forward_hooks) for b in decoder_blocks(model)] == before


def test_several_spans_of_one_conversation_in_one_pass(tiny):
    model, tokenizer = tiny
    messages = [*chat.as_messages(None, "First?", "One."), *chat.as_messages(None, "Second?", "And two.")]
    encoded = chat.encode(messages, tokenizer, turns=[1, 3])
    (means,) = activations.pool(model, [encoded], [1])
    with torch.inference_mode():
        hidden = model(torch.tensor([encoded.ids]), output_hidden_states=True).hidden_states[2][0]
    expected = torch.stack([hidden[a:b].mean(0) for a, b in encoded.spans])
    assert relative(means[:, 0], expected) < 1e-5


def test_bfloat16_sums_run_in_float32():
    model, tokenizer = load_tiny_model("llama")
    model = model.bfloat16()
    long = [chat.as_messages(None, "Hi", "the sea and the city " * 120)]
    found = activations.mean_response_activations(model, tokenizer, long, [1])
    ids, ((start, end),) = chat.encode(long[0], tokenizer)
    with torch.inference_mode():
        hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0, start:end]
    assert found.dtype == torch.float32
    assert (
        relative(found[0, 0], hidden.float().mean(0)) < 1e-5 < relative(hidden.mean(0).float(), hidden.float().mean(0))
    )


def test_clear_errors_and_empty_input():
    model, tokenizer = load_tiny_model("llama")
    with pytest.raises(ValueError, match="blocks 0 to 3"):
        activations.mean_response_activations(model, tokenizer, CONVERSATIONS[:1], [4])
    with pytest.raises(ValueError, match=r"conversations\[1\]"):
        activations.mean_response_activations(model, tokenizer, [CONVERSATIONS[0], chat.as_messages(None, "Hi", "")])
    empty = activations.mean_response_activations(model, tokenizer, [])
    assert empty.shape == (0, n_blocks(model), d_model(model))
