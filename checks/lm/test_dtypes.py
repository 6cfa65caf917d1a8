"""What holds in float32 holds in bfloat16 and float16 up to their rounding, on every family; training learns in all.

Tolerances are in units of the dtype's epsilon, relative to the norm: rounding differs between batches of other shapes,
and every block adds some. A mistake of one token or one block is larger in every dtype, which is checked as well.
"""

from __future__ import annotations

import pytest
import torch

from personalab.lm import activations, chat, generation, prefix_cache
from personalab.lm.chat import as_messages
from personalab.lm.finetuning import _Trainer, finetune
from personalab.lm.generation import Request, generate
from personalab.lm.hooks import hooked
from personalab.lm.interventions import Ablate, Cap, Steer, applied
from personalab.lm.lora_data import Dialogue, LoraSettings, example_of
from personalab.lm.lora_loss import assistant_loss
from personalab.lm.models import decoder_blocks, twin
from personalab.lm.tiny import FAMILIES, load_tiny_model

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Of rounding allowed between two ways to compute one thing. Measured here: activations 2.9, 0.4 and 0.4, interventions
# 0, 0.3 and 0.3, logits 7.7, 1.9 and 2.1 (float32, bfloat16, float16); a token left out, 13 at least in bfloat16.
EPSILONS = {torch.float32: 16, torch.bfloat16: 3, torch.float16: 3}
CONVERSATIONS = [
    as_messages(system, f"Question {i}: what about the sea?", "It is deep. " * (1 + i % 3) + str(i))
    for system in ("You are a pirate who loves the sea and the stars above it.", "", "You are a judge of long cases.")
    for i in range(4)
]

every_family = pytest.mark.parametrize("family", FAMILIES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def load(family, dtype):
    model, tokenizer = load_tiny_model(family)
    return model.to(dtype), tokenizer


def off(found, expected, dtype):
    """Largest relative difference of a row, in the dtype's epsilons."""
    found, expected = found.float().flatten(1), expected.float().flatten(1)
    return ((found - expected).norm(dim=1) / expected.norm(dim=1)).max().item() / torch.finfo(dtype).eps


def read(model, tokenizer, conversations=CONVERSATIONS, blocks=(1,), **settings):
    return activations.mean_response_activations(model, tokenizer, conversations, list(blocks), **settings)


@every_family
@every_dtype
class TestExtraction:
    def test_batch_order_and_shared_prefixes_do_not_matter(self, family, dtype, monkeypatch):
        model, tokenizer = load(family, dtype)
        together = read(model, tokenizer)
        assert together.dtype == torch.float32
        assert off(read(model, tokenizer, CONVERSATIONS[::-1]).flip(0), together, dtype) < EPSILONS[dtype]
        assert off(read(model, tokenizer, batch_tokens=1), together, dtype) < EPSILONS[dtype]
        monkeypatch.setattr(prefix_cache, "MIN_PREFIX", 10_000)
        assert off(read(model, tokenizer), together, dtype) < EPSILONS[dtype]

    def test_equals_a_single_row_and_no_neighbouring_token_or_block(self, family, dtype):
        model, tokenizer = load(family, dtype)
        found = read(model, tokenizer, CONVERSATIONS[:4])
        for i, messages in enumerate(CONVERSATIONS[:4]):
            ids, ((start, end),) = chat.encode(messages, tokenizer)
            with torch.inference_mode():
                states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
            right = states[2][0, start:end].float().mean(0)
            wrong = [states[2][0, start + 1 : end], states[2][0, start - 1 : end], states[1][0, start:end]]
            assert off(found[i], right[None], dtype) < EPSILONS[dtype]
            assert all(off(found[i], w.float().mean(0)[None], dtype) > 1.5 * EPSILONS[dtype] for w in wrong)


@torch.inference_mode()
def next_logits(model, tokenizer, messages):
    """Logits after a prompt and after one more token, in the plain way: the whole text at once, unpadded."""
    ids = tokenizer(chat.render_prompt(messages, tokenizer), add_special_tokens=False)["input_ids"]
    return [model(torch.tensor([ids + more])).logits[0, -1].float() for more in ([], [5])]


class Forced:
    """A sampler's stand-in: keeps the logits of every step, and makes every row write token 5."""

    def __init__(self, *_):
        self.seen = []
        Forced.last = self

    def __call__(self, input_ids, scores):
        self.seen.append(scores.float().clone())
        forced = torch.full_like(scores.float(), -1e9)
        forced[:, 5] = 0
        return forced


@every_family
@every_dtype
def test_cached_padded_batches_give_the_logits_of_single_rows(family, dtype, monkeypatch):
    """Texts may differ where two tokens tie within rounding, so logits are compared, under forced tokens."""
    model, tokenizer = load(family, dtype)
    monkeypatch.setattr(generation, "GumbelSampler", Forced)
    monkeypatch.setattr(generation, "batches_of", lambda prompts, *_: [list(range(len(prompts)))])
    asked = [c[:-1] for c in CONVERSATIONS]
    generate(model, tokenizer, [Request(c, 2, 0.0) for c in asked])
    for row, messages in enumerate(asked):
        for step, expected in enumerate(next_logits(model, tokenizer, messages)):
            assert off(Forced.last.seen[step][row][None], expected[None], dtype) < EPSILONS[dtype]


@every_family
@every_dtype
def test_a_sampled_answer_repeats_itself(family, dtype):
    model, tokenizer = load(family, dtype)
    requests = [Request(c[:-1], 8, 0.7, seed=i) for i, c in enumerate(CONVERSATIONS)]
    assert generate(model, tokenizer, requests) == generate(model, tokenizer, requests)


@torch.inference_mode()
def outputs(model, interventions, block=1):
    seen = []
    with applied(model, interventions), hooked(decoder_blocks(model)[block], seen.append):
        model(input_ids=torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]]))
    return seen[0]


