"""A judge's scores from 0 to 100, whatever it judges: what is asked, what its replies mean, and failed calls."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from graders.harness.cases import Case, fails, kind_of
from graders.harness.expect import whole
from graders.harness.scripted import Exchange, check_judge, check_sent, exchange, unanswered

Run = Callable[[Any], Any]  # calls the work

QUESTION = "What does {answer} stand for in this template?"
ANSWER = 'def f(x):\n    return {"question": "{question}", "x": {x}}  # {0}, {} and {{so on}}\n' + "".join(
    f"The {hour}th hour is as long as any other, whoever is awake.\n" for hour in range(4, 64)
)

_READABLE = {
    "85": 85,
    "100": 100,
    "0": 0,
    "7": 7,
    " 42\n": 42,
    "Score: 100": 100,
    "**63**": 63,
    "The score is 85.": 85,
    "<score>5</score>": 5,
    "85/100": 85,
    "90%": 90,
    "It corrects every word.\n\nScore: 77": 77,
    "12\nbecause it mostly answers the question.": 12,
    "Score (0-100): 64": 64,
    "On a scale of 0 to 100, I would give 35.": 35,
    "<think>It gives 3 reasons.\n\nOr 4?</think>\n\n90": 90,
}
_OUT_OF_RANGE = ("150", "101", "1000", "-5", "Score: 250")
_NO_NUMBER = ("", "I cannot judge this.", "high", "<think>2 of 3 claims hold.</think> I cannot say.")
_REFUSALS = ("REFUSAL", " REFUSAL\n", "**REFUSAL**", "REFUSAL (it declined all 3 parts)")


def prompt_case(name: str, run: Run, check_asked: Callable[[Exchange], None]) -> Case:
    """A judge is asked, at temperature 0, and rightly."""

    def judge(observed: Exchange) -> None:
        check_judge(observed)
        check_asked(observed)
        check_sent(observed, temperature=0)

    return Case(
        name,
        lambda work: exchange("50", lambda: run(work)),
        judge,
        "It was called on a question and an answer with braces. Fill the template with one call of "
        ".format(question=..., answer=...), and don't format the result again.",
    )


def misfilled(prompt: str) -> str:
    """What may have gone wrong where a prompt lacks a part."""
    if ANSWER not in prompt or QUESTION not in prompt:
        return (
            "Is a placeholder missing? Was the answer cut? Or did a second replacement change braces inside the "
            "question or the answer? One call of .format(question=..., answer=...) leaves them alone."
        )
    return "Send the template you were given, not one of your own: it says what to score and how to reply."


def reply_cases(name: str, run: Run, others: dict[str, tuple[int | None, ...]], refusals: bool) -> Iterator[Case]:
    """Replies become scores, or None where there is none; refusals too, where the judge may refuse.

    Args:
        others: replies of which one of several things may be made.
    """
    replies = _READABLE | dict.fromkeys([*_OUT_OF_RANGE, *_NO_NUMBER, *(_REFUSALS if refusals else ())])
    for reply, right in ({reply: (score,) for reply, score in replies.items()} | others).items():
        yield Case(
            f"{name} with the judge replying {reply!r}",
            partial(lambda reply, work: exchange(reply, lambda: run(work)).found, reply),
            partial(_check_score, reply, right),
            "Judges put words, tags or asterisks around a number, or send none: search the whole reply, and return "
            "None without a score.",
        )


def _check_score(reply: str, right: tuple[int | None, ...], found: Any) -> None:
    if (found is None or whole(found)) and found in right:
        return
    expected = " or ".join(map(str, right))
    if len(right) > 1:
        raise AssertionError(f"expected {expected}, found {found!r}. Read the number from its start, as a whole.")
    guess = _misread(reply, found) if right[0] is None else _misread_score(reply, right[0], found)
    raise AssertionError(f"expected {expected}, found {found!r}{guess}")


def _misread(reply: str, found: Any) -> str:
    """Why there is no score in the reply."""
    if reply in _OUT_OF_RANGE:
        clipped = "It was clipped." if found in (0, 100) else "Part of it was read."
        return f". {clipped} A number off the scale of 0 to 100 is no score: the judge misunderstood."
    why = "there is nothing to score in a refusal" if reply in _REFUSALS else "there is no number in it"
    why = "its only numbers stand in its thoughts" if "think" in reply else why
    return f": {why}. An invented number would enter your averages as if the judge had said it."


def _misread_score(reply: str, expected: int, found: Any) -> str:
    if found is None and expected == 0:
        return ". 0 is a score: test `is None`, not truth."
    if whole(found) and "think" in reply:
        return ". That number stands in its thoughts: drop all up to </think>, then read."
    if found == 0 and re.search(r"\b0\b", reply):
        return ". That is the scale's lower end: drop mentions of the scale (0-100, 0 to 100), then read."
    if whole(found) and re.fullmatch(r"\d+\.\d+", reply) and found == int(float(reply)):
        return ". It was cut: round the judge's number."
    if whole(found) and str(expected).startswith(str(found)):
        return ". Only the first digits were read: a score has up to three (`\\d+`)."
    if found == 100:
        return ". Take the score, not the end of the scale."
    if found == expected:
        return f". Return an int, not {kind_of(found)}."
    return ". The number may stand on any line, with words, tags or asterisks around it: search the whole reply."


def failed_call(name: str, run: Run) -> Case:
    """A call that fails is no refusal."""
    why = "None says that there is nothing to score, and the reader can't tell the two apart."
    return fails(f"{name}, where the call of the judge failed", unanswered(run), f"Let the error through: {why}")
