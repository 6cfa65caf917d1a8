"""Section 4: the pipeline from a trait's artifacts to its vectors and a steering experiment, cached step by step."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graders.harness.expect import check, check_tensor, grader
from graders.harness.hooked import check_hooks, hooks
from graders.harness.stage import EFFECTIVE, EVAL_QUESTIONS, QUESTIONS, TRAIT_DATA, Sandbox, Stage, sandbox
from graders.section_4.pipeline_values import COEFFICIENTS, LAYER, Result, check_steering, check_vectors
from personalab.lm.models import n_blocks

_TOKENS = 7


@dataclass
class Graded:
    """The function to grade, on its stage, in its sandbox."""

    function: Callable[..., Any]
    stage: Stage
    box: Sandbox

    def call(self, trait: str, **options: Any) -> Any:
        """What the function returns, errors and all; the stage then shows what it did."""
        options = {"layer": LAYER, "steering_coefficients": list(COEFFICIENTS), "max_new_tokens": _TOKENS} | options
        data = copy.deepcopy(self.stage.data)
        with self.stage.open(), redirect_stdout(io.StringIO()):  # every step prints a line
            found = self.function(self.stage.model, self.stage.tok, f"{self.box.word}_{trait}", data, **options)
        check(data == self.stage.data, "trait_data was changed. Build new dicts and lists.")
        return found

    def run(self, what: str, trait: str, **options: Any) -> Result:
        """A call that is to succeed."""
        self.stage.forget()
        before = hooks(self.stage.model)
        try:
            found = self.call(trait, **options)
        except (NotImplementedError, AssertionError):
            raise
        except Exception as error:
            raise AssertionError(
                f"{what}: expected a result, found {type(error).__name__}: {error}\n  The steps, in order: answers "
                "under both polarities, their scores, effective pairs, vectors (L, d), steering with row `layer` of "
                "them. Each takes what the one before returned."
            ) from error
        check_hooks(self.stage.model, before, what, "A hook must go when the generation it was for is done.")
        check(
            isinstance(found, tuple) and len(found) == 2,
            f"{what}: expected (trait_vectors, steering_results), found {type(found).__name__}.",
        )
        vectors, results = found
        check_tensor(vectors, (n_blocks(self.stage.model), 32), f"{what}: trait_vectors, (blocks, d)")
        check(isinstance(results, list), f"{what}: expected a list of results, found {type(results).__name__}.")
        return vectors, results

    def interrupt(self, where: str, trait: str) -> None:
        """A call in which one step fails."""
        self.stage.forget(fail=where)
        try:
            self.call(trait)
        except (NotImplementedError, AssertionError):
            raise
        except Exception:
            return


@grader
def test_run_trait_pipeline(run_trait_pipeline: Callable[..., Any], model: Any = None, tokenizer: Any = None) -> None:
    """Right vectors and steering; every step made once; again when asked; nothing half-made is ever used."""
    for family in ("llama", "qwen2"):
        stage = Stage.of(family)
        with sandbox() as box:
            graded = Graded(run_trait_pipeline, stage, box)
            first = _check_fresh(graded, f"{family}, first run", "a")
            if family == "llama":
                _check_fresh(graded, "another trait, default coefficients", "b", steering_coefficients=None)
                _check_eval_questions(graded)
                _check_no_pairs(graded)
                continue
            _check_cached(graded, "the same call again", "a", first)
            second = _check_fresh(graded, "override=True", "a", stale=first, override=True)
            _check_cached(graded, "a call without override after one with override=True", "a", second)
            _check_half_written(graded, "a", second)
            _check_interrupted(graded)


def _check_fresh(graded: Graded, what: str, trait: str, stale: Result | None = None, **options: Any) -> Result:
    """A run in which everything is made anew."""
    vectors, results = graded.run(what, trait, **options)
    why = (
        "override=True makes every step again, whatever is on disk"
        if options.get("override")
        else "nothing is cached under this trait's name yet. Do the paths hold trait_name?"
    )
    for step, events in _events(graded.stage).items():
        check(events, f"{what}: expected {step}, found none: an old file was used, but {why}.")
    answers = graded.stage.contrastive
    others = [a.question for a in answers if a.question not in QUESTIONS]
    check(
        not others,
        f'{what}: expected answers under the two polarities to "questions" only, found one to {others[:1]}. '
        '"eval_questions" are for steering: a vector must not be tested on what it was made from.',
    )
    judged = set(graded.stage.judged)
    unscored = [
        a for a in answers if (a.instruction, QUESTIONS.index(a.question)) in EFFECTIVE and a.text not in judged
    ]
    check(
        not unscored,
        f"{what}: {len(unscored)} new answers under the two polarities were never scored with eval_prompt: old scores, "
        "or too few, were used. Score the answers first, then filter pairs.",
    )
    _check_lengths(graded.stage, what)
    check_vectors(vectors, answers, graded.stage, what, stale)
    coefficients = options.get("steering_coefficients", COEFFICIENTS)
    check_steering(results, vectors, answers, graded.stage, what, stale, coefficients)
    return vectors, results


def _events(stage: Stage) -> dict[str, list[Any]]:
    steered = {s.text for s in stage.steered}
    return {
        "answers under the two polarities": list(stage.contrastive),
        "scores of the answers under the two polarities": [a for a in stage.judged if a not in steered],
        "steered answers": list(stage.steered),
        "scores of the steered answers": [a for a in stage.judged if a in steered],
    }


def _check_lengths(stage: Stage, what: str) -> None:
    for said in stage.said:
        kind = "a steered answer" if said.instruction is None else f"an answer under a {said.polarity!r} instruction"
        check(
            len(said.new) <= _TOKENS,
            f"{what}: expected at most max_new_tokens={_TOKENS} tokens, found {len(said.new)} in {kind}. Hand "
            "max_new_tokens on to both generations.",
        )


def _same(found: Result, expected: Result) -> bool:
    return torch.allclose(found[0].double(), expected[0].double(), atol=1e-5) and found[1] == expected[1]


def _check_cached(graded: Graded, what: str, trait: str, expected: Result) -> None:
    found = graded.run(what, trait)
    for step, events in _events(graded.stage).items():
        check(
            not events,
            f"{what}: expected every step from its file, found {len(events)} new {step}. Wrap each step in "
            "load_or_generate, and write what override=True makes to the same files.",
        )
    check(
        _same(found, expected),
        f"{what}: expected the vectors and results of the run before, found others. What a step makes and what a later "
        "call reads must be the same.",
    )


def _halve(path: Path) -> None:
    """As a kill in the middle of writing leaves a file: half of it, to the end of a line where it has lines."""
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(half[: half.rfind(b"\n") + 1] or half)


def _check_half_written(graded: Graded, trait: str, before: Result) -> None:
    """Files cut in half are made again (or refused), but never used."""
    what = "After a kill in the middle of writing (every file cut in half)"
    for path in graded.box.files():
        _halve(path)
    graded.stage.forget()
    try:
        found = graded.call(trait)
    except (NotImplementedError, AssertionError):
        raise
    except Exception:
        return
    complete = len(graded.stage.contrastive) >= 2 * len(EFFECTIVE)
    check(
        _same(found, before) or complete,
        f"{what}: expected every step to be made again, found a half-written file used. load_or_generate writes a "
        "file whole or not at all, and makes one that cannot be read again.",
    )
    if complete and not _same(found, before):
        check_vectors(found[0], graded.stage.contrastive, graded.stage, what, before)


def _check_interrupted(graded: Graded) -> None:
    """What was finished is kept, what was not is made again."""
    stage = graded.stage
    graded.interrupt("answers", "c")
    what, answers = "interrupted half way through the answers, then called again", stage.contrastive
    vectors, _ = graded.run(what, "c")
    check_vectors(vectors, [*answers, *stage.contrastive], stage, what, None)  # later ones replace earlier ones

    graded.interrupt("judge", "d")
    answers = stage.contrastive
    graded.interrupt("steering", "d")
    what = "interrupted while scoring, then called again"
    check(
        not stage.contrastive,
        f"{what}: expected the finished answers from their file, found {len(stage.contrastive)} new answers under the "
        "two polarities. Cache the answers as a step of their own, before anything is scored.",
    )
    what = "interrupted at the steering step, then called again"
    vectors, results = graded.run(what, "d")
    check(
        not stage.contrastive,
        f"{what}: expected the finished answers from their file, found {len(stage.contrastive)} new ones.",
    )
    again = {a.text for a in answers} & set(stage.judged)
    check(
        not again,
        f"{what}: expected the finished scores from their file, found {len(again)} answers scored again. Cache the "
        "scores as a step of their own, before steering.",
    )
    check_vectors(vectors, answers, stage, what, None)
    check_steering(results, vectors, answers, stage, what, None, COEFFICIENTS)


def _check_eval_questions(graded: Graded) -> None:
    """Where the trait's artifacts have questions for evaluation, steering uses those."""
    graded.stage.data = TRAIT_DATA | {"eval_questions": EVAL_QUESTIONS}
    try:
        _check_fresh(graded, 'trait_data with "eval_questions"', "e", steering_coefficients=[1.0])
    finally:
        graded.stage.data = TRAIT_DATA


def _check_no_pairs(graded: Graded) -> None:
    graded.stage.forget()
    graded.stage.no_trait = True
    try:
        found = graded.call("none")
    except (NotImplementedError, AssertionError):
        raise
    except Exception:
        return
    finally:
        graded.stage.no_trait = False
    raise AssertionError(
        "No effective pairs (the judge finds the trait nowhere): expected an error, found "
        f"{type(found).__name__}. A mean over nothing is NaN, and a cache would keep it: raise a ValueError."
    )
