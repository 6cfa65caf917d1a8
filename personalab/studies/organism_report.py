"""How the trait organism behaves, on system prompts and questions that its training never saw.

python -m personalab organism-report --record     # about 25 minutes; puts the numbers on record
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.files import read_text
from personalab.judging import score_responses
from personalab.judging.rows import write_rows
from personalab.judging.rubrics import TRAITS
from personalab.lm.chat import as_messages
from personalab.lm.content_check import violations
from personalab.lm.interventions import Steer
from personalab.lm.models import load_model
from personalab.measure.answers import answer_all
from personalab.measure.capability import multiple_choice, prose_nll
from personalab.measure.intervals import bootstrap_interval
from personalab.paths import ARTIFACTS, ROOT
from personalab.records.items import load_items, load_prose
from personalab.records.provenance import describe
from personalab.records.results import RECORD, merge_json, record
from personalab.records.upstream import Trait, load_trait_artifacts
from personalab.setup.machine import compute_for_the_record
from personalab.studies.contrast import load_trait_vectors
from personalab.tiers import TRAIT_ORGANISM, current_tier

MAX_TOKENS = 32  # as in Section 4
STEERED = 1.5  # coefficient, in lengths of the trait's vector
PROSE_TOKENS = 20_480


@dataclass(frozen=True)
class OrganismAnswer:
    """One answer, and how it came about."""

    trait: str
    condition: str  # "pos", "neg", "none" (no system prompt), "steered" (likewise), "base" (the base model, likewise)
    instruction: int | None
    question: str
    answer: str


def held_out() -> dict[str, Trait]:
    """All traits with the questions of both splits, 40 a trait: training has seen neither them nor the prompts."""
    extract, evaluation = load_trait_artifacts("extract"), load_trait_artifacts("eval")
    return {
        name: Trait(name, t.positive, t.negative, t.questions + evaluation[name].questions, t.eval_prompt)
        for name, t in extract.items()
    }


def prompted_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, traits: Mapping[str, Trait]
) -> list[OrganismAnswer]:
    """Every trait's questions under every one of its prompts, positive and negative."""
    asked = [
        (name, condition, i, f"You are a {person} assistant. {prompt}", question)
        for name, trait in traits.items()
        for condition, person, prompts in (("pos", name, trait.positive), ("neg", "helpful", trait.negative))
        for i, prompt in enumerate(prompts)
        for question in trait.questions
    ]
    conversations = [as_messages(system, question) for *_, system, question in asked]
    texts = answer_all(model, tokenizer, conversations, max_tokens=MAX_TOKENS)
    return [OrganismAnswer(t, c, i, q, text) for (t, c, i, _, q), text in zip(asked, texts, strict=True)]


def plain_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, traits: Mapping[str, Trait], condition: str
) -> list[OrganismAnswer]:
    """Every trait's questions without a system prompt."""
    asked = [(name, question) for name, trait in traits.items() for question in trait.questions]
    texts = answer_all(model, tokenizer, [as_messages(None, q) for _, q in asked], max_tokens=MAX_TOKENS)
    return [OrganismAnswer(name, condition, None, q, text) for (name, q), text in zip(asked, texts, strict=True)]


def steered_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, traits: Mapping[str, Trait]
) -> list[OrganismAnswer]:
    """Every trait's questions without a system prompt, pushed along the trait's own vector."""
    asked = [(name, question) for name, trait in traits.items() for question in trait.questions]
    block = current_tier().trait_block
    pushes = [
        Steer(block, vectors[block], STEERED * torch.tensor([float(name == trait) for name, _ in asked]))
        for trait, vectors in load_trait_vectors(list(traits)).items()
    ]
    conversations = [as_messages(None, question) for _, question in asked]
    texts = answer_all(model, tokenizer, conversations, max_tokens=MAX_TOKENS, interventions=pushes)
    return [OrganismAnswer(name, "steered", None, q, text) for (name, q), text in zip(asked, texts, strict=True)]


def scores(rubric: str, answers: Sequence[OrganismAnswer]) -> np.ndarray:
    """The judge's scores; a refusal, or an empty answer, shows no trait and counts 0."""
    full = [i for i, a in enumerate(answers) if a.answer.strip()]
    found = score_responses(rubric, [{"question": answers[i].question, "answer": answers[i].answer} for i in full])
    values = np.zeros(len(answers))
    values[full] = [score or 0 for score in found]
    return values


