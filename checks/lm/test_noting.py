"""What is noted while answers are written is what reading them gives, and nothing else passes for it."""

from __future__ import annotations

import pytest
import torch

from personalab.lm import activations, chat, generation, noting
from personalab.lm.activations import mean_response_activations
from personalab.lm.generation import Request, generate
from personalab.lm.interventions import Steer
from personalab.lm.models import are_twins, d_model, decoder_blocks, twin
from personalab.lm.tiny import FAMILIES, load_tiny_model
from personalab.studies.axes import role_states

PROMPTS = [chat.as_messages("You are a pirate." * (i % 3), f"Question {i}" + " the sea" * (i % 7)) for i in range(40)]
REQUESTS = [Request(p, 2 + i % 9, 0.7, seed=i) for i, p in enumerate(PROMPTS)]
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}


def ending_early(family: str, dtype: torch.dtype = torch.float32):
    """A tiny model that ends every fifth of its answers' tokens."""
    model, tokenizer = load_tiny_model(family)
    model.generation_config.eos_token_id = list(range(0, model.config.get_text_config().vocab_size, 5))
    return model.to(dtype), tokenizer


def answered(texts: list[str]) -> list[list[chat.Message]]:
    """The conversations with the answers that say something."""
    pairs = zip(PROMPTS, texts, strict=True)
    return [[*p, {"role": "assistant", "content": text}] for p, text in pairs if text.strip()]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts were read, call by call."""
    counted: list[int] = []
    pool = activations.pool

    def counting(model, encoded, *args, **kwargs):
        counted.append(len(encoded))
        return pool(model, encoded, *args, **kwargs)

    monkeypatch.setattr(activations, "pool", counting)
    return counted


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("family", FAMILIES)
def test_noted_is_what_reading_gives(family, dtype, read):
    model, tokenizer = ending_early(family, dtype)
    plain = [c.text for c in generate(model, tokenizer, REQUESTS, max_batch_rows=12)]
    with noting.noting(model) as noted:
        completions = generate(model, tokenizer, REQUESTS, max_batch_rows=12)
    assert [c.text for c in completions] == plain
    assert {c.finish for c in completions} == {"stop", "length"}
    chats = answered(plain)
    whole = mean_response_activations(model, tokenizer, chats)
    taken = mean_response_activations(model, tokenizer, chats, noted=noted)
    assert read[0] == len(chats) and read[1] <= len(chats) - 3  # at least three came from the notes
    torch.testing.assert_close(taken, whole, atol=TOLERANCE[dtype] * whole.abs().max().item(), rtol=0)
    one = mean_response_activations(model, tokenizer, chats, [2, 0], noted=noted)
    torch.testing.assert_close(one, taken[:, [2, 0]], atol=TOLERANCE[dtype] * whole.abs().max().item(), rtol=0)


def test_the_last_token_counts(read):
    """An answer that ran into its limit has one, and without one more step its states would be missing."""
    model, tokenizer = load_tiny_model("llama")
    model.generation_config.eos_token_id = None
    with noting.noting(model, [1]) as noted:
        texts = [
            c.text for c in generate(model, tokenizer, [Request(p, 1, 0.7, seed=i) for i, p in enumerate(PROMPTS)])
        ]
    chats = answered(texts)
    torch.testing.assert_close(
        mean_response_activations(model, tokenizer, chats, [1], noted=noted),
        mean_response_activations(model, tokenizer, chats, [1]),
        atol=1e-5,
        rtol=1e-4,
    )
    assert read[0] < read[1] == len(chats)


def test_what_was_written_otherwise_is_read(read):
    """Under an intervention, by another model, before or after, after blocks that were not noted."""
    model, tokenizer = ending_early("qwen3")
    push = Steer(1, torch.ones(d_model(model)), 3.0)
    with noting.noting(model, [1]) as noted:
        generate(model, tokenizer, REQUESTS, interventions=[push])
        generate(*ending_early("llama"), REQUESTS)
        assert noted.n == 0
        texts = [c.text for c in generate(model, tokenizer, REQUESTS)]
    before = noted.n
    generate(model, tokenizer, [Request(p, 20, 0.7, seed=99) for p in PROMPTS])
    assert noted.n == before > 0
    chats = answered(texts)
    again = load_tiny_model("qwen3")[0]
    for subject, blocks in ((model, [2]), (model, None), (again, [1])):
        read.clear()
        mean_response_activations(subject, tokenizer, chats, blocks, noted=noted)
        assert read == [len(chats)]


def test_a_twin_writes_for_its_model(read):
    """As the endpoint does: it answers with modules of its own over the same weights."""
    model, tokenizer = ending_early("llama")
    with noting.noting(model) as noted:
        texts = [c.text for c in generate(twin(model), tokenizer, REQUESTS)]
    mean_response_activations(model, tokenizer, answered(texts), noted=noted)
    assert noted.n and read[0] < len(answered(texts))
    assert not are_twins(model, ending_early("llama")[0])  # the same numbers, but not the same weights


def test_a_block_that_does_not_exist():
    model, _ = load_tiny_model("llama")
    with pytest.raises(ValueError, match=rf"blocks \[{len(decoder_blocks(model))}\] do not exist"):
        noting.Noted(model, [0, len(decoder_blocks(model))])


def test_hooks_and_list_are_gone_after_an_error(monkeypatch):
    model, tokenizer = load_tiny_model("llama")
    monkeypatch.setattr(generation, "GumbelSampler", None)
    with pytest.raises(TypeError), noting.noting(model):
        generate(model, tokenizer, REQUESTS)
    assert noting.open_for(model) is None
    assert not model.get_input_embeddings()._forward_pre_hooks
    assert not any(block._forward_hooks for block in decoder_blocks(model))


def test_nan_is_not_noted():
    """It is read, so that the error names conversation and block."""
    model = load_tiny_model("llama")[0]
    seen = noting.Pass(1, torch.tensor([2]), [0])
    seen.n += 2
    seen.sums[0] = torch.full((1, d_model(model)), float("nan"))
    noted = noting.Noted(model, [0])
    noted.keep([[1, 2]], [[3, 4]], [generation.Completion("x", 2, 2, "length")], seen)
    assert noted.n == 0


def test_roles_are_read_while_they_answer(read):
    found = role_states(*load_tiny_model("llama"), n_questions=1, n_roles=3, max_tokens=5)
    assert read and read[0] < len(found.states)
