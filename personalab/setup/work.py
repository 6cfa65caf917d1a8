"""What the sections ask of models at a tier and a budget: answers, calls and tokens, counted from their settings.

Numbers of prompts are the course's (44 personas, 24 + 72 role-play prompts, 3 traits, …). An answer is taken at its
limit, since nobody knows when a model ends; so tokens are upper bounds. Texts are taken at their mean length in the
embedded model's tokenizer. What `lm.noting` notes is not read again. `personalab.dry_run` counts the same at a small
budget: `checks/course/test_dry_run.py` holds the two together, and docs/tiers.md says how the embedded model's
own runs compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from personalab.tiers import Budget, Tier

TEMPLATE = 12  # tokens of a chat template around a turn
QUESTION, SYSTEM, GRADED = 20, 34, 22  # tokens: a trait's question, a role's or trait's system prompt, a graded one
PERSONAS, ROLES, QUESTIONS = 44, 40, 80  # Section 1; it has so many questions that no pilot used
CALIBRATION, EVALUATION, ENDINGS = 24, 72, 1264  # Section 2: role-play prompts, endings of multiple-choice items
TRAITS, INSTRUCTIONS, GRADES = 3, 5, 8  # Sections 3 and 4
ROLES_OF_AXIS = 35  # 30 roles and five defaults, on which an axis of any model rests
RUBRIC = 340  # tokens of a trait's judge prompt; one of coherence has half


@dataclass(frozen=True)
class Work:
    """One step: `n` texts or answers, each with `read` tokens before and at most `written` tokens of answer.

    Attributes:
        model: "persona", "capping" or "trait" on this machine; "response" or "judge" behind the endpoint.
        trains: whether the texts are learned, by LoRA.
        noted: whether they are read while they are written (`lm.noting`), and not again.
    """

    what: str
    model: str
    n: int
    read: int
    written: int = 0
    trains: bool = False
    noted: bool = False

    @property
    def hosted(self) -> bool:
        """Whether an endpoint does it."""
        return self.model in ("response", "judge")

    @property
    def tokens_read(self) -> int:
        """Of all texts and prompts."""
        return self.n * self.read

    @property
    def tokens_written(self) -> int:
        """Of all answers, each at its limit."""
        return self.n * self.written


def section_1(tier: Tier, budget: Budget, depth: int) -> list[Work]:
    """Personas answer; a judge reads; activations are read after one block, unless noted while this process wrote."""
    n, t, prompt = min(budget.n_questions, QUESTIONS), budget.max_tokens, 13 + SYSTEM + TEMPLATE
    return [
        Work("answers of 44 personas", "response", PERSONAS * n, prompt - TEMPLATE, t),
        Work("how far the role is played", "judge", ROLES * n + 4, 150 + t, 2),
        Work("activations of the answers", "persona", PERSONAS * n, prompt + t, noted=tier.answers_here),
        Work("your own functions", "persona", 10 * n + 30, prompt + t),
    ]


def section_2(tier: Tier, budget: Budget, depth: int) -> list[Work]:
    """Steering and capping along the Assistant Axis."""
    full, t = budget.n_questions > 10, min(budget.max_tokens, 28)
    evaluation, part, prompt = EVALUATION if full else EVALUATION // 3, 16 if full else 8, SYSTEM + TEMPLATE
    sweep = 7 * (CALIBRATION + CALIBRATION // 3)
    return [
        Work("one at a time: first looks, two talks", "capping", 14, 60, 20),
        Work("names", "capping", 60, prompt, 20),
        Work("sweep of coefficients, with control", "capping", sweep, prompt, t),
        Work("typical answers", "capping", 16 + (10 if full else 4), 25, 40),
        Work("matching the control", "capping", 2 * CALIBRATION, prompt, 28),
        Work("seven conditions", "capping", 7 * evaluation, prompt, t),
        Work("parts of the cap", "capping", 7 * part, prompt, t),
        Work("transcripts", "capping", 32, 700),
        Work("what caps remove", "capping", 8 * CALIBRATION + 4 * evaluation, prompt + t),
        Work("items, five conditions", "capping", 5 * ENDINGS + 240, 12),
        Work("prose, three conditions", "capping", 3 * 90, 256),
        Work("delusion scores", "judge", 8, 900, 35),
    ]


def section_3(tier: Tier, budget: Budget, depth: int) -> list[Work]:
    """Trait vectors from contrasting prompts, their block, and an autoencoder."""
    full, t = budget.n_questions > 10, budget.max_tokens
    n, steer, blocks = (20, 6, len(range(2, depth - 1, 3))) if full else (8, 3, len(range(2, depth - 1, 9)))
    prompt = SYSTEM + QUESTION + TEMPLATE
    pairs, held = TRAITS * INSTRUCTIONS * 2 * n, TRAITS * 2 * (n - 1)
    alone, new = TRAITS * (10 if full else 4), 24 if full else 12
    steered = TRAITS * (steer + blocks * (steer + 3)) + TRAITS * 3 * (8 if full else 4)
    gemma = INSTRUCTIONS * 2 * n if tier.persona_model.startswith("google/gemma-2") else 0
    return [
        Work("contrasting answers", "trait", pairs + 4, prompt, t),
        Work("answers under a name alone, none, held-out ones", "trait", alone + TRAITS * n + held, prompt, t),
        Work("steered answers, block by block", "trait", steered, QUESTION + TEMPLATE, t),
        Work("a trait of your own", "trait", new, prompt, t),
        Work("activations of contrasting answers", "trait", pairs, prompt + t, noted=True),
        Work("activations", "trait", pairs + 3 * held, prompt + t),
        Work("texts on which words fail", "trait", 2 * 365, 60),
        Work("trait scores", "judge", 15 + pairs + alone + held + steered + new + gemma, RUBRIC + t, 3),
        Work("coherence scores", "judge", 3 + pairs + steered, RUBRIC // 2 + t, 3),
        Work("artifacts of your trait", "judge", 1, 300, 1500),
        Work("Gemma's own vector, for the autoencoder", "persona", gemma, prompt, t),
        Work("texts through the autoencoder", "persona", (150 + 75 + 600 if full else 40 + 24 + 160), 80 + t // 4),
    ]


def section_4(tier: Tier, budget: Budget, depth: int) -> list[Work]:
    """Steering along trait vectors, monitoring, the geometry of traits."""
    full, n = budget.n_questions > 10, min(budget.n_questions, 20)
    t = min(budget.max_tokens, 32) if tier.embedded else budget.max_tokens
    coefficients, prompt = (10 if tier.embedded else 11), QUESTION + TEMPLATE
    swept, controls, told, graded = TRAITS * coefficients * n, TRAITS * 3 * n, TRAITS * n, TRAITS * GRADES * n
    scores, roles = 2 * swept + controls + told + graded, ROLES_OF_AXIS * (4 if full else 2)
    return [
        Work("one at a time, and the pipeline", "trait", 4 + 6 + 12 + 6, prompt + 15, t),
        Work("sweep of coefficients", "trait", swept, prompt, t),
        Work("along other directions", "trait", controls, prompt, t),
        Work("under system prompts, plain and graded", "trait", told + graded, prompt + GRADED + 8, t),
        Work("roles, for the axis", "trait", roles, 13 + SYSTEM + TEMPLATE, 40),
        Work("activations of the roles", "trait", roles, 13 + SYSTEM + TEMPLATE + 40, noted=True),
        Work("activations", "trait", 5 * TRAITS * n + graded + 14 * (15 if full else 6), prompt + SYSTEM + t),
        Work("trait scores", "judge", scores + 6 + 12 + 6, RUBRIC + t, 3),
        Work("coherence scores", "judge", swept + 12, RUBRIC // 2 + t, 3),
    ]


def section_4b(tier: Tier, budget: Budget, depth: int) -> list[Work]:
    """Finetuning on datasets that teach a trait; the study itself is `python -m personalab finetuning-study`."""
    full, rows = budget.n_questions >= 20, 75 if budget.n_questions >= 20 else 16
    tunes, asked = (4 if full else 1), TRAITS * 20
    return [
        Work("finetuning", "trait", tunes * rows, 150, trains=True),
        Work("answers afterwards", "trait", tunes * asked, QUESTION + TEMPLATE, 32),
        Work("your own answers to rows", "trait", rows, 40, 40),
        Work("states before the answer", "trait", (3 * 2 * max(1, tunes - 1) + tunes + 1) * asked, QUESTION + 30),
        Work("activations", "trait", 2 * rows, 120),
        Work("trait scores", "judge", tunes * asked, RUBRIC + 32, 3),
    ]


SECTIONS = {"1": section_1, "2": section_2, "3": section_3, "4": section_4, "4b": section_4b}


def work_of(section: str, tier: Tier, budget: Budget, depth: int | None = None, *, reread: bool = False) -> list[Work]:
    """Every step of a section. Where personas' answers come from this process, they are the persona model's; scores
    of the embedded judge are no work for a GPU, and left out.

    Args:
        depth: the trait model's number of blocks (default: what is published).
        reread: with what was noted while it was written: of a random model's words, most encode in other tokens.

    Raises:
        ValueError: for a section that nobody has counted.
    """
    if section not in SECTIONS:
        raise ValueError(f"section {section!r} is not counted in personalab/setup/work.py: it has {list(SECTIONS)}.")
    every = SECTIONS[section](tier, budget, depth or _depth(tier))
    steps = [step for step in every if step.n and (reread or not step.noted)]
    if tier.answers_here:
        steps = [replace(step, model="persona") if step.model == "response" else step for step in steps]
    return [step for step in steps if not (step.model == "judge" and tier.judged_here)]


def calls(steps: Sequence[Work]) -> int:
    """Calls of an endpoint."""
    return sum(step.n for step in steps if step.hosted)


def written(steps: Sequence[Work], *, hosted: bool) -> int:
    """Tokens of answers at their limits, of the endpoint's models or of this machine's."""
    return sum(step.tokens_written for step in steps if step.hosted == hosted)


def read(steps: Sequence[Work], *, hosted: bool) -> int:
    """Tokens of texts and prompts, of the endpoint's models or of this machine's."""
    return sum(step.tokens_read for step in steps if step.hosted == hosted)


def _depth(tier: Tier) -> int:
    from personalab.setup.shapes import SHAPES

    shape = SHAPES.get(tier.trait_model)
    return shape.blocks if shape else 30
