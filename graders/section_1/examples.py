"""Sections 1 and 4, shared: exchanges of unequal length."""

from collections.abc import Sequence

SYSTEMS = ["You are a pirate.", "", "You are a judge.", "You are a pirate.", "You are an old tree."]
QUESTIONS = ["Where is the gold?", "How do tides work?", "Is it fair to lie?", "What do you want?", "Who are you?"]
RESPONSES = [
    "Under the oak, matey.",
    "The moon pulls on the sea, and the sea follows. It never rests. " * 3,
    "No.",
    "Rest, rum and a fair wind, in that order.",
    "I have stood here for a thousand years. " * 2,
]
LONG = ("You are a poet.", "Tell me everything.", "the sea" + " and the city" * 80)


def exchanges(n: int, family: str = "", spaces: bool = False) -> list[tuple[str, str, str]]:
    """Exchanges.

    Args:
        family: only where all right solutions agree (Gemma 2) is a system prompt empty.
        spaces: answers end in spaces as they stand, which are no part of what counts as the answer.
    """
    systems = SYSTEMS if family == "gemma2" else [s or "You are a nurse." for s in SYSTEMS]
    responses = RESPONSES if spaces else [r.strip() for r in RESPONSES]
    return list(zip(systems, QUESTIONS, responses, strict=True))[:n]


def columns(examples: Sequence[tuple[str, ...]]) -> list[list[str]]:
    """System prompts, questions and responses, as learners' functions take them."""
    return [list(texts) for texts in zip(*examples, strict=True)]
