"""One rule for random numbers: a request's content, the global seed and its occurrence decide, never its place."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

from personalab.tiers import GLOBAL_SEED


def request_seed(
    messages: Sequence[Mapping[str, str]],
    max_tokens: int,
    temperature: float,
    seed: int = GLOBAL_SEED,
    occurrence: int = 0,
) -> int:
    """The sampling seed of a request: 31 bits, which any server takes. The model is no part of it.

    Two models, two steering coefficients or two caps that answer the same request therefore share their luck, and
    differ by what was done to them.

    Args:
        seed: the global seed; another one gives other samples.
        occurrence: how many identical requests came before it (`occurrences`), so that repeats are separate samples.
    """
    turns = [[m["role"], m["content"]] for m in messages]
    content = json.dumps([turns, max_tokens, float(temperature), seed, occurrence], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:4], "big") >> 1


def occurrences(items: Sequence[Hashable]) -> list[int]:
    """For every item, how many equal ones come before it."""
    seen: Counter[Hashable] = Counter()
    found = []
    for item in items:
        found.append(seen[item])
        seen[item] += 1
    return found
