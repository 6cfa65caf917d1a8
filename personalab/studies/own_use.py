"""Section 4 on any model: monitor and steer with a trait's vector, each beside what could explain it away."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.judging.corruptions import shuffled
from personalab.lm.activations import last_prompt_activations
from personalab.lm.chat import as_messages
from personalab.lm.interventions import Steer
from personalab.measure.answers import answer_questions, score_answers
from personalab.measure.outcome import Example, Ledger, Outcome, over, sizes, spread, statistic
from personalab.records.prompts import load_graded_prompts
from personalab.records.schema import DataError
from personalab.records.upstream import Trait
from personalab.studies.contrast import SHOWN
from personalab.studies.own_axis import N_RANDOM, random_directions
from personalab.tiers import GLOBAL_SEED

ABOUT_MONITOR = (
    "How far the state at the last token of the prompt, before anything is said, foretells how much of the trait the "
    "answer will show. A system prompt's grade alone does much of that; within one prompt only the question differs. "
    "r is the correlation over answers, from -1 to 1."
)
LOST = 5  # points of coherence, our choice: what steering may cost where plain answers hardly reach the limit
COEFFICIENTS = (-1.0, 0.0, 0.5, 1.0, 1.5)  # our choice: the range of Section 4 on the embedded model, half as fine


class Readings(NamedTuple):
    """Of a monitor, by system prompt and question."""

    projections: Float[np.ndarray, "k n"]
    scores: Float[np.ndarray, "k n"]


class Sweep(NamedTuple):
    """Of steering, by coefficient and question; `random`: the mean score along each random vector, at 0 and `best`."""

    coefficients: Float[np.ndarray, "c"]
    scores: Float[np.ndarray, "c n"]
    coherence: Float[np.ndarray, "c n"]
    coherent: Bool[np.ndarray, "c"]
    shuffled: Float[np.ndarray, "c n"]
    random: Float[np.ndarray, "2 k"]
    best: float


def graded(trait: Trait) -> tuple[list[str], Float[np.ndarray, "k"]]:
    """System prompts from one that suppresses the trait to one that elicits it, and the strength of each.

    A trait of your own has three of its negative instructions, no prompt, and three of its positive ones.
    """
    try:
        prompts = load_graded_prompts(trait.name)
        return prompts, np.arange(1.0, len(prompts) + 1)
    except DataError:
        return [*trait.negative[:3], "", *trait.positive[:3]], np.array([-1.0] * 3 + [0.0] + [1.0] * 3)


def study_monitor(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    trait: Trait,
    questions: Sequence[str],
    vectors: Float[Tensor, "L d"],
    *,
    block: int,
    max_tokens: int = 40,
) -> tuple[Outcome, Readings]:
    """Whether the state at the last prompt token, along the vector, foretells the score of the answer that follows."""
    prompts, strength = graded(trait)
    asked = [(prompt, question) for prompt in prompts for question in questions]
    conversations = [as_messages(prompt, question) for prompt, question in asked]
    states = last_prompt_activations(model, tokenizer, conversations, [block])[:, 0]
    texts = answer_questions(model, tokenizer, *zip(*asked, strict=True), max_tokens=max_tokens)
    shape = (len(prompts), len(questions))
    y = score_answers(trait, [q for _, q in asked], texts, coherence=False).trait.reshape(shape)
    x = (states @ F.normalize(vectors[block].float(), dim=0)).numpy().reshape(shape)
    chance = (states @ random_directions(N_RANDOM, states.shape[1]).T).numpy().T.reshape(N_RANDOM, *shape)
    ledger = Ledger()
    _foretold(ledger, x, y, np.repeat(strength[:, None], shape[1], axis=1), chance)
    ends = (int(x.argmin()), int(x.argmax()))
    outcome = Outcome(
        f"monitor-{trait.name}",
        f"Monitoring: {trait.name}",
        ABOUT_MONITOR,
        block,
        rows=ledger.rows,
        notes=ledger.notes,
        examples=[
            Example.of(f"projection {x.flat[i]:.1f}, score {y.flat[i]:.0f}", conversations[i], texts[i]) for i in ends
        ],
        sizes=sizes(model, prompts=shape[0], questions=shape[1], tokens=max_tokens),
    )
    return outcome, Readings(x, y)


def _foretold(
    ledger: Ledger,
    x: Float[np.ndarray, "k n"],
    y: Float[np.ndarray, "k n"],
    grades: Float[np.ndarray, "k n"],
    chance: Float[np.ndarray, "c k n"],
) -> None:
    """Correlations with the scores `y`, by system prompt and question; intervals over questions."""
    n, answers = y.shape[1], int((~np.isnan(y)).sum())

    def correlated(*values: np.ndarray) -> Callable[[np.ndarray], float]:
        return lambda i: _r(values[0][:, i], y[:, i]) - sum(_r(other[:, i], y[:, i]) for other in values[1:])

    ledger.add("result", "r of projection and score", statistic(n, correlated(x)), answers, "answers")
    ledger.add("baseline", "r of the prompt's grade and score", statistic(n, correlated(grades)), answers, "answers")
    ledger.add("difference", "r, projection minus grade", statistic(n, correlated(x, grades)), answers, "answers")
    within = statistic(n, lambda i: _r(_centred(x[:, i]), _centred(y[:, i])))
    ledger.add("result", "r within a system prompt", within, answers, "answers")
    sizes_of = [abs(_r(c, y)) for c in chance]
    ledger.add(
        "control", "size of r, random directions (middle 95 %)", lambda: spread(sizes_of), len(chance), "directions"
    )


def _r(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation over values that are known; NaN where one of the two does not vary."""
    known = ~np.isnan(y)
    if known.sum() < 3 or np.ptp(x[known]) == 0 or np.ptp(y[known]) == 0:
        return float("nan")
    return float(np.corrcoef(x[known], y[known])[0, 1])


