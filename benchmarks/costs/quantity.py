"""A quantity that a cost may grow with: its sizes, and what is done at each, timed in rounds."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Work = Callable[[], object]


@dataclass(frozen=True)
class Quantity:
    """What grows, and how its cost should.

    Attributes:
        title: of its row and its panel.
        unit: of a size.
        sizes: ascending.
        should: the exponent that the cost should have: 1 in proportion, 0 not at all.
        make: what is to be timed at a size; making it is not.
    """

    title: str
    unit: str
    sizes: tuple[int, ...]
    should: int
    make: Callable[[int], Work]


def in_rounds(quantities: Mapping[str, Quantity], rounds: int) -> dict[str, dict[str, Any]]:
    """Processor seconds of every size in every round; sizes ascend in one round and descend in the next.

    A first pass over the two smallest sizes warms up and is not kept.
    """
    found = {}
    for name, quantity in quantities.items():
        for size in quantity.sizes[:2]:
            quantity.make(size)()
        seconds: dict[int, list[float]] = {size: [] for size in quantity.sizes}
        for i in range(rounds):
            for size in quantity.sizes if i % 2 == 0 else quantity.sizes[::-1]:
                seconds[size].append(round(_seconds(quantity.make(size)), 5))
        found[name] = {
            "title": quantity.title,
            "unit": quantity.unit,
            "should": quantity.should,
            "sizes": list(quantity.sizes),
            "processor": list(seconds.values()),
        }
        shown = ", ".join(f"{size}: {statistics.median(taken):.3f} s" for size, taken in seconds.items())
        print(f"  {quantity.title}: {shown}", flush=True)
    return found


def _seconds(work: Work) -> float:
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start
