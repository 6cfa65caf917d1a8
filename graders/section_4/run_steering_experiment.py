"""Section 4, the steering experiment: every question under every coefficient, scored by a scripted judge."""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from graders.harness import Called, Case, call_case, check, check_kind, failing_case, fails, grader, on_tiny_models
from graders.harness.cases import check_keys
from graders.harness.expect import whole
from graders.harness.prompts import prompts
from graders.harness.scripted import check_models, unanswered
from graders.harness.steered import answer, sharp, vector_of
from graders.section_4.generate_with_steerer import RIGHT_MODES
from personalab.endpoint import scripted_replies
from personalab.lm.models import d_model, n_blocks

_QUESTIONS = ["What do you think about the sea?", "Who tells the truth?", "Where is the moon?"]
_REFUSED = _QUESTIONS[1]  # the judge refuses to score any answer to it
_TEMPLATE = (
    "How gloomy is this answer?\n[Question] {question} [/Question]\n[Answer] {answer} [/Answer]\n"
    "Reply with one number from 0 (not at all) to 100 (entirely), or with REFUSAL."
)
_FILLED = re.compile(
    r"How gloomy is this answer\?\n\[Question\] (.*?) \[/Question\]\n\[Answer\] (.*?) \[/Answer\]\n"
    r"Reply with one number from 0 \(not at all\) to 100 \(entirely\), or with REFUSAL\.",
    re.S,
)
_DEFAULTS = [-3.0, -1.0, 0.0, 1.0, 3.0, 5.0]

_CURE = "Make a new steerer for each answer, and generate inside its `with` block."


class Asked(NamedTuple):
    """What the judge was asked: prompts that are no rubric, and the models."""

    strange: list[str]
    models: list[str]


@dataclass(frozen=True)
class Experiment:
    """One call of the function. `options` lacks what is left to its defaults."""

    what: str
    model: Any
    tok: Any
    questions: list[str]
    vector: Float[Tensor, "d"]
    options: dict[str, Any]

    @property
    def coefficients(self) -> list[float]:
        return self.options.get("coefficients", _DEFAULTS)

    def case(self, texts: bool = True) -> Case:
        leak = "you changed `steering_vector` in place, so that one coefficient leaks into the next."
        changes = ["you changed the caller's list of questions. Work on a copy.", leak]
        args, judge = (self.questions, self.vector, _TEMPLATE), partial(self._judge, texts)
        options: dict[str, Any] = {"when": "afterwards", "around": _scripted, "cure": _CURE} | self.options
        return call_case(self.what, self.model, self.tok, args, judge, changes, **options)

    def _judge(self, texts: bool, seen: Called) -> None:
        check_models(seen.noted.models)
        check(
            not seen.noted.strange,
            "expected the judge to get `eval_prompt_template` with the question and the answer filled in, found "
            f"{seen.noted.strange[:1]}. Use your score_trait_response(question, response, eval_prompt_template).",
        )
        _check_rows(seen.found, [(c, q) for c in self.coefficients for q in self.questions])
        for row in seen.found if texts else []:
            right = self._answers(row["question"], row["coefficient"])
            found, first = row["response"].strip(), next(right)
            if found == first or found in right:
                continue
            raise AssertionError(
                f"the response of coefficient {row['coefficient']}, question {row['question']!r}: expected {first!r}, "
                f"found {found!r}.\n  {self._guess(row)}"
            )

    def _answers(
        self, question: str, coefficient: float, further: int = 0, tokens: int = 0, norm: float = 1.0
    ) -> Iterator[str]:
        """Every right answer, `further` blocks on, of another number of `tokens`, of a vector divided by `norm`."""
        plain = prompts([{"role": "user", "content": question}], self.tok)
        bos = self.tok.bos_token_id
        doubled = [[bos, *ids] for ids in plain] if bos is not None else []
        block, n = self.options.get("layer", 19) + further, tokens or self.options["max_new_tokens"]
        if not 0 <= block < n_blocks(self.model):
            return
        for ids in [*plain, *doubled]:
            for where in RIGHT_MODES:
                yield answer(self.model, self.tok, ids, block, coefficient * self.vector / norm, where, n)

    def _guess(self, row: dict[str, Any]) -> str:
        """The mistake that gives this response."""
        own, found, here = row["coefficient"], row["response"].strip(), row["question"]
        so_far, n = self.coefficients[: self.coefficients.index(own) + 1], self.options["max_new_tokens"]
        others = [c for c in self.coefficients if c != own]

        def gives(coefficient: float, question: str = here, **options: Any) -> bool:
            return found in self._answers(question, coefficient, **options)

        mistakes: dict[str, Callable[[], bool]] = {
            "the model is not steered in it, or hardly: take the vector as it is, not normalised": (
                lambda: own != 0 and gives(0.0)
            ),
            f"the coefficients add up ({so_far}): {_CURE}": lambda: gives(sum(so_far)),
            f"the coefficients multiply ({so_far}): scale a copy of the vector, not the vector": (
                lambda: gives(prod(so_far))
            ),
            f"it is the answer under another coefficient, which leaks into this one. {_CURE}": (
                lambda: any(gives(c) for c in others)
            ),
            "the coefficient's sign is wrong": lambda: gives(-own),
            "it answers another question: keep questions and answers in step": (
                lambda: any(gives(c, q) for q in self.questions if q != here for c in self.coefficients)
            ),
            "another block is steered: `layer` is a block index here, 19 by default": (
                lambda: gives(own, further=1) or gives(own, further=-1)
            ),
            "the vector is normalised first: take it as it is": lambda: gives(own, norm=self.vector.norm().item()),
            "it is too long or too short: hand max_new_tokens on": (
                lambda: gives(own, tokens=2 * n) or gives(own, tokens=1)
            ),
        }
        call = "generate_with_steerer(model, tokenizer, question, steering_vector, layer, coefficient)"
        guesses = (f"It looks as if {why.rstrip('.')}." for why, holds in mistakes.items() if holds())
        return next(guesses, f"Generate each with {call}.")