def _centred(values: Float[np.ndarray, "k n"]) -> Float[np.ndarray, "k n"]:
    known = (~np.isnan(values)).sum(axis=1, keepdims=True)
    return values - np.nansum(values, axis=1, keepdims=True) / np.maximum(known, 1)


def study_steer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    trait: Trait,
    questions: Sequence[str],
    vectors: Float[Tensor, "L d"],
    *,
    block: int,
    coefficients: Sequence[float] = COEFFICIENTS,
    n_random: int = 3,
    max_tokens: int = 40,
) -> tuple[Outcome, Sweep]:
    """Trait score and coherence of answers with the vector added after one block, at several coefficients.

    Args:
        coefficients: of the vector as it is, at its own length; 0 is always among them.
        n_random: random vectors of the same length, at 0 and at the largest coherent coefficient.

    Raises:
        ValueError: without a coefficient above 0.
    """
    grid = np.array(sorted({0.0, *map(float, coefficients)}))
    if grid[-1] <= 0:
        raise ValueError(f"coefficients={list(coefficients)}: at least one must be above 0.")
    shape, vector = (len(grid), len(questions)), vectors[block]
    asked = list(questions) * len(grid)
    push = Steer(block, vector, torch.from_numpy(np.repeat(grid, len(questions))).float())
    texts = answer_questions(model, tokenizer, [None] * len(asked), asked, [push], max_tokens=max_tokens)
    judged = score_answers(trait, asked, texts)
    scores, coherence = judged.trait.reshape(shape), judged.coherence.reshape(shape)
    rng = random.Random(GLOBAL_SEED)
    mixed = score_answers(trait, asked, [shuffled(text, rng) for text in texts], coherence=False).trait.reshape(shape)
    zero, means = int(np.flatnonzero(grid == 0)[0]), np.nanmean(coherence, axis=1)
    limit = min(SHOWN, means[zero] - LOST)
    coherent = means >= limit
    best = int(max([i for i in range(len(grid)) if grid[i] > 0 and coherent[i]], default=np.flatnonzero(grid > 0)[0]))
    chance = _along_random(model, tokenizer, trait, questions, vector, block, float(grid[best]), n_random, max_tokens)
    told = _prompted(model, tokenizer, trait, questions, max_tokens)
    ledger = Ledger()
    _gains(ledger, grid[best], scores[[zero, best]], mixed[[zero, best]], coherence[[zero, best]], chance, told)
    if not coherent[best]:
        ledger.notes.append(f"No coefficient above 0 leaves the answers coherent: {grid[best]:+g} is the smallest.")
    outcome = Outcome(
        f"steer-{trait.name}",
        f"Steering: {trait.name}",
        f"The vector is added to the output of block {block} at every position, without a system prompt. Gains are in "
        "points of 100 on the judge's scale, over the same questions without steering, at the largest coefficient with "
        f"a mean coherence of {limit:.0f} or more: {SHOWN}, or where that is less, {LOST} points below the answers "
        "without steering.",
        block,
        rows=ledger.rows,
        notes=ledger.notes,
        examples=[Example(f"coefficient {grid[k]:+g}", questions[0], texts[k * len(questions)]) for k in (zero, best)],
        sizes=sizes(model, questions=shape[1], coefficients=grid.tolist(), random=n_random, tokens=max_tokens),
    )
    at_ends = np.stack([np.full(n_random, np.nanmean(scores[zero])), np.nanmean(chance, axis=1)])
    return outcome, Sweep(grid, scores, coherence, coherent, mixed, at_ends, float(grid[best]))


