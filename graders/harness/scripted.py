"""What the learner's work makes of a scripted endpoint, and what it asked."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from graders.harness.cases import attempt
from graders.harness.expect import check
from personalab.endpoint import scripted_replies
from personalab.judging.prompts import Task, read_prompt
from personalab.tiers import current_tier

Messages = list[dict[str, str]]


class Exchange(NamedTuple):
    """What a call gave; its prompts (the contents of all messages) and the models asked, in order of arrival."""

    found: Any
    prompts: list[str]
    models: list[str]
    at_once: int  # the largest number of calls answered at the same time
    bodies: tuple[dict[str, Any], ...] = ()  # the whole requests: messages, temperature, max_tokens, ...


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
        found,
        [prompt_of(m) for m, _ in script.calls],
        [model for _, model in script.calls],
        script.peak_concurrency,
        tuple(script.bodies),
    )


def check_judge(observed: Exchange) -> None:
    """A judge was asked, and nobody else."""
    check(observed.prompts, "it did not ask the judge: call utils.generate_response.")
    check_models(observed.models)


def check_models(asked: Collection[str]) -> None:
    """Any judge will do but the model whose answers are judged, unless the tier has one for both."""
    tier, model = current_tier(), current_tier().response_model
    check(
        tier.judge_model == model or model not in asked,
        f"it asked {model!r}: that is the model under study, which writes the answers and is no judge. "
        "utils.generate_response takes it by default; pass model=utils.judge_model().",
    )


def embedded_task(body: dict[str, Any]) -> Task:
    """What the `cpu` tier's judge makes of a request.

    Raises:
        JudgePromptError: saying what it can't find.
    """
    return read_prompt("\n\n".join(m["content"] for m in body["messages"] if m["role"] != "assistant"))


def check_sent(observed: Exchange, **fields: Any) -> None:
    """Every request holds these values, as `temperature=0`."""
    for name, value in fields.items():
        for body in observed.bodies:
            found = f"{name}={body[name]}" if name in body else f"no {name}"
            check(body.get(name) == value, f"expected every call with {name}={value}, found {found}. Hand it on.")


def unanswered(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """To observe: what comes of a call of the work where every request fails."""

    def fail(messages: Messages, model: str) -> str:
        raise RuntimeError("scripted failure")

    return lambda work: attempt(lambda: exchange(fail, lambda: call(work)).found)
