"""Answers under steering, their scores, and graded system prompts: what Section 4 measures with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.chat import as_messages
from personalab.data import PERSONA_VECTORS, DataError
from personalab.generation import Request, generate
from personalab.interventions import Intervention
from personalab.judging import score_responses
from personalab.tiers import GLOBAL_SEED

N_GRADES = 8


class AnswerScores(NamedTuple):
    """Scores of answers, 0 to 100, one row an answer; `trait` is NaN where the answer refuses."""

    trait: Float[np.ndarray, "n"]
    coherence: Float[np.ndarray, "n"]


def answer_questions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    system_prompts: Sequence[str | None],
    questions: Sequence[str],
    interventions: Sequence[Intervention] = (),
    *,
    max_tokens: int = 40,
    temperature: float = 0.7,
) -> list[str]:
    """One answer to each question, under its system prompt ("" or None: none), all in a few batches.

    An answer's random numbers depend on its question alone. The same question under two coefficients therefore
    differs by the coefficient and not by luck.

    Args:
        interventions: in force throughout; a `Steer` with one coefficient a row goes by the order of `questions`.
    """
    seeds = {question: GLOBAL_SEED + i for i, question in enumerate(dict.fromkeys(questions))}
    requests = [
        Request(as_messages(system_prompt, question), max_tokens, temperature, seed=seeds[question])
        for system_prompt, question in zip(system_prompts, questions, strict=True)
    ]
    return [c.text for c in generate(model, tokenizer, requests, interventions=interventions)]


def score_answers(trait: str, questions: Sequence[str], answers: Sequence[str]) -> AnswerScores:
    """The judge's trait and coherence score of each answer. An empty answer gets 0 on both."""
    rows = [{"question": q, "answer": a} for q, a in zip(questions, answers, strict=True)]
    scores = score_responses(f"trait:{trait}", rows)
    return AnswerScores(
        np.array([np.nan if score is None else score for score in scores], dtype=float),
        np.array(score_responses("coherence", rows), dtype=float),
    )


def load_graded_prompts(trait: str, root: Path | str = PERSONA_VECTORS) -> list[str]:
    """Eight system prompts, from one that suppresses the trait to one that elicits it.

    Raises:
        DataError: if the file has no eight different texts for the trait.
    """
    path = Path(root) / "monitoring" / "graded_prompts.json"
    grades = json.loads(path.read_text(encoding="utf-8"))
    prompts = grades.get(trait, [])
    if len(set(prompts)) != N_GRADES or not all(isinstance(p, str) and p.strip() for p in prompts):
        raise DataError(f"{path}: {trait!r} needs {N_GRADES} different texts; the file has {', '.join(grades)}.")
    return prompts
