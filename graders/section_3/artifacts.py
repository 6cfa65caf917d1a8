"""Section 3, a trait's artifact: prompts, questions and rubric, written by a model that may get it wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import openai

from graders.harness.expect import check, grader
from graders.harness.replies import ARTIFACT, BROKEN, KNOWN, as_reply, problem, wrapped
from personalab.endpoint import BatchError, scripted_replies
from personalab.endpoint.scripted import active_script

_NAME = "theatrical"
_SENTENCE = 'Turns every answer into a scene, as if {all} the world were a "stage".'
_ENOUGH_CALLS = 12  # our choice: nobody asks a model more often for one artifact
_ENOUGH_TOKENS = 1500  # our choice: 40 questions, 10 prompts and a rubric, in a tight hand
_KEYS = ("instruction", "questions", "eval_questions", "eval_prompt")


class _EndlessError(BaseException):
    """Not an Exception, since a loop that asks for ever may catch those."""


class _Recorder(httpx2.BaseTransport):
    """A server of one's own, which keeps what it is asked and replies by the open script."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.bodies.append(json.loads(request.read()))
        script = active_script()
        assert script is not None
        return script.respond(request)


@grader
def test_generate_trait_artifacts(generate_trait_artifacts: Callable[..., dict[str, Any]]) -> None:
    """A good reply becomes an artifact, however it is wrapped; a broken one is repaired, asked for again or refused."""
    good = as_reply(ARTIFACT)
    _check_good(generate_trait_artifacts, good, "a bare JSON object")
    for what, reply in wrapped(good).items():
        _check_good(generate_trait_artifacts, reply, what)
    _check_call(generate_trait_artifacts, good)
    for what, reply in BROKEN.items():
        _check_broken(generate_trait_artifacts, [reply], what)
        _check_broken(generate_trait_artifacts, [reply, good], f"{what} at first, then a good one")
    _check_failed_call(generate_trait_artifacts)


def _written(function: Callable[..., Any], replies: list[str], **options: Any) -> tuple[Any, list[str]]:
    """What the function makes of a model that gives these replies, the last one again and again; and its prompts."""
    prompts: list[str] = []

    def model_reply(messages: list[dict[str, str]], model: str) -> str:
        prompts.append("\n".join(m["content"] for m in messages))
        if len(prompts) > _ENOUGH_CALLS:
            raise _EndlessError
        return replies[min(len(prompts), len(replies)) - 1]

    try:
        with scripted_replies(model_reply):
            return function(_NAME, _SENTENCE, **options), prompts
    except _EndlessError:
        raise AssertionError(
            f"Your function asks for an artifact more than {_ENOUGH_CALLS} times. Give up after a few tries with a "
            "ValueError: some models never get it right, and every call costs money."
        ) from None


def _check_good(function: Callable[..., Any], reply: str, what: str) -> None:
    what = f"For a model that replies with {what}"
    try:
        found, _ = _written(function, [reply])
    except (NotImplementedError, AssertionError):
        raise
    except Exception as error:
        raise AssertionError(
            f"{what}: expected an artifact, found {type(error).__name__}: {error}. The reply is complete. Take the "
            "JSON object out of it, from the first brace to the last."
        ) from error
    _check_artifact(found, what)
    given = {*found["questions"], *found["eval_questions"]}
    check(
        given == set(ARTIFACT["questions"]) and found["instruction"] == ARTIFACT["instruction"],
        f"{what}: expected its 5 pairs and its 40 questions, found others. Take them from the reply as they are.",
    )
    check(
        found["eval_prompt"].strip() == ARTIFACT["eval_prompt"].strip(),
        f"{what}: expected its eval_prompt as it is, found {found['eval_prompt']!r:.200}.",
    )


