"""Section 1: every persona answers every question, all at once."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from graders.harness import Case, Exchange, Raised, attempt, check, check_kind, difference, exchange, grader, prompt_of
from graders.harness.cases import kind_of
from graders.harness.scripted import Messages, check_sent
from personalab.endpoint import BatchError
from personalab.tiers import current_tier

_PERSONAS = {"zebra": "You are a zebra.", "default": "", "ant": "You are an ant."}
_QUESTIONS = ["Where do you live?", "What do you eat?", "Who are you?"]
_TOKENS, _WORKERS = 7, 3
_KEYS = [(p, i) for p in _PERSONAS for i in range(len(_QUESTIONS))]


@grader
def test_generate_all_responses() -> Iterator[Case]:
    """All pairs, in order, in parallel, with the system prompt; a failure loses nothing else."""
    yield Case("3 personas and 3 questions", lambda work: exchange(_echo, _call(work, _WORKERS)), _check_answers)
    yield Case("3 personas and 3 questions, where one call fails", _one_failure, _check_failure)


def _call(work: Any, max_workers: int) -> Callable[[], Any]:
    return lambda: work(dict(_PERSONAS), list(_QUESTIONS), max_tokens=_TOKENS, max_workers=max_workers)


def _echo(messages: Messages, model: str) -> str:
    by_role = {m["role"]: m["content"] for m in messages}
    system, user = by_role.get("system", ""), by_role.get("user", "")
    time.sleep(0.03 * (1 + len(user) % 3))  # finish in another order than asked
    return f"{system} / {user}"


def _check_answers(observed: Exchange) -> None:
    found, n = observed.found, len(observed.prompts)
    check_kind(found, dict, "expected a dict keyed (persona, question index)")
    check(set(found) == set(_KEYS), f"wrong keys: {difference(_KEYS, list(found), 'keys')}.")
    order = "the keys are in another order than asked: personas in the outer loop, questions in the inner one."
    check(list(found) == _KEYS, order)
    check(n == len(_KEYS), f"expected {len(_KEYS)} calls, one for each persona and question, found {n}.")
    _check_requests(observed)
    for (persona, i), text in found.items():
        what, question, right = f"the answer under {(persona, i)}", _QUESTIONS[i], _PERSONAS[persona]
        check(isinstance(text, str), f"{what}: expected a text, found {kind_of(text)}.")
        system, _, user = text.rpartition(" / ")
        check(question in user, f"{what} belongs to another question: the order of keys and answers differs.")
        check(
            system == right or (user.endswith(question) and right in user),
            f"{what} was asked with the system prompt {system!r}, expected {right!r}: was it dropped?",
        )
    check(
        observed.at_once <= _WORKERS,
        f"{observed.at_once} calls were in flight at once, of max_workers={_WORKERS}. Hand max_workers on.",
    )
    check(
        observed.at_once > 1,
        "the calls ran one after another (peak concurrency 1). Use one generate_responses_parallel for all.",
    )


def _check_requests(observed: Exchange) -> None:
    """The model under study is asked, with the limits given; where no prompt is, there is no system message."""
    for body in observed.bodies:
        empty = [m for m in body["messages"] if m["role"] == "system" and not m["content"]]
        check(not empty, f"a call holds {empty[:1]}: where a prompt is empty, leave the system message out.")
    model, asked = current_tier().response_model, {*observed.models}
    check(asked == {model}, f"expected the model under study, {model!r}, found {sorted(asked)}. Leave `model` out.")
    check_sent(observed, max_tokens=_TOKENS, temperature=0.7)


def _one_failure(work: Any) -> tuple[Any, int | None]:
    """One call fails: what comes of it, and how many calls a BatchError covers."""
    covered = None

    def reply(messages: Messages, model: str) -> str:
        prompt = prompt_of(messages)
        if _QUESTIONS[1] in prompt and "zebra" in prompt:
            raise RuntimeError("scripted failure")
        return "fine"

    def call() -> Any:
        nonlocal covered
        try:
            return _call(work, 2)()
        except BatchError as error:
            covered = len(error.results)
            raise

    return attempt(lambda: exchange(reply, call).found), covered


def _check_failure(observed: tuple[Any, int | None]) -> None:
    (found, covered), total = observed, len(_KEYS)
    returned = f"{len(found)} answers" if isinstance(found, dict) else repr(found)
    check(
        isinstance(found, Raised),
        f"your function returned {returned} as if nothing had happened: a failed call must not become an empty answer "
        "or disappear. Let BatchError through.",
    )
    check(
        covered is not None,
        f"of {total} calls, and your function raised {found}. Let generate_responses_parallel finish every call; its "
        "BatchError carries what succeeded.",
    )
    check(
        covered == total,
        f"the BatchError covers {covered} of {total} calls: one failure must not lose the rest. Send everything in one "
        "generate_responses_parallel.",
    )
