"""Whether two things are the same; where they first differ, and what stands there in each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_SHORT = 60  # characters that are shown whole


def same(a: Any, b: Any) -> bool:
    """Equal, tensors included, and dicts in the same order."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        both = isinstance(a, Tensor) and isinstance(b, Tensor)
        return both and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(np.all(a == b))


def difference(expected: Any, found: Any, place: str = "") -> str:
    """`expected …, found … at …`: all of it if it is short, else where two texts, lists or dicts first differ.

    "" where nothing does.
    """
    a, b = repr(expected), repr(found)
    at = f" at {place}" if place else ""
    if a == b and same(expected, found):
        return ""
    if max(len(a), len(b)) <= _SHORT and a != b:
        return f"expected {a}, found {b}{at}"
    if isinstance(expected, str) and isinstance(found, str):
        i = _first(expected, found, min(len(expected), len(found)))
        return f"expected {_around(expected, i)}, found {_around(found, i)}{at or ' at'} character {i}"
    if isinstance(expected, dict) and isinstance(found, dict) and expected and found:
        if list(expected) != list(found):
            return difference(list(expected), list(found), f"{place} keys".strip())
        key = next((k for k in expected if not same(expected[k], found[k])), None)
        if key is not None:
            return difference(expected[key], found[key], f"{place}[{key!r}]")
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple) and expected and found:
        i = _first(expected, found, -1)
        if i >= 0:
            return difference(expected[i], found[i], f"{place}[{i}]")
        return f"expected {len(expected)} entries, found {len(found)}{at}"
    return f"expected {a:.200}, found {b:.200}{at}"


def _first(expected: Sequence[Any], found: Sequence[Any], otherwise: int) -> int:
    """Index of the first entries that differ."""
    pairs = enumerate(zip(expected, found, strict=False))
    return next((i for i, (a, b) in pairs if not same(a, b)), otherwise)


def _around(text: str, i: int) -> str:
    """What stands there in a text."""
    start, stop = max(i - _SHORT // 3, 0), i + 2 * _SHORT // 3
    return "…" * (start > 0) + repr(text[start:stop]) + "…" * (stop < len(text))
