"""Ways to ruin an answer, for fitting and measuring the coherence score."""

from __future__ import annotations

import random
from collections.abc import Callable


def shuffled(text: str, rng: random.Random) -> str:
    """The words in random order."""
    words = text.split()
    rng.shuffle(words)
    return " ".join(words)


def looping(text: str, rng: random.Random) -> str:
    """It begins well and then repeats a few words over and over."""
    words = text.split()
    start = rng.randrange(max(1, len(words) // 2))
    phrase = words[start : start + rng.randint(2, 9)]
    return " ".join(words[:start] + phrase * rng.randint(3, 9))


def truncated(text: str, rng: random.Random) -> str:
    """Cut in the middle of a sentence, where a token limit would cut it."""
    words = text.rstrip(" .!?").split()
    return " ".join(words[: max(1, round(len(words) * rng.uniform(0.3, 0.85)))]).rstrip(".!?,;: ")


def mixed(text: str, other: str, rng: random.Random) -> str:
    """Stretches of two answers in turn: every stretch is English, the whole says nothing."""
    mine, theirs = text.split(), other.split()
    out: list[str] = []
    while mine or theirs:
        n = rng.randint(2, 5)
        out += mine[:n] + theirs[:n]
        mine, theirs = mine[n:], theirs[n:]
    return " ".join(out)


SCORES = {"shuffled": 3, "looping": 12, "truncated": 45, "mixed": 10, "off topic": 15}  # on the scale of 0 to 100
_ALONE: dict[str, Callable[[str, random.Random], str]] = {
    "shuffled": shuffled,
    "looping": looping,
    "truncated": truncated,
}


def corrupt(kind: str, text: str, other: str, rng: random.Random) -> str:
    """`text` ruined in one of the ways of `SCORES`; `other` is an answer to another question."""
    if kind == "off topic":
        return other
    return mixed(text, other, rng) if kind == "mixed" else _ALONE[kind](text, rng)
