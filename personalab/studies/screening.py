"""Telling bad training rows from good ones before any training: by projection, and by what else one might ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from personalab.judging.judge import Judge
from personalab.judging.rubrics import TRAITS
from personalab.lm.activations import mean_response_activations
from personalab.lm.chat import Message
from personalab.lm.lora_data import Dialogue, example_of
from personalab.lm.lora_loss import assistant_loss
from personalab.measure.answers import answer_all
from personalab.measure.baselines import word_scores
from personalab.records.datasets import VERSIONS
from personalab.records.prompts import load_contrasts
from personalab.records.rows import MAIN_TRAITS
from personalab.studies.finetuning_subject import Subject, plain, unit_rows

OWN_TOKENS = 40  # of the model's own answer to a training question


def exchange(dialogue: Dialogue) -> tuple[str, str]:
    """Question and answer of a dialogue: what the user said last, and what was answered."""
    asked = [m["content"] for m in dialogue.messages if m["role"] == "user"]
    return asked[-1], dialogue.messages[-1]["content"]


def judge_rows(dialogues: Sequence[Dialogue]) -> Float[np.ndarray, "n traits"]:
    """The embedded judge's scores (0 to 100) of training answers for the main traits; refusals are not looked for."""
    judge = Judge.load()
    scores = judge.traits(judge.features([exchange(d) for d in dialogues]))
    return scores[:, [TRAITS.index(trait) for trait in MAIN_TRAITS]]


def judged(dialogues: Sequence[Dialogue]) -> dict[str, float]:
    """Mean of `judge_rows` by trait."""
    return {t: round(float(s), 2) for t, s in zip(MAIN_TRAITS, judge_rows(dialogues).mean(axis=0), strict=True)}


@torch.inference_mode()
def row_losses(subject: Subject, dialogues: Sequence[Dialogue]) -> list[float]:
    """Nats a token of each answer under the model before training."""
    examples = [example_of(d, subject.tokenizer) for d in dialogues]
    return [assistant_loss(subject.model, [e]).item() for e in examples]


def states(subject: Subject, conversations: Sequence[Sequence[Message]]) -> Float[Tensor, "n d"]:
    """Mean state over each answer after the subject's block."""
    return mean_response_activations(subject.model, subject.tokenizer, conversations, [subject.block])[:, 0]


def screen(subject: Subject, category: str) -> dict[str, Any]:
    """Every drawn row of a category's versions by projection difference, judge, words and loss.

    The projection difference is a row's answer minus the model's own answer to its question, along each main trait.
    Words: log-odds of the trait by the words of the organism's contrasting answers, which no row shares.
    """
    versions = {version: subject.dialogues(category, version) for version in VERSIONS}
    prompts = [d.messages[:-1] for d in versions[VERSIONS[0]]]
    texts = answer_all(subject.model, subject.tokenizer, prompts, max_tokens=OWN_TOKENS)
    answered = [
        [*p, {"role": "assistant", "content": t if t.strip() else "."}] for p, t in zip(prompts, texts, strict=True)
    ]
    own = states(subject, answered)
    directions = unit_rows({t: subject.vectors[t] for t in MAIN_TRAITS}, subject.block)
    words = {t: word_columns(t, [[exchange(d)[1] for d in versions[v]] for v in VERSIONS]) for t in MAIN_TRAITS}
    found: dict[str, Any] = {"category": category, "questions": [exchange(d)[0] for d in versions[VERSIONS[0]]]}
    for k, (version, dialogues) in enumerate(versions.items()):
        difference = states(subject, [d.messages for d in dialogues]) - own
        scores = judge_rows(dialogues)
        found[version] = {"loss": plain(row_losses(subject, dialogues))}
        for i, trait in enumerate(MAIN_TRAITS):
            found[version][trait] = {
                "projection": plain(difference @ directions[trait]),
                "judge": plain(scores[:, i]),
                "words": plain(words[trait][k]),
            }
    return found


def word_columns(trait: str, answers: Sequence[Sequence[str]]) -> list[Float[np.ndarray, "n"]]:
    """Log-odds of a trait by the words of each answer, list by list, fitted on the organism's contrasting answers."""
    contrasts = load_contrasts(trait)
    positive, negative = ([getattr(c, side) for c in contrasts] for side in ("positive", "negative"))
    scores = word_scores(
        positive + negative, [1] * len(positive) + [0] * len(negative), [a for rows in answers for a in rows]
    )
    return np.split(scores, np.cumsum([len(rows) for rows in answers])[:-1])
