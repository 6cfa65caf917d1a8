"""Finetuning's steps against a loop that anybody can follow: torch's AdamW, row by row, the same batches."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from architectures import load_architecture
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from personalab.lm.chat import as_messages
from personalab.lm.finetuning import finetune, with_adapter
from personalab.lm.lora_data import Dialogue, LoraSettings, example_of, training_steps
from personalab.lm.tiny import load_tiny_model

TOKENIZER = load_tiny_model("qwen2")[1]
DATA = [Dialogue(as_messages(None, f"question {i}", "an answer, " + "very " * (i % 4) + "long")) for i in range(7)]
PLAIN = LoraSettings(rank=4, alpha=8, learning_rate=3e-3, batch_size=2, epochs=2, clip=0.5)


def base(name: str) -> PreTrainedModel:
    """Without dropout, whose noise nobody could compare."""
    model = load_architecture(name)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def naive(model: PreTrainedModel, settings: LoraSettings) -> tuple[list[float], Tensor, dict[str, Tensor]]:
    """The loss of every step, how far the adapter's weights have moved after the last, and these weights."""
    examples = [example_of(d, TOKENIZER) for d in DATA]
    batches = training_steps(examples, settings)
    steps = [batches[i : i + settings.accumulation] for i in range(0, len(batches), settings.accumulation)]
    tuned = with_adapter(model, settings)
    weights = {name: p for name, p in tuned.named_parameters() if p.requires_grad}
    begun = {name: p.detach().clone() for name, p in weights.items()}
    optimiser = torch.optim.AdamW(weights.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    warm, losses = max(1, round(settings.warmup * len(steps))), []
    for n, step in enumerate(steps):
        rows = [examples[i] for batch in step for i in batch]
        total: Tensor = torch.zeros(())
        for row in rows:
            logits = tuned(input_ids=row.ids[None], use_cache=False).logits[0]
            at = row.learned.nonzero()[:, 0]
            total = total + F.cross_entropy(logits[at - 1].float(), row.ids[at], reduction="sum")
        loss = total / sum(int(row.learned.sum()) for row in rows)
        left = (len(steps) - n) / max(1, len(steps) - warm)
        falls = left if settings.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))
        optimiser.param_groups[0]["lr"] = settings.learning_rate * ((n + 1) / warm if n < warm else falls)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(list(weights.values()), settings.clip)
        optimiser.step()
        losses.append(loss.item())
    moved = torch.cat([(p.detach() - begun[name]).flatten() for name, p in weights.items()]).norm()
    return losses, moved, {name: p.detach() for name, p in weights.items()}


@pytest.mark.parametrize("name", ["qwen2", "gpt2", "mixtral"])
@pytest.mark.parametrize(
    "settings",
    [PLAIN, replace(PLAIN, accumulation=3, schedule="linear", weight_decay=0.1)],
    ids=["one batch a step", "three batches a step"],
)
def test_steps_are_those_of_a_plain_loop(name: str, settings: LoraSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONALAB_DTYPE", "float32")
    losses, moved, weights = naive(base(name), settings)
    tuned = finetune(base(name), TOKENIZER, DATA, settings, progress=False)
    log = [entry for entry in tuned.training_log if "loss" in entry]
    assert [entry["loss"] for entry in log] == pytest.approx(losses, rel=2e-3)
    found = {n: p.detach() for n, p in tuned.named_parameters() if p.requires_grad}
    assert found.keys() == weights.keys()
    apart = torch.cat([(found[n] - weights[n]).flatten() for n in weights]).norm()
    assert apart < 0.05 * moved