@every_family
@every_dtype
def test_interventions_do_what_they_say(family, dtype):
    model, _ = load(family, dtype)
    v = torch.randn(32, generator=torch.Generator().manual_seed(3))
    unit, plain = v / v.norm(), outputs(model, [])
    before = plain.float()
    threshold = (before @ unit).median().item()
    floor = before - (before @ unit - threshold).clamp_min(0)[..., None] * unit
    changes = {
        Steer(1, v, 2.0): before + 2 * v,
        Cap(1, v, threshold): floor,
        Ablate(1, v): before - (before @ unit)[..., None] * unit,
    }
    for intervention, expected in changes.items():
        found = outputs(model, [intervention])
        assert found.dtype == dtype and torch.isfinite(found).all()
        assert off(found, expected, dtype) < EPSILONS[dtype]
        assert off(plain, expected, dtype) > 1.5 * EPSILONS[dtype]  # or nothing would be tested
    idle = [Steer(1, v, 0.0), Cap(1, v, 1e4)]
    assert torch.equal(outputs(model, idle), plain)


# Training: the model is float32, as it is where weights are loaded for training; the dtype is what it computes in


def dialogues():
    return [Dialogue(as_messages(None, f"question {i}", "an answer, " + "very " * (i % 3) + "long")) for i in range(8)]


def loss_of(model, tokenizer):
    with torch.inference_mode():
        return assistant_loss(model, [example_of(d, tokenizer) for d in dialogues()]).item()


@pytest.fixture
def computes_in(dtype, monkeypatch):
    monkeypatch.setenv("PERSONALAB_DTYPE", str(dtype).removeprefix("torch."))


SETTINGS = LoraSettings(epochs=6, learning_rate=1e-2, batch_tokens=200, save_every=1)


@every_family
@every_dtype
def test_training_learns(family, dtype, computes_in):
    model, tokenizer = load_tiny_model(family)
    before = loss_of(model, tokenizer)
    tuned = finetune(twin(model), tokenizer, dialogues(), SETTINGS, progress=False)
    assert loss_of(tuned, tokenizer) < 0.6 * before
    assert all(p.dtype == torch.float32 for p in tuned.parameters() if p.requires_grad or "lora" in str(p))


@every_dtype
def test_training_a_model_loaded_in_the_dtype_learns_too(dtype, computes_in):
    model, tokenizer = load("llama", dtype)
    before = loss_of(model, tokenizer)
    tuned = finetune(twin(model), tokenizer, dialogues(), SETTINGS, progress=False)
    assert loss_of(tuned, tokenizer) < 0.6 * before


@every_dtype
@pytest.mark.parametrize("pushed", [False, True])
def test_a_killed_run_resumes_to_the_same_weights(dtype, pushed, computes_in, tmp_path, monkeypatch):
    model, tokenizer = load_tiny_model("qwen2")
    interventions = [Steer(1, torch.ones(32), 0.5)] if pushed else []

    def run(folder):
        return finetune(
            twin(model),
            tokenizer,
            dialogues(),
            SETTINGS,
            tmp_path / folder,
            interventions=interventions,
            progress=False,
        )

    straight, compute = run("a"), _Trainer.compute_loss

    def dies(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return compute(self, *args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(_Trainer, "compute_loss", dies)
        run("b")
    resumed = run("b")
    for (name, a), b in zip(straight.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name
