"""One piece of work on many processes: each computes its share and gets everybody's results.

Start a script, or a command on a model of your own, with `accelerate launch`: every process runs the same lines, and
what generates, pools or asks divides its batches by process. Batches are made as in one process, so the results are
those of one process. Each process holds a whole model, on a GPU of its own where there are GPUs.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")

# What launchers set, and what libraries read to find their peers.
_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_alone: ContextVar[bool] = ContextVar("alone", default=False)  # a new thread begins with False: see `alone`


def count() -> int:
    """How many processes share the work here: 1 unless a launcher started several."""
    return 1 if _alone.get() else int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's place among them, from 0."""
    return 0 if _alone.get() else int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's place on its machine, which is the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def alone() -> Iterator[None]:
    """Do all of the work in this process: for threads, whose turns the other processes do not know."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def go_alone() -> None:
    """Leave the others for good, with a GPU of one's own: for work in whole parts, which are claimed."""
    if (gpu := os.environ.get("LOCAL_RANK")) is not None:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        cards = [gpu] if shown is None else shown.split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = cards[int(gpu) % len(cards)]
    for name in _LAUNCHED:
        os.environ.pop(name, None)


def mine(pieces: Iterable[T]) -> Iterator[T]:
    """This process's share: one piece in every `count()`, so that long and short ones are spread alike."""
    here, of = rank(), count()
    return (piece for i, piece in enumerate(pieces) if i % of == here)


def exchanged(found: dict[int, T]) -> dict[int, T]:
    """What every process found, by the index of what it is; all processes must call this at the same point."""
    if count() == 1:
        return found
    from torch import distributed  # not before it is needed: the endpoint does without torch

    gathered: list[dict[int, T]] = [{}] * count()
    distributed.all_gather_object(gathered, found, group=_group())
    return {i: value for part in gathered for i, value in part.items()}


def agreed(value: T) -> T:
    """The first process's value, in all of them: for what may differ between them, such as what a cache holds."""
    return exchanged({rank(): value})[0]


@functools.cache
def _group() -> ProcessGroup | None:
    """The processes, connected; objects go through the CPU, so that no GPU waits in memory for them."""
    from accelerate import PartialState
    from torch import distributed

    PartialState()  # connects as the launcher says
    return distributed.new_group(backend="gloo")
