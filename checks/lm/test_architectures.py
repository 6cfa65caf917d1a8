"""Thirty-five architectures through generation, pooling, steering, capping, spans and finetuning, each against the
naive loop: one row, no cache, plain hooks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from architectures import ARCHITECTURES, STATEFUL, load_architecture, naive_greedy, naive_means

from personalab.lm import activations, chat, prefix_cache
from personalab.lm.finetuning import finetune
from personalab.lm.generation import Request, generate
from personalab.lm.interventions import Cap, Steer
from personalab.lm.lora_data import Dialogue, LoraSettings, TrainingError, example_of
from personalab.lm.lora_loss import assistant_loss
from personalab.lm.positions import GAPS_CHECKED, may_share, may_share_with_gaps
from personalab.lm.tiny import FAMILIES, load_tiny_model

TOKENIZER = load_tiny_model("qwen2")[1]
PERSONAS = ("You are a pirate who loves the sea and the stars above it.", "You are a judge of long and short cases.")
PROMPTS = [
    chat.as_messages(persona, f"Question {i}: what about the sea" + " and the moon" * i + "?")
    for persona in PERSONAS
    for i in range(2)
]
ANSWERED = [[*p, {"role": "assistant", "content": "It is deep. " * (1 + i % 3)}] for i, p in enumerate(PROMPTS)]
VECTOR = torch.randn(32, generator=torch.Generator().manual_seed(1))
BLOCK, TOKENS = 1, 4
END = TOKENIZER("<|im_end|>\n", add_special_tokens=False)["input_ids"]
# PEFT knows no adapter for the linear layers of these two: it refuses Mamba's, and fails on Llama 4's router.
NO_ADAPTER = ("mamba", "llama4")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request):
    return request.param, load_architecture(request.param)


def expected(model, act=lambda _block, _hidden: None):
    ids = [chat.prompt_ids(p, TOKENIZER) for p in PROMPTS]
    stops = (TOKENIZER.eos_token_id,)
    return [
        TOKENIZER.decode(naive_greedy(model, row, TOKENS, stops, act), skip_special_tokens=True).strip() for row in ids
    ]


def found(model, interventions=()):
    answers = generate(model, TOKENIZER, [Request(p, TOKENS, 0.0) for p in PROMPTS], interventions=interventions)
    return [a.text.strip() for a in answers]


def test_generation_with_and_without_shared_prefixes(model, monkeypatch):
    name, model = model
    model.generation_config.eos_token_id = TOKENIZER.eos_token_id
    naive = expected(model)
    assert found(model) == naive, name
    monkeypatch.setattr(prefix_cache, "MIN_PREFIX", 10_000)
    assert found(model) == naive, name


def test_steering_and_capping(model):
    name, model = model
    model.generation_config.eos_token_id = TOKENIZER.eos_token_id
    unit = F.normalize(VECTOR, dim=0)

    def steer(block, hidden):
        return hidden + 2 * VECTOR if block == BLOCK else None

    def cap(block, hidden):
        return hidden - (hidden @ unit - 0.1).clamp_min(0)[..., None] * unit if block == BLOCK else None

    steered = expected(model, steer)
    assert found(model, [Steer(BLOCK, VECTOR, 2.0)]) == steered, name
    assert found(model, [Steer(BLOCK, VECTOR, torch.full((len(PROMPTS),), 2.0))]) == steered, name
    assert found(model, [Cap(BLOCK, VECTOR, 0.1)]) == expected(model, cap), name
    sweep = Steer(BLOCK, VECTOR, torch.tensor([0.0, 2.0]).repeat(len(PROMPTS)))
    requests = [Request(p, TOKENS, 0.0) for p in PROMPTS for _ in range(2)]
    swept = [a.text.strip() for a in generate(model, TOKENIZER, requests, interventions=[sweep])]
    assert swept == [text for pair in zip(expected(model), steered, strict=True) for text in pair], name


def test_pooling_with_and_without_shared_prefixes(model, monkeypatch):
    name, model = model
    rows = []  # no span from `chat.encode`: an answer's tokens follow on its prompt's
    for prompt, answered in zip(PROMPTS, ANSWERED, strict=True):
        before = chat.prompt_ids(prompt, TOKENIZER)
        answer = TOKENIZER(answered[-1]["content"], add_special_tokens=False)["input_ids"]
        rows.append(naive_means(model, [*before, *answer, *END], len(before), len(before) + len(answer)))
    naive = torch.stack(rows)
    for shortest in (prefix_cache.MIN_PREFIX, 10_000):
        monkeypatch.setattr(prefix_cache, "MIN_PREFIX", shortest)
        means = activations.mean_response_activations(model, TOKENIZER, ANSWERED)
        assert (means - naive).norm() < 1e-5 * naive.norm(), name
    last = activations.last_prompt_activations(model, TOKENIZER, PROMPTS)
    ids = [chat.prompt_ids(p, TOKENIZER) for p in PROMPTS]
    naive = torch.stack([naive_means(model, row, len(row) - 1, len(row)) for row in ids])
    assert (last - naive).norm() < 1e-5 * naive.norm(), name


def test_finetuning(model):
    """Loss and gradient of a padded batch are those of its rows one by one, and training lowers the loss."""
    name, model = model
    dialogues = [Dialogue(messages) for messages in ANSWERED]
    examples = [example_of(d, TOKENIZER) for d in dialogues]

    def naive(model):
        losses = []
        for e in examples:
            logits = model(input_ids=e.ids[None], use_cache=False).logits[0]
            learned = e.learned.nonzero()[:, 0]
            losses.append(F.cross_entropy(logits[learned - 1].float(), e.ids[learned], reduction="none"))
        return torch.cat(losses).mean()

    with torch.inference_mode():
        before = naive(model)
        torch.testing.assert_close(assistant_loss(model, examples), before, rtol=1e-4, atol=1e-4)
    weights = [p for p in model.parameters() if p.requires_grad]
    grads = [
        torch.autograd.grad(loss, weights, allow_unused=True)
        for loss in (assistant_loss(model, examples), naive(model))
    ]
    together, alone = (torch.cat([g.flatten() for g in side if g is not None]) for side in grads)
    assert (together - alone).norm() < 1e-3 * alone.norm(), name
    pair = [example_of(Dialogue(ANSWERED[0], rejected="No."), TOKENIZER)]
    if name in STATEFUL:
        with pytest.raises(TrainingError, match="carry a state"):
            assistant_loss(model, pair)
    if name in NO_ADAPTER or name in FAMILIES:  # the five are trained in test_finetuning.py
        return
    settings = LoraSettings(epochs=3, learning_rate=1e-2, batch_tokens=300)
    tuned = finetune(load_architecture(name), TOKENIZER, dialogues, settings, progress=False)
    with torch.inference_mode():
        assert naive(tuned) < before - 0.1, name


def test_what_shares_prefixes_is_what_was_checked(model):
    name, model = model
    kind = model.config.get_text_config().model_type
    assert may_share(model) == (name not in STATEFUL)
    assert (kind in GAPS_CHECKED) == (name not in (*STATEFUL, "mpt", "gpt_neo"))
    assert not may_share_with_gaps(model) or kind in GAPS_CHECKED
