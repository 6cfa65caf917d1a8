"""Section 3: a trait's artifact: prompts, questions and rubric, written by a model that may get it wrong."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import httpx2
import openai

from graders.harness import Case, Raised, attempt, check, difference, exchange, grader, kind_of
from graders.harness.replies import ARTIFACT, BROKEN, KNOWN, as_reply, problem, wrapped
from graders.harness.scripted import Messages, unanswered
from personalab.endpoint.scripted import active_script

_NAME = "theatrical"
_SENTENCE = 'Turns every answer into a scene, as if {all} the world were a "stage".'
_ENOUGH_CALLS = 12  # our choice: nobody asks a model more often for one artifact
_ENOUGH_TOKENS = 1500  # our choice: 40 questions, 10 prompts and a rubric, in a tight hand
_ENDLESS = Raised(
    ("a loop",),
    f"your function asks for an artifact more than {_ENOUGH_CALLS} times. Give up after a few tries with a ValueError: "
    "some models never get it right, and every call costs money",
)
_KEYS = ("instruction", "questions", "eval_questions", "eval_prompt")


class Written(NamedTuple):
    """What came of a call, its prompts, and the tokens allowed in each call of a client of the grader's own.

    `again` says whether the first request was sent once more as it was.
    """

    found: Any
    prompts: list[str]
    allowed: list[int | None]
    again: bool = False


class _EndlessError(BaseException):
    """Not an Exception, since a loop that asks for ever may catch those."""


class _Recorder(httpx2.BaseTransport):
    """A server of one's own, which keeps how many tokens it may reply with, and replies by the open script."""

    def __init__(self) -> None:
        self.allowed: list[int | None] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.read())
        self.allowed.append(body.get("max_completion_tokens", body.get("max_tokens")))
        script = active_script()
        assert script is not None
        return script.respond(request)


@grader
def test_generate_trait_artifacts() -> Iterator[Case]:
    """A good reply becomes an artifact, however it is wrapped; a broken one is repaired, asked for again or refused."""
    good = as_reply(ARTIFACT)
    for what, reply in {"a bare JSON object": good, **wrapped(good)}.items():
        yield _case(what, [reply], _check_good)
    yield Case("With a client of your own", partial(_written, [good], own_client=True), _check_call)
    for what, reply in BROKEN.items():
        yield _case(what, [reply], _check_broken)
        yield _case(f"{what} at first, then a good one", [reply, good], _check_broken)
    yield Case("Every call failed", unanswered(_call), _check_failed)


def _case(what: str, replies: list[str], judge: Any) -> Case:
    return Case(f"For a model that replies with {what}", partial(_written, replies), judge)


def _call(work: Any, **options: Any) -> Any:
    return work(_NAME, _SENTENCE, **options)


def _written(replies: list[str], work: Any, own_client: bool = False) -> Written:
    """What the work makes of a model that gives these replies, the last one again and again."""
    count, server, options = 0, _Recorder(), {}
    if own_client:
        http = httpx2.Client(transport=server)
        options["client"] = openai.OpenAI(
            base_url="http://grader.test/v1", api_key="none", max_retries=0, http_client=http
        )

    def reply(messages: Messages, model: str) -> str:
        nonlocal count
        count += 1
        if count > _ENOUGH_CALLS:
            raise _EndlessError
        return replies[min(count, len(replies)) - 1]

    try:
        done = exchange(reply, lambda: attempt(lambda: _call(work, **options)))
    except _EndlessError:
        return Written(_ENDLESS, [], [])
    again = done.bodies[0] in done.bodies[1:]
    return Written(done.found, done.prompts, server.allowed, again)


def _check_good(written: Written) -> None:
    found = written.found
    _check_artifact(found)
    given = {*found["questions"], *found["eval_questions"]}
    check(
        given == set(ARTIFACT["questions"]),
        f"expected its 40 questions as they are, found others: {[*given - {*ARTIFACT['questions']}][:1]}.",
    )
    for key, value in (("instruction", found["instruction"]), ("eval_prompt", found["eval_prompt"].strip())):
        right = ARTIFACT[key]
        check(value == right, f"expected its {key} as it is: {difference(right, value)}.")


