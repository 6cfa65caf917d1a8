"""Section 4: the pipeline from a trait's artifacts to its vectors and a steering experiment, cached step by step."""

import io
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from graders.harness import Case, Raised, attempt, check, check_kind, check_tensor, grader
from graders.harness.cases import check_form
from graders.harness.hooked import check_left
from graders.harness.scripted import check_models
from graders.harness.stage import EFFECTIVE, EVAL_QUESTIONS, QUESTIONS, TRAIT_DATA, Run, Said, Sandbox, Stage, sandbox
from graders.section_4.run_trait_pipeline_values import COEFFICIENTS, LAYER, Result, check_steering, check_vectors
from personalab.lm.models import n_blocks

_TOKENS = 7
_HINT = (
    "The steps, in order: answers under both polarities, their scores, effective pairs, vectors (L, d), steering with "
    "row `layer` of them. Each takes what the one before returned."
)


@grader
def test_run_trait_pipeline(model: Any = None, tokenizer: Any = None) -> Iterator[Case]:
    """Right vectors and steering; every step made once; again when asked; nothing half-made is ever used."""
    with sandbox() as box:
        here = _Scene(Stage("llama"), box)
        yield here.fresh("llama, first run", "a")
        what, evaluated = 'another trait, "eval_questions", default coefficients', {"eval_questions": EVAL_QUESTIONS}
        yield here.fresh(what, "b", data=TRAIT_DATA | evaluated, steering_coefficients=None)
        yield here.without_pairs("none", "trait")
        yield here.without_pairs("gibberish", "coherence")
    with sandbox() as box:
        here = _Scene(Stage("qwen2"), box)
        yield here.fresh("qwen2, first run", "a")
        yield here.cached("the same call again", "a")
        yield here.fresh("override=True", "a", override=True)
        yield here.cached("a call without override after one with override=True", "a")
        yield here.interrupted_override("a")
        yield here.half_written("a")
        yield here.interrupted_answers("c")
        yield here.interrupted_twice("d")


