"""What the learner's work makes of a scripted endpoint, and what it asked."""

from collections.abc import Callable
from typing import Any, NamedTuple

from graders.harness.cases import attempt
from personalab.endpoint import scripted_replies

Messages = list[dict[str, str]]


class Exchange(NamedTuple):
    """What a call gave; its prompts (the contents of all messages) and the models asked, in order of arrival."""

    found: Any
    prompts: list[str]
    models: list[str]
    at_once: int  # the largest number of calls answered at the same time


def prompt_of(messages: Messages) -> str:
    """All that is said in a prompt."""
    return "\n".join(m["content"] for m in messages)


def exchange(reply: str | Callable[[Messages, str], str], call: Callable[[], Any]) -> Exchange:
    """Make a call while a script answers: always the same, or by messages and model."""

    def answer(messages: Messages, model: str) -> str:
        return reply if isinstance(reply, str) else reply(messages, model)

    with scripted_replies(answer) as script:
        found = call()
    return Exchange(
        found, [prompt_of(m) for m, _ in script.calls], [model for _, model in script.calls], script.peak_concurrency
    )


def unanswered(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """To observe: what comes of a call of the work where every request fails."""

    def fail(messages: Messages, model: str) -> str:
        raise RuntimeError("scripted failure")

    return lambda work: attempt(lambda: exchange(fail, lambda: call(work)).found)