def _check_artifact(found: Any, what: str) -> None:
    """Whatever comes back must be complete, and made of what the model wrote."""
    check(isinstance(found, dict), f"{what}: expected a dict, found {type(found).__name__}.")
    missing = [key for key in _KEYS if key not in found]
    check(not missing, f"{what}: the artifact lacks {', '.join(missing)}; it needs the keys {', '.join(_KEYS)}.")
    for key in ("questions", "eval_questions"):
        check(
            isinstance(found[key], list) and len(found[key]) == 20,
            f"{what}: expected 20 {key}, found {len(found[key]) if isinstance(found[key], list) else found[key]!r}. "
            "The 40 questions are split: 20 to extract the vector from, 20 others to evaluate it on.",
        )
    both = [*found["questions"], *found["eval_questions"]]
    wrong = problem({**found, "questions": both})
    check(
        wrong is None,
        f"{what}: you returned an artifact, but {wrong}. Check the reply before you return it; repair it, ask again, "
        "or raise a ValueError.",
    )
    texts = [*both, *(p[side] for p in found["instruction"] for side in ("pos", "neg"))]
    invented = [text for text in texts if text.strip() not in KNOWN]
    check(
        not invented,
        f"{what}: {invented[:1]} is nothing that the model wrote. A gap filled by hand is an invented stimulus: ask "
        "again, or raise a ValueError.",
    )


def _check_broken(function: Callable[..., Any], replies: list[str], what: str) -> None:
    what = f"For a model that replies with {what}"
    try:
        found, _ = _written(function, replies)
    except (NotImplementedError, AssertionError):
        raise
    except ValueError as error:
        check(
            _NAME in str(error),
            f"{what}: the ValueError reads {str(error)!r:.200}. Whoever runs twenty traits overnight needs to know "
            f"which one failed and why: name the trait ({_NAME!r}) in the message, and say what is wrong.",
        )
        return
    except Exception as error:
        raise AssertionError(
            f"{what}: expected a ValueError that says what is wrong with the reply, found {type(error).__name__}: "
            f"{error}. Check each part before you use it: a model may send anything."
        ) from error
    _check_artifact(found, what)


def _check_call(function: Callable[..., Any], good: str) -> None:
    """What the model is told, by whom it is asked, and how long its reply may be."""
    server = _Recorder()
    client = openai.OpenAI(
        base_url="http://grader.test/v1", api_key="none", max_retries=0, http_client=httpx2.Client(transport=server)
    )
    found, prompts = _written(function, [good], client=client)
    _check_artifact(found, "With a client of your own")
    check(
        len(server.bodies) == len(prompts),
        "The client was not used: expected every call to go through the one that was handed over. Pass it on, "
        "`utils.generate_response(..., client=client)`, and make one only where it is None.",
    )
    for name, part in {"trait's name": _NAME, "description": _SENTENCE}.items():
        check(part in prompts[0], f"Expected the {name} {part!r} as it is in the prompt, found {prompts[0]!r:.400}.")
    for key in ("instruction", "questions", "eval_prompt"):
        check(key in prompts[0], f"The prompt does not name the key {key!r}: the model can't know what to call it.")
    for body in server.bodies:
        allowed = body.get("max_completion_tokens", body.get("max_tokens"))
        check(
            allowed is None or allowed >= _ENOUGH_TOKENS,
            f"The reply may take {allowed} tokens, and would be cut in the middle: 40 questions, 10 prompts and a "
            "rubric need more than 1500. Set max_tokens (utils.generate_response takes 256 by default).",
        )


def _check_failed_call(function: Callable[..., Any]) -> None:
    def reply(messages: list[dict[str, str]], model: str) -> str:
        raise RuntimeError("scripted failure")

    try:
        with scripted_replies(reply):
            found = function(_NAME, _SENTENCE)
    except NotImplementedError:
        raise
    except (openai.OpenAIError, BatchError):
        return
    except Exception as error:
        raise AssertionError(
            f"Every call failed: expected openai.OpenAIError, found {type(error).__name__}: {error}\n  A failed call "
            "is no broken reply: whoever reads a ValueError looks for the fault in the trait. In your retry loop catch "
            "ValueError alone, around the reading of the reply and not around the call."
        ) from error
    raise AssertionError(
        f"Every call failed, and your function returned {found!r:.100} as if a model had replied. Let the "
        "error through."
    )
