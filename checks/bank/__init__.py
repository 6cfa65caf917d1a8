"""Right and wrong solutions of every exercise. Each exercise is one module here, named after its grader.

A right solution is decorated with `@right`, a wrong one with `@wrong("words the grader must say")`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T", bound=Callable)

RIGHT, WRONG = "right", "wrong"


def right(function: T) -> T:
    """A solution that every grader of its exercise must accept."""
    function.verdict, function.words = RIGHT, ""
    return function


def wrong(words: str) -> Callable[[T], T]:
    """A solution with one mistake; the grader's message must contain `words` (a regular expression)."""

    def mark(function: T) -> T:
        function.verdict, function.words = WRONG, words
        return function

    return mark
