"""Answers of a local model, many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.chat import Message, as_messages
from personalab.generation import generate, requests_for
from personalab.interventions import Intervention


def answer_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[Message]],
    *,
    max_tokens: int = 40,
    temperature: float = 0.7,
    interventions: Sequence[Intervention] = (),
) -> list[str]:
    """The model's own answer to every conversation, in their order; its luck is its own (`requests_for`).

    Args:
        interventions: in force throughout; coefficients that differ between rows go by the order of `conversations`.
    """
    requests = requests_for(conversations, max_tokens, temperature, interventions=interventions)
    return [c.text for c in generate(model, tokenizer, requests, interventions=interventions, progress=True)]


def contrastive_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    traits: Mapping[str, Mapping[str, Any]],
    *,
    instructions: Sequence[int] | None = None,
    max_tokens: int = 40,
) -> dict[str, list[dict[str, Any]]]:
    """What `generate_contrastive_responses` returns, for many traits in one batch; empty answers are left out.

    Args:
        traits: `{name: {"instruction": [{"pos", "neg"}, ...], "questions": [...], ...}}`.
        instructions: which pairs of system prompts to use (default: all).
    """
    asked = [
        (
            trait,
            {
                "question": question,
                "system_prompt": f"You are a {name} assistant. {data['instruction'][i][polarity]}",
                "instruction_idx": i,
                "polarity": polarity,
            },
        )
        for trait, data in traits.items()
        for i in (range(len(data["instruction"])) if instructions is None else instructions)
        for polarity, name in (("pos", trait), ("neg", "helpful"))
        for question in data["questions"]
    ]
    conversations = [as_messages(row["system_prompt"], row["question"]) for _, row in asked]
    texts = answer_all(model, tokenizer, conversations, max_tokens=max_tokens)
    found: dict[str, list[dict[str, Any]]] = {trait: [] for trait in traits}
    for (trait, row), text in zip(asked, texts, strict=True):
        if text.strip():
            found[trait].append(row | {"response": text})
    if dropped := len(asked) - sum(map(len, found.values())):
        print(f"{dropped} of {len(asked)} answers are empty, and left out")
    return found
