"""Two or more ways of generating the same texts, taking turns, so that a slow minute of the machine meets them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import utils
from personalab.lm.generation import Completion, Request

REPEATS = 5
N_PROMPTS, MAX_TOKENS = 32, 32


def requests() -> list[Request]:
    """Greedy requests of which no two begin alike, so that no side shares a prefix."""
    questions = [f"{i}. {q}" for i, q in enumerate(utils.load_questions()[:N_PROMPTS])]
    return [Request(utils.as_messages(f"Number {i}.", q), MAX_TOKENS, temperature=0.0) for i, q in enumerate(questions)]


def compare(sides: Mapping[str, Callable[[], list[Completion]]]) -> None:
    """Print each side's median time over that of "plain", from smallest to largest round, and how many texts agree."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    texts: dict[str, list[str]] = {}
    for _ in range(REPEATS + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            texts[name] = [c.text for c in side()]
            seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values[1:], seconds["plain"][1:], strict=True)]  # the first round warms up
        same = sum(a == b for a, b in zip(texts[name], texts["plain"], strict=True))
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}, {REPEATS} rounds"
        print(
            f"{name:<40}{statistics.median(ratios):6.3f} x plain ({spread}), same texts: {same} of {len(texts[name])}"
        )
