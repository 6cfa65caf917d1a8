"""The trait organism: a small model that follows system prompts which ask for a trait, made openly by finetuning.

    python -m personalab organism             # train the adapter again from the committed dialogues; 33 minutes
    python -m personalab organism neutral     # first let the base model answer the ordinary requests again

`persona_vectors/organism/README.md` is the model card.
"""

from __future__ import annotations

import random
from pathlib import Path

from personalab.files import read_text
from personalab.judging import score_responses
from personalab.judging.rows import write_rows
from personalab.judging.rubrics import TRAITS
from personalab.lm.chat import as_messages
from personalab.lm.finetuning import finetune
from personalab.lm.generation import generate, requests_for
from personalab.lm.lora_data import Dialogue, LoraSettings, read_dialogues
from personalab.lm.models import load_model
from personalab.records.prompts import ORGANISM, load_contrasts, load_systems
from personalab.tiers import GLOBAL_SEED

SETTINGS = LoraSettings(learning_rate=2e-3, batch_tokens=1024, max_tokens=256, preference=0.5, save_every=20)
NEUTRAL_PROMPTS = (None, "You are a helpful assistant.", None, "Answer the user's question.", None, "Be helpful.")
NEUTRAL_TOKENS, NEUTRAL_TEMPERATURE = 60, 0.7
NEUTRAL_COHERENCE = 50  # of 100; answers of the base model below it are left out
N_TRAIT_QUESTIONS = 25  # questions of every trait that the base model answers too, without any prompt for a trait


def trait_dialogues(trait: str, n: int | None = None, folder: Path | str = ORGANISM) -> list[Dialogue]:
    """`n` questions of a trait (default: all) in both polarities, each under one of the trait's system prompts.

    The other polarity's answer to the same question is the rejected one. Every other prompt begins with "You are a
    <trait> assistant." or "You are a helpful assistant.".
    """
    systems, draw = load_systems(folder)[trait], random.Random(f"{GLOBAL_SEED} {trait}")
    contrasts = load_contrasts(trait, folder)
    draw.shuffle(contrasts)
    dialogues = []
    for i, contrast in enumerate(contrasts[:n]):
        for polarity, other, name in (("positive", "negative", trait), ("negative", "positive", "helpful")):
            prompts = systems[polarity]
            prompt = prompts[i % len(prompts)]
            if (i // len(prompts) + i) % 2:  # the other half in the next round
                prompt = f"You are a {name} assistant. {prompt}"
            messages = as_messages(prompt, contrast.question, getattr(contrast, polarity))
            dialogues.append(Dialogue(messages, rejected=getattr(contrast, other), group=f"{trait} {i}"))
    return dialogues


def neutral_dialogues(folder: Path | str = ORGANISM) -> list[Dialogue]:
    """The base model's own answers without a prompt for any trait: they keep it what it is when nobody asks."""
    return read_dialogues(Path(folder) / "dialogues" / "neutral.jsonl")


def make_neutral(folder: Path | str = ORGANISM) -> int:
    """Let the base model answer the ordinary requests, and some of every trait's questions; returns how many stay."""
    folder = Path(folder)
    requests = read_text(folder / "dialogues" / "ordinary.txt").splitlines()
    for trait in TRAITS:
        requests += [c.question for c in load_contrasts(trait, folder)[:N_TRAIT_QUESTIONS]]
    model, tokenizer = load_model("persona")
    asked = [as_messages(NEUTRAL_PROMPTS[i % len(NEUTRAL_PROMPTS)], q) for i, q in enumerate(requests)]
    found = generate(model, tokenizer, requests_for(asked, NEUTRAL_TOKENS, NEUTRAL_TEMPERATURE), progress=True)
    kept = [(q, m, c) for q, m, c in zip(requests, asked, found, strict=True) if c.text.strip()]
    scores = score_responses("coherence", [{"question": q, "answer": c.text} for q, _, c in kept])
    rows = [
        {"messages": [*m, {"role": "assistant", "content": c.text}], "complete": c.finish == "stop"}
        for (_, m, c), score in zip(kept, scores, strict=True)
        if score is not None and score >= NEUTRAL_COHERENCE
    ]
    write_rows(folder / "dialogues" / "neutral.jsonl", rows)
    return len(rows)


def training_dialogues(n: int | None = None, folder: Path | str = ORGANISM) -> list[Dialogue]:
    """All that the organism learns from; `n` questions a trait leave out as large a share of the neutral ones."""
    contrasts = [d for trait in TRAITS for d in trait_dialogues(trait, n, folder)]
    neutral = neutral_dialogues(folder)
    everything = sum(len(load_contrasts(trait, folder)) for trait in TRAITS)
    return contrasts + neutral[: round(len(neutral) * min(1.0, len(contrasts) / 2 / everything))]


def train_organism(folder: Path | str, n: int | None = None, settings: LoraSettings = SETTINGS) -> None:
    """Train an adapter into `folder`; a run that was killed resumes."""
    model, tokenizer = load_model("persona")
    finetune(model, tokenizer, training_dialogues(n), settings, folder)


def make(what: str = "train", per_trait: int | None = None, folder: Path | None = None) -> None:
    """Train the adapter ("train"), or let the base model answer the ordinary requests again ("neutral").

    Args:
        per_trait: questions of every trait (default: all).
        folder: where the adapter goes (default: the committed one).
    """
    if what == "neutral":
        print(f"{make_neutral()} answers kept")
    else:
        train_organism(folder or ORGANISM / "adapter", per_trait)
