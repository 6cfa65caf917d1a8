"""Section 4, the steering experiment: every question under every coefficient, scored by a scripted judge."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from jaxtyping import Float
from torch import Tensor

from graders.harness.expect import check, grader, on_tiny_models
from graders.harness.hooked import Interrupted, check_hooks, failing, hooks, running
from graders.harness.prompts import prompts
from graders.harness.steered import answer, sharp, vector_of
from graders.section_4.generate_with_steerer import RIGHT_MODES
from personalab.endpoint import scripted_replies
from personalab.lm.models import n_blocks

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
_KEYS = ("coefficient", "question", "response", "score")
_CURE = "Make a new steerer for each answer, and generate inside its `with` block."


@grader
def test_run_steering_experiment(
    run_steering_experiment: Callable[..., list[dict[str, Any]]], model: Any = None, tokenizer: Any = None
) -> None:
    """One row for each coefficient and question: the answer under that coefficient alone, and the judge's score."""
    if on_tiny_models():
        _check_on_tiny_models(run_steering_experiment)
    if model is not None:  # its texts are not compared: in half precision two right runs may word them differently
        options = {"layer": n_blocks(model) // 2, "coefficients": [0.0, 1.0], "max_new_tokens": 3}
        width = model.get_input_embeddings().embedding_dim
        _run(run_steering_experiment, model, tokenizer, _QUESTIONS[:1], vector_of(width), options, "your model")


def _check_on_tiny_models(run_steering_experiment: Callable[..., list[dict[str, Any]]]) -> None:
    for family, layer, coefficients in (
        ("llama", 1, [2.0, -1.0, 0.0]),
        ("gemma2", 2, [-1.5, 1.5]),
        ("qwen3", 0, [0.0, 1.0, 3.0]),
    ):
        tiny, tok = sharp(family)
        options: dict[str, Any] = {"layer": layer, "coefficients": coefficients, "max_new_tokens": 5}
        _check_run(run_steering_experiment, tiny, tok, _QUESTIONS, options, family)
    tiny, tok = sharp("qwen2", blocks=21)
    defaults = {"max_new_tokens": 5}
    _check_run(run_steering_experiment, tiny, tok, _QUESTIONS[:1], defaults, "qwen2, default layer and coefficients")
    _check_failure(run_steering_experiment)
    _check_failed_call(run_steering_experiment)


def _score(question: str, response: str) -> int | None:
    """What the scripted judge thinks of an answer: any number, but always the same."""
    return None if question == _REFUSED else zlib.crc32(f"{question} {response.strip()}".encode()) % 101


@contextmanager
def _judge(what: str) -> Iterator[list[str]]:
    """The scripted judge, and the prompts it got that are not the filled-in template."""
    strange: list[str] = []

    def reply(messages: list[dict[str, str]], _model: str) -> str:
        text = "\n".join(m["content"] for m in messages)
        found = _FILLED.search(text)
        if found is None or found[1] not in _QUESTIONS:
            strange.append(text)
            return "50"
        score = _score(found[1], found[2])
        return "REFUSAL" if score is None else str(score)

    with scripted_replies(reply):
        yield strange
    check(
        not strange,
        f"{what}: expected the judge to get `eval_prompt_template` with the question and the answer filled in, found "
        f"{strange[:1]}. Use your score_trait_response(question, response, eval_prompt_template).",
    )


def _run(
    function: Callable[..., Any],
    model: Any,
    tok: Any,
    questions: list[str],
    vector: Tensor,
    options: dict[str, Any],
    what: str,
) -> list[dict[str, Any]]:
    """Call the function, and check all that needs no look at the answers."""
    before, given, given_vector = hooks(model), list(questions), vector.clone()
    coefficients = list(options["coefficients"]) if "coefficients" in options else _DEFAULTS
    with _judge(what), running(what):
        rows = function(model, tok, given, given_vector, _TEMPLATE, **options)
    check_hooks(model, before, f"{what}, afterwards", _CURE)
    check(
        given_vector.equal(vector),
        f"{what}: you changed `steering_vector` in place, so that one coefficient leaks into the next.",
    )
    check(
        given == questions and options.get("coefficients", _DEFAULTS) == coefficients,
        f"{what}: you changed the caller's list of questions or coefficients. Work on a copy.",
    )
    _check_rows(rows, [(c, q) for c in coefficients for q in questions], what)
    return rows


def _check_rows(rows: Any, expected: list[tuple[float, str]], what: str) -> None:
    check(isinstance(rows, list), f"{what}: expected a list of dicts, found {type(rows).__name__}.")
    for row in rows:
        check(isinstance(row, dict), f"{what}: expected a list of dicts, found a {type(row).__name__} in it.")
        missing = [k for k in _KEYS if k not in row]
        check(not missing, f"{what}: expected the keys {', '.join(_KEYS)}, found a row without {missing}.")
        response, score = row["response"], row["score"]
        check(isinstance(response, str), f"{what}: expected 'response' to be a str, found {type(response).__name__}.")
        check(
            score is None or type(score) is int,
            f"{what}: expected 'score' to be an int or None, found {score!r}. Store what score_trait_response gave.",
        )
    found = Counter((row["coefficient"], row["question"]) for row in rows)
    lacking, extra = Counter(expected) - found, found - Counter(expected)
    check(
        not lacking,
        f"{what}: expected {len(expected)} rows, one for each coefficient and question, found {len(rows)}; missing: "
        f"{list(lacking)[:3]}. Loop over coefficients, and in it over questions; keep rows whose score is None, and "
        "write down the coefficient as it was given. (Defaults: -3, -1, 0, 1, 3, 5.)",
    )
    check(not extra, f"{what}: expected one row for each coefficient and question, found more: {list(extra)[:3]}.")
    for row in rows:
        _check_score(row, rows, what)


def _check_score(row: dict[str, Any], rows: list[dict[str, Any]], what: str) -> None:
    right, found = _score(row["question"], row["response"]), row["score"]
    others = [_score(r["question"], r["response"]) for r in rows if r is not row]
    guess = "It is no score that the judge gave for this question and this answer."
    if right is None:
        guess = "The judge replied REFUSAL, which is no score: keep None, don't make it a number."
    elif found in others:
        guess = "It is the score of another row: zip answers and scores in the same order."
    check(
        found == right,
        f"{what}: the score of coefficient {row['coefficient']}, question {row['question']!r}: expected {right}, "
        f"found {found}. {guess}",
    )


def _check_run(
    function: Callable[..., Any], model: Any, tok: Any, questions: list[str], options: dict[str, Any], what: str
) -> None:
    vector, n, layer = 3 * vector_of(seed=3), options["max_new_tokens"], options.get("layer", 19)
    rows = _run(function, model, tok, questions, vector, options, what)
    coefficients = list(options.get("coefficients", _DEFAULTS))
    for row in rows:
        found, right = row["response"].strip(), []
        for prompt, mode in _readings(row["question"], tok):
            right.append(answer(model, tok, prompt, layer, row["coefficient"] * vector, mode, n))
            if found == right[-1]:
                break
        else:
            guess = _guess(model, tok, row, questions, vector, coefficients, layer, n)
            raise AssertionError(
                f"{what}: the response of coefficient {row['coefficient']}, question {row['question']!r}: expected "
                f"{right[0]!r}, found {found!r}.\n  {guess}"
            )


def _readings(question: str, tok: Any) -> list[tuple[list[int], str]]:
    """Prompts and positions that a right answer may come from."""
    plain = prompts([{"role": "user", "content": question}], tok)
    doubled = [[tok.bos_token_id, *ids] for ids in plain] if tok.bos_token_id is not None else []
    return [(ids, mode) for ids in [*plain, *doubled] for mode in RIGHT_MODES]


def _guess(
    model: Any,
    tok: Any,
    row: dict[str, Any],
    questions: list[str],
    vector: Float[Tensor, "d"],
    coefficients: list[float],
    layer: int,
    n: int,
) -> str:
    """The mistake that gives this response."""
    own, found, here = row["coefficient"], row["response"].strip(), row["question"]
    so_far = coefficients[: coefficients.index(own) + 1]
    product = 1.0
    for c in so_far:
        product *= c

    def gives(coefficient: float, question: str = here, block: int = layer, tokens: int = n, norm: float = 1.0) -> bool:
        if not 0 <= block < n_blocks(model):
            return False
        push = coefficient * vector / norm
        return any(found == answer(model, tok, p, block, push, m, tokens) for p, m in _readings(question, tok))

    guesses: list[tuple[str, Callable[[], bool]]] = [
        (
            "the model is not steered in it, or hardly: take the vector as it is, not normalised",
            lambda: own != 0 and gives(0.0),
        ),
        (f"the coefficients add up ({so_far}): {_CURE}", lambda: gives(sum(so_far))),
        (f"the coefficients multiply ({so_far}): scale a copy of the vector, not the vector", lambda: gives(product)),
        (
            f"it is the answer under another coefficient, which leaks into this one. {_CURE}",
            lambda: any(gives(c) for c in coefficients if c != own),
        ),
        ("the coefficient's sign is wrong", lambda: gives(-own)),
        (
            "it answers another question: keep questions and answers in step",
            lambda: any(gives(c, q) for q in questions if q != here for c in coefficients),
        ),
        (
            "another block is steered: `layer` is a block index here, 19 by default",
            lambda: gives(own, block=layer + 1) or gives(own, block=layer - 1),
        ),
        ("the vector is normalised first: take it as it is", lambda: gives(own, norm=vector.norm().item())),
        (
            "it is too long or too short: hand max_new_tokens on",
            lambda: gives(own, tokens=2 * n) or gives(own, tokens=1),
        ),
    ]
    for why, holds in guesses:
        if holds():
            return f"It looks as if {why}."
    return "Generate each with generate_with_steerer(model, tokenizer, question, steering_vector, layer, coefficient)."


def _check_failure(function: Callable[..., Any]) -> None:
    model, tok = sharp("llama")
    before, what = hooks(model), "After an error in the middle of the experiment"
    with failing(model, 7), suppress(Interrupted), _judge(what):
        function(model, tok, _QUESTIONS, vector_of(), _TEMPLATE, layer=1, coefficients=[1.0, 2.0], max_new_tokens=5)
    check_hooks(model, before, what, _CURE)


def _check_failed_call(function: Callable[..., Any]) -> None:
    """A call of the judge that fails is no refusal."""
    model, tok = sharp("llama")

    def reply(messages: list[dict[str, str]], _model: str) -> str:
        raise RuntimeError("raised by the grader, as if the connection to the judge had failed")

    try:
        with scripted_replies(reply):
            rows = function(
                model, tok, _QUESTIONS[:1], vector_of(), _TEMPLATE, layer=1, coefficients=[1.0], max_new_tokens=2
            )
    except NotImplementedError:
        raise
    except Exception:
        return
    found = [r.get("score") for r in rows if isinstance(r, dict)] if isinstance(rows, list) else rows
    raise AssertionError(
        f"A failed call of the judge: expected its error to come out, found a result with the score {found}, as if the "
        "judge had replied. None stands for a refusal. Let the error through: no `try` in or around "
        "score_trait_response, and ask threads for their results."
    )
