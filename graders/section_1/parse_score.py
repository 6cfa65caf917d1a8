"""Section 1: the judge's score from 0 to 3, wherever it stands in the reply."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from graders.harness import Case, check, grader, refused
from graders.harness.expect import whole

_PARSABLE = {
    "3": 3,
    "0": 0,
    " 2\n": 2,
    "Score: 2": 2,
    "**3**": 3,
    "<score>1</score>": 1,
    "The rating is 0.": 0,
    "It speaks like a pirate throughout.\n\nScore: 3": 3,
    "1\nbecause it helps without the accent": 1,
    "I would say\n2\nsince it admits to being an AI.": 2,
    "3/3": 3,
    "1/3": 1,
    "Score: 2/3": 2,
    "2 out of 3": 2,
    "I give it 1 of 3.": 1,
}
_REFUSED = {
    "the number is out of range; the scale is 0 to 3, and part of a longer number (or a clipped one) is not a score.": (
        ("7", "Score: 12", "-1", "30", "Rating: 4", "7/3", "5 out of 3")
    ),
    "there is no score in it, and a silent default would enter your averages as if the judge had said it.": (
        ("", "no idea", "I cannot judge this.")
    ),
}


@grader
def test_parse_score() -> Iterator[Case]:
    """Scores wherever they stand; ValueError for anything that is not a score from 0 to 3."""
    for reply, expected in _PARSABLE.items():
        yield _parsed(reply, expected)
    for reply, why in ((reply, why) for why, replies in _REFUSED.items() for reply in replies):
        yield refused(f"parse_score({reply!r})", partial(lambda reply, work: work(reply), reply), why)


def _parsed(reply: str, expected: int) -> Case:
    scale = " What follows `/` or `out of` is the end of the scale, not the score."

    def judge(found: Any) -> None:
        guess = "" if whole(found) or found != expected else " Return an int, of Python or numpy."
        guess = scale if found == 3 != expected and "3" in reply else guess
        check(whole(found) and found == expected, f"expected the int {expected}, found {found!r}.{guess}")

    return Case(
        f"parse_score({reply!r})",
        lambda parse_score: parse_score(reply),
        judge,
        f"Expected {expected}: judges put the number on any line, with words, tags or asterisks around it, so search "
        "the whole reply.",
    )