@dataclass
class _Scene:
    """A stage in a sandbox, the last result that was right, and the answers it was made from."""

    stage: Stage
    box: Sandbox
    last: Result | None = None
    answers: list[Said] = field(default_factory=list)

    def _run(
        self,
        work: Callable[..., Any],
        trait: str,
        data: dict[str, Any] = TRAIT_DATA,
        fail: str | None = None,
        lacking: str = "",
        **options: Any,
    ) -> Run:
        """A call; with `fail` ("" for no step in particular) or `lacking` it may end in an error."""
        options = {"layer": LAYER, "steering_coefficients": list(COEFFICIENTS), "max_new_tokens": _TOKENS} | options
        call = partial(work, self.stage.model, self.stage.tok, f"{self.box.word}_{trait}", **options)
        expected = lacking or fail is not None

        def called(given: dict[str, Any]) -> Any:
            return attempt(partial(call, given)) if expected else call(given)

        with redirect_stdout(io.StringIO()):  # every step prints a line
            return self.stage.run(called, data, fail or "", lacking)

    def _form(self, run: Run) -> None:
        """Of a run that was to succeed."""
        assert run.left is not None
        check_models(run.asked)
        check(
            not run.strange,
            "expected the judge to get eval_prompt with a question and the whole answer to it filled in, found "
            f"{run.strange[:1]}. Use score_trait_response(question, response, eval_prompt).",
        )
        check(run.intact, "trait_data was changed. Build new dicts and lists.")
        check_left(run.left, "after the call", "A hook must go when the generation it was for is done.")
        check_form(run.found, tuple, 2, "expected (trait_vectors, steering_results)")
        check_tensor(run.found[0], (n_blocks(self.stage.model), 32), "trait_vectors, (blocks, d)")
        check_kind(run.found[1], list, "expected a list of results")

    def fresh(self, what: str, trait: str, data: dict[str, Any] = TRAIT_DATA, **options: Any) -> Case:
        """Everything is made anew, whatever was before."""

        def judge(run: Run) -> None:
            self._form(run)
            _check_made(run, bool(options.get("override")))
            check_vectors(run.found[0], run.contrastive, self.stage, self.last)
            check_steering(run, self.stage, self.last, options.get("steering_coefficients", COEFFICIENTS))
            self.last, self.answers = run.found, run.contrastive

        return Case(what, lambda work: self._run(work, trait, data, **options), judge, _HINT)

    def cached(self, what: str, trait: str) -> Case:
        """Nothing is made anew."""

        def judge(run: Run) -> None:
            self._form(run)
            for step, events in _events(run).items():
                check(
                    not events,
                    f"expected every step from its file, found {len(events)} new {step}. Wrap each step in "
                    "load_or_generate, and write what override=True makes to the same files.",
                )
            check(
                self._as_before(run),
                "expected the vectors and results of the run before, found others. What a step makes and what a later "
                "call reads must be the same.",
            )

        return Case(what, lambda work: self._run(work, trait), judge, _HINT)

    def _as_before(self, run: Run) -> bool:
        assert self.last is not None
        vectors, results = self.last
        return torch.allclose(run.found[0].double(), vectors.double(), atol=1e-5) and run.found[1] == results

    def half_written(self, trait: str) -> Case:
        """Files cut in half are made again (or refused), but never used."""

        def observe(work: Any) -> Run:
            for path in self.box.files():
                half = path.read_bytes()[: path.stat().st_size // 2]  # to the end of a line where it has lines
                path.write_bytes(half[: half.rfind(b"\n") + 1] or half)
            return self._run(work, trait, fail="")

        def judge(run: Run) -> None:
            if isinstance(run.found, Raised):
                return
            complete = len(run.contrastive) >= 2 * len(EFFECTIVE)
            check(
                self._as_before(run) or complete,
                "expected every step to be made again, found a half-written file used. load_or_generate writes a file "
                "whole or not at all, and makes one that cannot be read again.",
            )
            if complete and not self._as_before(run):
                check_vectors(run.found[0], run.contrastive, self.stage, self.last)

        return Case("After a kill in the middle of writing (every file cut in half)", observe, judge)

    def interrupted_answers(self, trait: str) -> Case:
        """A half-made list of answers is made again."""

        def judge(runs: list[Run]) -> None:
            self._form(runs[1])
            check_vectors(runs[1].found[0], runs[0].contrastive + runs[1].contrastive, self.stage)

        def observe(work: Any) -> list[Run]:
            return [self._run(work, trait, fail="answers"), self._run(work, trait)]

        return Case("interrupted half way through the answers, then called again", observe, judge, _HINT)

    def interrupted_twice(self, trait: str) -> Case:
        """What was finished is kept."""

        def observe(work: Any) -> list[Run]:
            return [*(self._run(work, trait, fail=step) for step in ("judge", "steering")), self._run(work, trait)]

        def judge(runs: list[Run]) -> None:
            answers, last = runs[0].contrastive, runs[2]
            n = max(len(run.contrastive) for run in runs[1:])
            check(
                not n,
                f"expected the finished answers from their file, found {n} new answers under the two polarities. Cache "
                "the answers as a step of their own, before anything is scored.",
            )
            self._form(last)
            again = {a.text for a in answers} & {*last.judged, *last.coherence}
            check(
                not again,
                f"expected the finished scores from their file, found {len(again)} answers scored again. Cache the "
                "scores as a step of their own, before steering.",
            )
            check_vectors(last.found[0], answers, self.stage)
            check_steering(last, self.stage, None, COEFFICIENTS)

        what = "interrupted while scoring, called again and interrupted at the steering step, then called again"
        return Case(what, observe, judge, _HINT)

    def interrupted_override(self, trait: str) -> Case:
        """Afterwards all is of the new run, or all of the old one."""
        what = "override=True, interrupted while scoring, then called again without override"

        def observe(work: Any) -> list[Run]:
            before = self.box.holding(self.stage.answers)
            runs = [self._run(work, trait, fail="judge", override=True), self._run(work, trait)]
            runs[0].files, runs[1].files = before, self.box.holding(self.stage.answers)
            return runs

        def judge(runs: list[Run]) -> None:
            new = runs[0].contrastive + runs[1].contrastive
            self._form(runs[1])
            if not self._as_before(runs[1]):
                check_vectors(runs[1].found[0], new, self.stage, self.last)
                check_steering(runs[1], self.stage, self.last, COEFFICIENTS)
                self.last, self.answers = runs[1].found, new
                return
            old, added = {a.text for a in self.answers}, {a.text for a in new}
            places = [folder for folder, texts in runs[0].files.items() if old & {*texts}]
            check(
                not any(added & {*runs[1].files.get(folder, ())} for folder in places),
                "it returned the vectors and results of the old run, and beside their files lie new answers. With "
                "override=True delete all files before you make anything, or make the new ones elsewhere.",
            )

        return Case(what, observe, judge, _HINT)

    def without_pairs(self, trait: str, lacking: str) -> Case:
        """An error, each time, and no empty list on disk."""
        nowhere = "finds the trait nowhere" if lacking == "trait" else "finds every answer incoherent"

        def observe(work: Any) -> tuple[Any, list[str], Any]:
            first = self._run(work, f"{trait}_", lacking=lacking)
            empty = self.box.empty(f"{self.box.word}_{trait}_")
            return first.found, empty, self._run(work, f"{trait}_", lacking=lacking).found

        def judge(seen: tuple[Any, list[str], Any]) -> None:
            first, empty, second = seen
            for found, when in ((first, ""), (second, ", called again")):
                shown = found if isinstance(found, Raised) else "none, but a result"
                check(
                    isinstance(found, Raised) and "ValueError" in found.kinds,
                    f"expected a ValueError{when}, found {shown}. A mean over nothing is NaN, and vectors from pairs "
                    "that are not effective, or not coherent, point nowhere. Raise ValueError where no pair is left.",
                )
            check(
                not empty,
                f"an empty list was written to {', '.join(empty)}, and the file keeps it. Raise before it is written.",
            )

        return Case(f"No effective pairs (the judge {nowhere})", observe, judge)


def _events(run: Run) -> dict[str, list[Any]]:
    steered = {s.text for s in run.steered}
    return {
        "answers under the two polarities": list(run.contrastive),
        "scores of the answers under the two polarities": [a for a in run.judged if a not in steered],
        "coherence scores": [a for a in run.coherence if a not in steered],
        "steered answers": list(run.steered),
        "scores of the steered answers": [a for a in run.judged if a in steered],
    }


def _check_made(run: Run, override: bool) -> None:
    """Every step was made in this run, from the right questions and at the right length."""
    why = "nothing is cached under this trait's name yet. Do the paths hold trait_name?"
    if override:
        why = "override=True makes every step again, whatever is on disk."
    for step, events in _events(run).items():
        cure = f"an old file was used, but {why}"
        if step == "coherence scores":
            cure = "keep pairs of which both answers are coherent. score_coherence(question, response) asks the judge."
        check(events, f"expected {step}, found none: {cure}")
    others = [a.question for a in run.contrastive if a.question not in QUESTIONS]
    check(
        not others,
        f'expected answers under the two polarities to "questions" only, found one to {others[:1]}. "eval_questions" '
        "are for steering: a vector must not be tested on what it was made from.",
    )
    keys = {a.text: (a.instruction, QUESTIONS.index(a.question)) for a in run.contrastive}
    unscored = [text for text, key in keys.items() if key in EFFECTIVE and text not in run.judged]
    check(
        not unscored,
        f"{len(unscored)} new answers under the two polarities were never scored with eval_prompt: old scores, "
        "or too few, were used. Score the answers first, then filter pairs.",
    )
    for said in run.said:
        kind = "a steered answer" if said.instruction is None else f"an answer under a {said.polarity!r} instruction"
        check(
            len(said.new) <= _TOKENS,
            f"expected at most max_new_tokens={_TOKENS} tokens, found {len(said.new)} in {kind}. Hand max_new_tokens "
            "on to both generations.",
        )
