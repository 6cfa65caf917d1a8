"""Where a process's time goes: seconds of the clock by kind of work, for `machine.json` and the end of a run."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_open: Counter[str] = Counter()
_since: dict[str, float] = {}
_seconds: dict[str, float] = {}


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Count the time of the `with` block, or of a function that this decorates, as `name`.

    Time in which several threads are in one phase, or one phase is inside itself, counts once.
    """
    with _lock:
        if not _open[name]:
            _since[name] = time.perf_counter()
        _open[name] += 1
    try:
        yield
    finally:
        with _lock:
            _open[name] -= 1
            if not _open[name]:
                _seconds[name] = _seconds.get(name, 0.0) + time.perf_counter() - _since[name]


def seconds() -> dict[str, float]:
    """By phase that has ended at least once, the longest first."""
    with _lock:
        return {name: round(spent, 1) for name, spent in sorted(_seconds.items(), key=lambda item: -item[1])}


def one_line(spent: dict[str, float], in_all: float) -> str:
    """Such as "answers 61 s, activations 20 s, the rest 9 s"."""
    rest = {"the rest": max(in_all - sum(spent.values()), 0.0)}
    return ", ".join(f"{name} {value:.0f} s" for name, value in (spent | rest).items())