def _along_random(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    trait: Trait,
    questions: Sequence[str],
    vector: Float[Tensor, "d"],
    block: int,
    coefficient: float,
    n: int,
    max_tokens: int,
) -> Float[np.ndarray, "k n"]:
    """Scores of answers steered along each of n random vectors of the vector's length."""
    asked, which = list(questions) * n, np.repeat(np.arange(n), len(questions))
    pushes = [
        Steer(block, direction * vector.norm(), torch.from_numpy((which == k) * coefficient).float())
        for k, direction in enumerate(random_directions(n, len(vector)))
    ]
    texts = answer_questions(model, tokenizer, [None] * len(asked), asked, pushes, max_tokens=max_tokens)
    return score_answers(trait, asked, texts, coherence=False).trait.reshape(n, len(questions))


def _prompted(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, trait: Trait, questions: Sequence[str], max_tokens: int
) -> Float[np.ndarray, "n"]:
    """Scores where a system prompt asks for the trait and nothing is steered, the positive instructions in turn."""
    systems = [
        f"You are a {trait.name} assistant. {trait.positive[i % len(trait.positive)]}" for i in range(len(questions))
    ]
    texts = answer_questions(model, tokenizer, systems, questions, max_tokens=max_tokens)
    return score_answers(trait, questions, texts, coherence=False).trait


def _gains(
    ledger: Ledger,
    at: float,
    scores: Float[np.ndarray, "2 n"],
    mixed: Float[np.ndarray, "2 n"],
    coherence: Float[np.ndarray, "2 n"],
    chance: Float[np.ndarray, "k n"],
    told: Float[np.ndarray, "n"],
) -> None:
    """Of two rows the first is without steering, the second at the coefficient."""
    n, (plain, steered) = scores.shape[1], scores
    aside = np.nansum(chance, axis=0) / np.maximum((~np.isnan(chance)).sum(axis=0), 1)
    ledger.add("baseline", "trait score without steering", over(plain), n, "questions")
    ledger.add("result", f"gain at {at:+g}", over(steered - plain), n, "questions")
    ledger.add("baseline", "gain where a prompt asks for the trait", over(told - plain), n, "questions")
    ledger.add("control", "gain along random vectors of the same length", over(aside - plain), n, "questions")
    ledger.add("control", "gain of the same answers, words shuffled", over(mixed[1] - mixed[0]), n, "questions")
    ledger.add("difference", "gain, vector minus random", over(steered - aside), n, "questions")
    ledger.add("cost", "coherence (0-100), steered minus plain", over(coherence[1] - coherence[0]), n, "questions")