def _check_artifact(found: Any) -> None:
    """Whatever comes back must be complete, and made of what the model wrote."""
    check(
        not isinstance(found, Raised),
        f"expected an artifact, found {found}. The reply is complete. Take the JSON object out of it, from the "
        "first brace to the last.",
    )
    check(isinstance(found, dict), f"expected a dict, found {kind_of(found)}.")
    missing = [key for key in _KEYS if key not in found]
    check(not missing, f"the artifact lacks {', '.join(missing)}; it needs the keys {', '.join(_KEYS)}.")
    for key in ("questions", "eval_questions"):
        size = len(found[key]) if isinstance(found[key], list) else f"{found[key]!r:.100}"
        check(
            size == 20,
            f"expected 20 {key}, found {size}. The 40 questions are split: 20 to extract the vector from, 20 "
            "others to evaluate it on.",
        )
    both = [*found["questions"], *found["eval_questions"]]
    wrong = problem({**found, "questions": both})
    check(
        wrong is None,
        f"you returned an artifact, but {wrong}. Check the reply before you return it; repair it, ask again, "
        "or raise a ValueError.",
    )
    texts = [*both, *(p[side] for p in found["instruction"] for side in ("pos", "neg"))]
    invented = [text for text in texts if text.strip() not in KNOWN]
    check(
        not invented,
        f"{invented[:1]} is nothing that the model wrote. A gap filled by hand is an invented stimulus: ask "
        "again, or raise a ValueError.",
    )


def _check_broken(written: Written) -> None:
    found = written.found
    check(
        not written.again,
        "the same request was sent once more. Replies are cached, so that it gets the same reply again: say in the new "
        "prompt what was wrong with the last one.",
    )
    if not isinstance(found, Raised):
        return _check_artifact(found)
    check(
        "ValueError" in found.kinds,
        f"expected a ValueError that says what is wrong with the reply, found {found}. Check each part before "
        "you use it: a model may send anything.",
    )
    check(
        _NAME in found.text,
        f"the ValueError reads {found.text!r:.200}. Whoever runs twenty traits overnight needs to know which "
        f"one failed and why: name the trait ({_NAME!r}) in the message, and say what is wrong.",
    )


def _check_call(written: Written) -> None:
    """What the model is told, by whom it is asked, and how long its reply may be."""
    _check_artifact(written.found)
    check(
        len(written.allowed) == len(written.prompts),
        "the client was not used: expected every call to go through the one that was handed over. Pass it on, "
        "`utils.generate_response(..., client=client)`, and make one only where it is None.",
    )
    prompt = written.prompts[0]
    for name, part in {"trait's name": _NAME, "description": _SENTENCE}.items():
        check(part in prompt, f"expected the {name} {part!r} as it is in the prompt, found {prompt!r:.400}.")
    for key in ("instruction", "questions", "eval_prompt"):
        check(key in prompt, f"the prompt does not name the key {key!r}: the model can't know what to call it.")
    for allowed in written.allowed:
        check(
            allowed is None or allowed >= _ENOUGH_TOKENS,
            f"the reply may take {allowed} tokens, and would be cut in the middle: 40 questions, 10 prompts and a "
            "rubric need more than 1500. Set max_tokens (utils.generate_response takes 256 by default).",
        )


def _check_failed(found: Any) -> None:
    check(
        isinstance(found, Raised),
        f"Every call failed, and your function returned {found!r:.100} as if a model had replied. Let the error "
        "through.",
    )
    check(
        {"OpenAIError", "BatchError"} & {*found.kinds},
        f"Every call failed: expected openai.OpenAIError, found {found}\n  A failed call is no broken reply: whoever "
        "reads a ValueError looks for the fault in the trait. In your retry loop catch ValueError alone, around the "
        "reading of the reply and not around the call.",
    )
