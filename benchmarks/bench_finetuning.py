"""Finetuning on transformers' Trainer against a plain loop over the same batches, taking turns. `make bench` runs it.

docs/decisions/finetuning-on-the-trainer.md quotes it. The plain loop has no checkpoints, no logs and no schedule.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Sequence

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import utils
from personalab.lm.finetuning import finetune, with_adapter
from personalab.lm.lora_data import Dialogue, LoraSettings, example_of, training_steps
from personalab.lm.lora_loss import assistant_loss
from personalab.lm.models import twin
from personalab.studies.organism import neutral_dialogues

ROUNDS, N_DIALOGUES = 4, 60


def plain_loop(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dialogues: Sequence[Dialogue], settings: LoraSettings
) -> PeftModel:
    """What is left of training without everything that one wants of it."""
    examples = [example_of(d, tokenizer) for d in dialogues]
    tuned = with_adapter(model, settings).train()
    weights = [p for p in tuned.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
    half = model.dtype != torch.float32
    for rows in training_steps(examples, settings):
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = assistant_loss(tuned, [examples[i] for i in rows], settings)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, settings.clip)
        optimiser.step()
    return tuned.eval()


def main() -> int:
    model, tokenizer = utils.load_model("persona")
    dialogues, settings = neutral_dialogues()[:N_DIALOGUES], LoraSettings(max_tokens=256)
    steps = len(training_steps([example_of(d, tokenizer) for d in dialogues], settings))
    print(f"{model.dtype}, {torch.get_num_threads()} threads, {len(dialogues)} dialogues in {steps} steps")
    seconds: dict[str, list[float]] = {"plain loop": [], "Trainer": []}
    for _ in range(ROUNDS + 1):  # the first round warms up
        for name in seconds:
            start = time.process_time()
            if name == "Trainer":
                finetune(twin(model), tokenizer, dialogues, settings, progress=False)
            else:
                plain_loop(twin(model), tokenizer, dialogues, settings)
            seconds[name].append(time.process_time() - start)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"  {name}: {seconds[name][-1]:.1f} processor seconds, peak so far {peak:.2f} GiB")
    ratios = [a / b for a, b in zip(seconds["Trainer"][1:], seconds["plain loop"][1:], strict=True)]
    print(f"Trainer over plain loop: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
