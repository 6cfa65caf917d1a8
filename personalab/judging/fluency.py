"""Does the text read like a text? A bigram model over word classes: function words, and the shapes of all others.

Shuffled words, word salad and loops give sequences of classes that running English does not have. The classes make a
table of a few thousand numbers enough, and the model indifferent to what the text is about.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

FUNCTION_WORDS = (
    "the a an and or but if because as of to in on at by for with from into about over after before than then that "
    "this these those there here it its he him his she her they them their we us our you your i me my who what "
    "which when where why how is are was were be been being am do does did have has had will would can could should "
    "may might must not no so very too just only even also more most much many some any all every each other one "
    "two up out down off like while through between against without until though yet still never always again it's "
    "don't i'm you're that's can't i've isn't won't didn't doesn't let make get go take"
).split()
SUFFIXES = ("ing", "ed", "ly", "s", "er", "tion", "al")
MARKS = (".", ",", "?", "!", ":", ";", "-", "(", ")", '"', "\n")
_TOKEN = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)?|\d[\d,.]*|[.,?!:;\-—–()\"“”]|\n+|[^\sA-Za-z\d]")
CLASSES = ("^", *FUNCTION_WORDS, *(f"-{s}" for s in SUFFIXES), "word", "Name", "NAME", "number", *MARKS, "symbol")
_INDEX = {name: i for i, name in enumerate(CLASSES)}


def classes(text: str) -> list[int]:
    """The class of every token, after the class that begins a text."""
    return [_INDEX["^"], *(_INDEX[_class(token)] for token in _TOKEN.findall(text))]


def _class(token: str) -> str:
    word = token.lower().replace("’", "'")
    if word in _INDEX and word != "^" and not word.startswith("-"):
        return word
    if word[0] == "\n":
        return "\n"
    if word in "—–-":
        return "-"
    if word in "“”":
        return '"'
    if word[0].isdigit():
        return "number"
    if not word[0].isalpha() or not word.isascii():
        return "symbol"
    if token.isupper() and len(token) > 1:
        return "NAME"
    if token[0].isupper():
        return "Name"
    return next((f"-{suffix}" for suffix in SUFFIXES if word.endswith(suffix)), "word")


@dataclass(frozen=True)
class Fluency:
    """Log-probability of each class after each other one, in nats."""

    log_p: Float[np.ndarray, "classes classes"]

    @classmethod
    def fit(cls, texts: Iterable[str], smoothing: float = 0.3) -> Fluency:
        """Count bigrams in running text; `smoothing` observations of each class's overall share are added."""
        counts = np.zeros((len(CLASSES), len(CLASSES)))
        for text in texts:
            sequence = classes(text)
            np.add.at(counts, (sequence[:-1], sequence[1:]), 1.0)
        share = (counts.sum(axis=0) + 1) / (counts.sum() + len(CLASSES))
        counts += smoothing * len(CLASSES) * share
        return cls(np.log(counts / counts.sum(axis=1, keepdims=True)).astype(np.float32))

    def cues(self, texts: Sequence[str]) -> Float[np.ndarray, "n 3"]:
        """Mean surprise a token, the worst stretch of twelve tokens, and how regular the surprise is (its variance)."""
        rows = []
        for text in texts:
            sequence = classes(text)
            surprise = -self.log_p[sequence[:-1], sequence[1:]]
            if not len(surprise):
                rows.append([0.0, 0.0, 0.0])
                continue
            width = min(12, len(surprise))
            stretches = np.convolve(surprise, np.ones(width) / width, mode="valid")
            rows.append([surprise.mean(), stretches.max(), surprise.std()])
        return np.array(rows, dtype=np.float32)