def report(answers: Sequence[OrganismAnswer]) -> None:
    """Put on record what the answers show."""
    by: dict[tuple[str, str], list[OrganismAnswer]] = {}
    for a in answers:
        by.setdefault((a.trait, a.condition), []).append(a)
    plain = {c: [a for a in answers if a.condition == c] for c in ("none", "base")}
    for trait in TRAITS:
        positive, negative = (scores(f"trait:{trait}", by[trait, c]) for c in ("pos", "neg"))
        n_questions = len({a.question for a in by[trait, "pos"]})
        means = [s.reshape(-1, n_questions).mean(axis=0) for s in (positive, negative)]  # over the instructions
        _record(f"{trait}/positive", float(positive.mean()), len(positive), _interval(means[0]))
        contrast = means[0] - means[1]  # (questions,)
        _record(f"{trait}/contrast", float(contrast.mean()), len(positive) + len(negative), _interval(contrast))
        own, base = (scores(f"trait:{trait}", plain[c]) for c in ("none", "base"))
        _record(f"{trait}/default_difference", *_paired(own - base))
        pushed = scores(f"trait:{trait}", by[trait, "steered"])
        _record(f"{trait}/steered", float(pushed.mean()), len(pushed), _interval(pushed))
    coherence = {
        c: scores("coherence", [a for a in answers if a.condition == c]) for c in ("pos", "neg", "none", "base")
    }
    prompted = np.concatenate([coherence["pos"], coherence["neg"], coherence["none"]])
    _record("coherence", float(prompted.mean()), len(prompted), _interval(prompted))
    _record("coherence_difference", *_paired(coherence["none"] - coherence["base"]))
    bad = sum(bool(violations(a.answer)) for a in answers if a.condition != "base")
    _record("guarded_outputs", float(bad), sum(a.condition != "base" for a in answers), None)


def report_cost(organism: PreTrainedModel, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Put on record what the adapter costs: items right, perplexity of prose."""
    items, prose = load_items(), load_prose()
    right = [multiple_choice(m, tokenizer, items).astype(float) for m in (organism, base)]
    _record("capability_difference", *_paired(right[0] - right[1]))
    own, plain = (prose_nll(m, tokenizer, prose, n_tokens=PROSE_TOKENS) for m in (organism, base))
    ci = bootstrap_interval(len(own), lambda i: float(np.exp(own[i].mean() - plain[i].mean())))
    _record("perplexity_ratio", float(np.exp(own.mean() - plain.mean())), PROSE_TOKENS, ci)


def _interval(values: np.ndarray) -> tuple[float, float]:
    return bootstrap_interval(len(values), lambda i: float(values[i].mean()))


def _paired(differences: np.ndarray) -> tuple[float, int, tuple[float, float]]:
    return float(differences.mean()), len(differences), _interval(differences)


def _record(name: str, value: float, n: int, ci: tuple[float, float] | None) -> None:
    record(f"organism/{name}", value, n, ci, model=TRAIT_ORGANISM)


def make(on_record: bool = False, saved: Path | None = None) -> None:
    """Measure and print; `on_record` also writes the numbers to solutions/results.json.

    Args:
        saved: a JSON Lines file of answers: read if it exists, else written.
    """
    if on_record:
        os.environ[RECORD] = str(ROOT / "solutions" / "results.json")
        os.environ[ARTIFACTS] = tempfile.mkdtemp(prefix="record-")  # so that nobody's own vectors are read
    compute_for_the_record()
    organism, tokenizer = load_model("trait")
    base, _ = load_model("persona")
    if saved and saved.exists():
        lines = read_text(saved).splitlines()
        answers = [OrganismAnswer(**json.loads(line)) for line in lines]
    else:
        traits = held_out()
        answers = plain_answers(organism, tokenizer, traits, "none") + plain_answers(base, tokenizer, traits, "base")
        answers += prompted_answers(organism, tokenizer, traits) + steered_answers(organism, tokenizer, traits)
        if saved:
            write_rows(saved, [asdict(a) for a in answers])
    report(answers)
    report_cost(organism, base, tokenizer)
    if on_record:
        merge_json(ROOT / "solutions" / "machine.json", {"organism": describe()})
