"""Unsloth's model and adapter in the place of ours, on machines with a GPU: the same data, losses and interventions.

    model, tokenizer = load_unsloth("Qwen/Qwen2.5-7B-Instruct", PAPER)
    finetune(model, tokenizer, dialogues, PAPER, folder, interventions=[Steer(19, vector, 5.0)])

Install it on top of requirements-gpu.txt: `pip install unsloth==2026.10.9 -c constraints.txt`. Our calls are checked
against the signatures of that version (`checks/lm/test_unsloth.py`). No GPU has run this path for us yet: tell us what
you find.
"""

from __future__ import annotations

import importlib
import os

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from personalab.lm.lora_data import LINEAR, LoraSettings, TrainingError

VERSION = "2026.10.9"  # against whose source our calls are checked


def load_unsloth(
    model_id: str, settings: LoraSettings, *, four_bit: bool = False
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """A model of the hub as `FastLanguageModel` loads it, with its LoRA around it; `finetune` trains it as it is.

    Raises:
        TrainingError: if Unsloth is not installed, or finds no GPU.
    """
    os.environ.setdefault("UNSLOTH_RETURN_LOGITS", "1")  # our loss reads logits
    try:
        unsloth = importlib.import_module("unsloth")  # it patches transformers when it is imported, so only here
    except (ImportError, NotImplementedError, RuntimeError) as error:
        raise TrainingError(
            f"Unsloth cannot be used here ({error}). It needs a GPU and `pip install unsloth=={VERSION} -c "
            "constraints.txt`; without it, leave --unsloth out."
        ) from error
    fast = unsloth.FastLanguageModel
    model, tokenizer = fast.from_pretrained(
        model_name=model_id, max_seq_length=settings.max_tokens, dtype=None, load_in_4bit=four_bit
    )
    tuned = fast.get_peft_model(
        model,
        r=settings.rank,
        target_modules=list(LINEAR if isinstance(settings.targets, str) else settings.targets),
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        bias="none",
        use_gradient_checkpointing="unsloth",
        random_state=settings.seed,
        max_seq_length=settings.max_tokens,
        use_rslora=settings.rslora,
    )
    return tuned, tokenizer
