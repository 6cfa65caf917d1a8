"""Batches: which rows of a list go through the model together, and how they become one tensor."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

T = TypeVar("T")

# Tokens of a batch that is read. On a CPU 512 came within 3 % of the fastest of 160 to 1,536, in float32 and in
# bfloat16, with one thread and with two. A GPU wants more to be busy (not measured).
CPU_TOKENS, GPU_TOKENS = 512, 1536


def tokens_at_once(device: torch.device) -> int:
    """How many tokens to read in one batch there."""
    return CPU_TOKENS if device.type == "cpu" else GPU_TOKENS


def packed(items: Iterable[T], fits: Callable[[list[T]], bool]) -> Iterator[list[T]]:
    """The items in their order, in batches as large as `fits` allows; a batch of one is never asked about."""
    batch: list[T] = []
    for item in items:
        if batch and not fits([*batch, item]):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices of rows, longest first, in batches that hold `batch_tokens` at most once padded to their longest row."""
    longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return list(packed(longest_first, lambda rows: len(rows) * lengths[rows[0]] <= batch_tokens))


def of_one_length(batches: Iterable[list[int]], lengths: Sequence[int]) -> Iterator[list[int]]:
    """The batches, cut wherever neighbours differ in length, so that no row is padded."""
    for rows in batches:
        for _, alike in itertools.groupby(rows, key=lambda i: lengths[i]):
            yield list(alike)


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> Int[Tensor, "b s"]:
    """Token ids as one tensor, shorter rows filled up with zeros on the right.

    It needs no mask where attention is causal: no real token sees what stands after it.
    """
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
