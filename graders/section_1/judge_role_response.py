"""Section 1: the judge is asked how far an answer is in character."""

import inspect
import re
import string
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from graders.harness import Case, Exchange, attempt, check, difference, exchange, grader
from graders.harness.cases import check_value_error
from graders.harness.expect import whole
from graders.harness.scripted import check_judge, check_sent, embedded_task
from personalab.judging.asked import JudgePromptError

_QUESTION, _CHARACTER = "What is {time}?", "clockwork owl"
_RESPONSE = (
    'def f():\n    return {"question": "{character}"}  # {response}\n'
    + "".join(f"The hour {n} is as long as any other, whoever is awake.\n" for n in range(60))
    + "Whoo."
)
_HOSTILE = (_QUESTION, _RESPONSE, _CHARACTER)
_PARTS = dict(zip(("question", "response", "character"), _HOSTILE, strict=True))
_PLAIN = ("How long is an hour?", "As long as a flight over the tower, dear guest. Whoo!", _CHARACTER)
_TEMPLATE = "ROLE={character};ANSWER={response};ASKED={question}"
_BRACES = (
    "It was called on an answer with braces. Fill the template with one call of .format(question=..., response=..., "
    "character=...), and don't format the result again."
)
_MARKS = (
    "Mark the answer with `<response>…</response>` or a line that begins `Response:`, the question likewise, and write "
    '`the character "{character}"`, in quotes.'
)


@grader
def test_judge_role_response() -> Iterator[Case]:
    """The judge gets all three parts literally, in a prompt that it can read, and its reply is parsed."""
    yield Case("judge_role_response", _judged("Reasoning first.\nScore: 2"), _check_parts, _BRACES)
    own = _judged("3", eval_prompt_template=_TEMPLATE)
    yield Case("judge_role_response with an eval_prompt_template", own, _check_own_template, _BRACES)
    for reply in ("I can't tell.", "9"):
        call = f"judge_role_response with the judge replying {reply!r}"
        yield Case(call, partial(_attempted, reply), partial(_check_refused, call))
    yield Case("JUDGE_PROMPT_TEMPLATE", _default_template, _check_placeholders)
    yield Case("judge_role_response on a plain answer", _judged("3", _PLAIN), _check_readable)


def _judged(reply: str, parts: tuple[str, str, str] = _HOSTILE, **template: str) -> Callable[[Any], Exchange]:
    return lambda judge: exchange(reply, lambda: judge(*parts, **template))


def _attempted(reply: str, work: Any) -> Exchange:
    """What was asked is known also if it ends in an error."""
    return exchange(reply, lambda: attempt(lambda: work(*_HOSTILE)))


def _check_parts(observed: Exchange) -> None:
    check(observed.prompts, "it did not ask the judge: call utils.generate_response.")
    for name, part in _PARTS.items():
        check(
            part in observed.prompts[-1],
            f"the judge's prompt does not contain the {name} {_short(part)} as it is. Is the placeholder {{{name}}} "
            "missing from your template, was it cut, or did a second replacement change braces inside the answer?",
        )
    check_judge(observed)
    check_sent(observed, temperature=0)
    _check_once(observed)
    _check_score("Reasoning first.\nScore: 2", 2, observed.found)


def _short(part: str) -> str:
    return repr(part) if len(part) < 100 else f"{part[:60]!r}… ({len(part)} characters)"


def _check_once(observed: Exchange) -> None:
    n = len(observed.prompts)
    check(n == 1, f"it asked the judge {n} times. Ask once: at temperature 0 the same question gets the same reply.")


def _check_score(reply: str, right: int, found: Any) -> None:
    check(whole(found) and found == right, f"the judge replied {reply!r}: expected the int {right}, found {found!r}.")


def _check_own_template(observed: Exchange) -> None:
    """Some message is the template, filled; there may be others beside it."""
    right = _TEMPLATE.format(**_PARTS)
    contents = [m["content"] for body in observed.bodies for m in body["messages"]]
    wrong = "" if right in contents else difference(right, "".join(contents[-1:]))
    check(not wrong, f"eval_prompt_template is not used as given, in the judge's prompt: {wrong}.")
    _check_score("3", 3, observed.found)


def _check_refused(call: str, observed: Exchange) -> None:
    check_value_error(observed.found, call, "a reply without a score on the scale must not become a number.")
    _check_once(observed)


def _default_template(function: Callable[..., int]) -> Any:
    default = inspect.signature(function).parameters.get("eval_prompt_template")
    return default.default if default is not None else None


def _check_placeholders(template: Any) -> None:
    if isinstance(template, str):
        missing = set(_PARTS) - {name for _, name, _, _ in string.Formatter().parse(template)}
        check(not missing, f"it lacks the placeholder(s) {sorted(missing)}.")


def _check_readable(observed: Exchange) -> None:
    """The embedded judge finds the parts by their marks, and the scale; it says itself what it can't find."""
    question, answer, character = _PLAIN
    try:
        task = embedded_task(observed.bodies[-1])
    except JudgePromptError as error:
        raise AssertionError(f"the cpu tier's judge can't read your filled template. It says: {error}") from None
    check(
        task.rubric.kind == "role" and task.rubric.name == character,
        f"the cpu tier's judge takes your filled template for a question about "
        f"{task.rubric.name or task.rubric.kind!r}, not about the character {character!r}. {_MARKS}",
    )
    for part, right, found in (("answer", answer, task.answer), ("question", question, task.question)):
        wrong = difference(right, found)
        check(not wrong, f"what the cpu tier's judge takes for the {part} is not it: {wrong}. {_MARKS}")
    scale, prompt = (task.reply.low, task.reply.high), observed.prompts[-1]
    check(
        scale == (0, 3) and task.reply.words is None and re.search(r"0|zero", prompt) and re.search(r"3|three", prompt),
        f"the cpu tier's judge reads the scale as {scale[0]:g} to {scale[1]:g}. Ask for a number from 0 to 3.",
    )
