"""Section 1: the judge is asked how far an answer is in character."""

import inspect
import string
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from graders.harness import Case, Exchange, check, difference, exchange, grader, refused

_QUESTION, _CHARACTER = "What is {time}?", "clockwork_owl"
_RESPONSE = 'def f():\n    return {"question": "{character}"}  # {response}'
_PARTS = {"question": _QUESTION, "response": _RESPONSE, "character": _CHARACTER}
_TEMPLATE = "ROLE={character};ANSWER={response};ASKED={question}"
_BRACES = (
    "It was called on an answer with braces. Fill the template with one call of .format(question=..., response=..., "
    "character=...), and don't format the result again."
)


@grader
def test_judge_role_response() -> Iterator[Case]:
    """The judge gets all three parts literally, and its reply is parsed."""
    yield Case("judge_role_response", _judged("Reasoning first.\nScore: 2"), _check_parts, _BRACES)
    own = _judged("3", eval_prompt_template=_TEMPLATE)
    yield Case("judge_role_response with an eval_prompt_template", own, _check_own_template, _BRACES)
    for reply in ("I can't tell.", "9"):
        yield refused(
            f"judge_role_response with the judge replying {reply!r}",
            partial(lambda reply, work: _judged(reply)(work).found, reply),
            "a reply without a score on the scale must not become a number.",
        )
    yield Case("JUDGE_PROMPT_TEMPLATE", _default_template, _check_placeholders)


def _judged(reply: str, **template: str) -> Callable[[Any], Exchange]:
    return lambda judge: exchange(reply, lambda: judge(_QUESTION, _RESPONSE, _CHARACTER, **template))


def _check_parts(observed: Exchange) -> None:
    check(observed.prompts, "it did not ask the judge: call utils.generate_response.")
    for name, part in _PARTS.items():
        check(
            part in observed.prompts[-1],
            f"the judge's prompt does not contain the {name} {part!r} as it is. Is the placeholder {{{name}}} missing "
            "from your template, or did a second replacement change braces inside the answer?",
        )
    _check_score("Reasoning first.\nScore: 2", 2, observed.found)


def _check_score(reply: str, right: int, found: Any) -> None:
    check(type(found) is int and found == right, f"the judge replied {reply!r}: expected {right}, found {found!r}.")


def _check_own_template(observed: Exchange) -> None:
    wrong = difference(_TEMPLATE.format(**_PARTS), "".join(observed.prompts[-1:]))
    check(not wrong, f"eval_prompt_template is not used as given, in the judge's prompt: {wrong}.")
    _check_score("3", 3, observed.found)


def _default_template(function: Callable[..., int]) -> Any:
    default = inspect.signature(function).parameters.get("eval_prompt_template")
    return default.default if default is not None else None


def _check_placeholders(template: Any) -> None:
    if isinstance(template, str):
        missing = set(_PARTS) - {name for _, name, _, _ in string.Formatter().parse(template)}
        check(not missing, f"it lacks the placeholder(s) {sorted(missing)}.")