@grader
def test_run_steering_experiment(model: Any = None, tokenizer: Any = None) -> Iterator[Case]:
    """One row for each coefficient and question: the answer under that coefficient alone, and the judge's score."""
    if on_tiny_models():
        for family, layer, coefficients in (
            ("llama", 1, [2.0, -1.0, 0.0]),
            ("gemma2", 2, [-1.5, 1.5]),
            ("qwen3", 0, [0.0, 1.0, 3.0]),
        ):
            options: dict[str, Any] = {"layer": layer, "coefficients": coefficients, "max_new_tokens": 5}
            yield Experiment(family, *sharp(family), _QUESTIONS, 3 * vector_of(seed=3), options).case()
        ended, tok = sharp("llama")
        end = ended.lm_head.weight[ended.generation_config.eos_token_id].detach().clone()
        options = {"layer": n_blocks(ended) - 1, "coefficients": [100.0, 0.0], "max_new_tokens": 5}
        what = "llama, a coefficient that ends every answer at once, before a word"
        yield Experiment(what, ended, tok, _QUESTIONS[:1], end, options).case()
        what, tiny = "qwen2, default layer and coefficients", sharp("qwen2", blocks=21)
        yield Experiment(what, *tiny, _QUESTIONS[:1], 3 * vector_of(seed=3), {"max_new_tokens": 5}).case()
        options = {"layer": 1, "coefficients": [1.0, 2.0], "max_new_tokens": 5, "around": _scripted, "cure": _CURE}
        args, what = (_QUESTIONS, vector_of(), _TEMPLATE), "After an error in the middle of the experiment"
        yield failing_case(*sharp("llama"), args, what, 7, **options)
        yield _failed_call()
    if model is not None:  # its texts are not compared: in half precision two right runs may word them differently
        options = {"layer": n_blocks(model) // 2, "coefficients": [0.0, 1.0], "max_new_tokens": 3}
        vector = vector_of(d_model(model))
        yield Experiment("your model", model, tokenizer, _QUESTIONS[:1], vector, options).case(texts=False)


@contextmanager
def _scripted() -> Iterator[Asked]:
    """The judge replies as `_judged` says."""
    asked = Asked([], [])

    def reply(messages: list[dict[str, str]], model: str) -> str:
        asked.models.append(model)
        return _judged(messages, asked.strange)

    with scripted_replies(reply):
        yield asked


def _score(question: str, response: str) -> int | None:
    """What the scripted judge thinks of an answer: any number, but always the same."""
    return None if question == _REFUSED else zlib.crc32(f"{question} {response.strip()}".encode()) % 101


def _judged(messages: list[dict[str, str]], strange: list[str]) -> str:
    """The judge's reply; what is not the filled-in template is put in `strange`."""
    text = "\n".join(m["content"] for m in messages)
    found = _FILLED.search(text)
    if found is None or found[1] not in _QUESTIONS:
        strange.append(text)
        return "50"
    score = _score(found[1], found[2])
    return "REFUSAL" if score is None else str(score)


def _check_rows(rows: Any, expected: list[tuple[float, str]]) -> None:
    check_kind(rows, list, "expected a list of dicts")
    check_keys(rows, ("coefficient", "question", "response", "score"))
    for row in rows:
        check_kind(row["response"], str, "expected 'response' to be a str")
        odd = f"expected 'score' to be an int or None, found {row['score']!r}. Store what score_trait_response gave."
        check(row["score"] is None or whole(row["score"]), odd)
    found = Counter((row["coefficient"], row["question"]) for row in rows)
    lacking, extra = Counter(expected) - found, found - Counter(expected)
    check(
        not lacking,
        f"expected {len(expected)} rows, one for each coefficient and question, found {len(rows)}; missing: "
        f"{list(lacking)[:3]}. Loop over coefficients, and in it over questions; keep rows whose score is None, and "
        "write down the coefficient as it was given. (Defaults: -3, -1, 0, 1, 3, 5.)",
    )
    check(not extra, f"expected one row for each coefficient and question, found more: {list(extra)[:3]}.")
    for row in rows:
        _check_score(row, rows)


def _check_score(row: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    right, found = _score(row["question"], row["response"]), row["score"]
    others = [_score(r["question"], r["response"]) for r in rows if r is not row]
    guess = "It is no score that the judge gave for this question and this answer."
    if right is None:
        guess = "The judge replied REFUSAL, which is no score: keep None, don't make it a number."
    elif found in others and any(r["score"] != found for r in rows):
        guess = "It is the score of another row: zip answers and scores in the same order."
    check(
        found == right,
        f"the score of coefficient {row['coefficient']}, question {row['question']!r}: expected {right}, found "
        f"{found}. {guess}",
    )


def _failed_call() -> Case:
    """A call of the judge that fails is no refusal."""
    tiny, tok = sharp("llama")
    options: dict[str, Any] = {"layer": 1, "coefficients": [1.0], "max_new_tokens": 2}
    return fails(
        "A failed call of the judge",
        unanswered(lambda work: work(tiny, tok, _QUESTIONS[:1], vector_of(), _TEMPLATE, **options)),
        "None stands for a refusal. Let the error through: no `try` in or around score_trait_response, and ask threads "
        "for their results.",
    )
