"""Shared prefixes: what conversations begin with in common (a persona, say) runs through the model once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from personalab.lm.hooks import hooked, stop_after
from personalab.lm.models import input_device
from personalab.lm.roomy_cache import roomy_cache

MIN_PREFIX = 8  # tokens; a shorter shared prefix costs more to set up than it saves


def groups(sequences: Sequence[list[int]]) -> Iterator[list[int]]:
    """Indices of token sequences that share a long prefix, found as neighbours in lexicographic order."""
    group: list[int] = []
    longest = 0  # longest prefix two neighbours of this group share
    for i in sorted(range(len(sequences)), key=lambda i: sequences[i]):
        shared = common_length(sequences[group[-1]], sequences[i]) if group else 0
        if group and shared < max(MIN_PREFIX, longest / 2):
            yield group
            group, longest = [], 0
        elif group:
            longest = max(longest, shared)
        group.append(i)
    if group:
        yield group


def common_length(a: list[int], b: list[int]) -> int:
    """Number of leading tokens in which two sequences agree."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def shared_length(sequences: Sequence[list[int]], limit: int) -> int:
    """Length of the prefix all sequences share: at most `limit`, less than the shortest, 0 if it does not pay."""
    if len(sequences) == 1:
        return 0
    # The first and the last in lexicographic order differ earliest.
    shared = min(common_length(min(sequences), max(sequences)), limit, min(map(len, sequences)) - 1)
    return shared if shared >= MIN_PREFIX else 0


@dataclass(frozen=True)
class Prefix:
    """Keys and values of some leading tokens: of one row, or (from some block on) of several, see `spread_after`."""

    length: int
    cache: DynamicCache | None

    def picked(self, rows: Sequence[int]) -> Prefix:
        """Of its several rows these; what it has one row of stands for all."""
        cache = copy.copy(self.cache)
        if cache is not None:
            cache.layers = [copy.copy(layer) for layer in cache.layers]
            for layer in cache.layers:
                if len(layer.keys) > 1:
                    layer.keys, layer.values = layer.keys[list(rows)], layer.values[list(rows)]
        return Prefix(self.length, cache)

    def for_rows(self, rows: int) -> DynamicCache | None:
        """A cache of its own for a batch of `rows` that all begin with this prefix."""
        cache = copy.deepcopy(self.cache)
        if cache is not None:
            cache.batch_repeat_interleave(rows)
        return cache


NOTHING = Prefix(0, None)


def run_prefix(model: PreTrainedModel, last_block: nn.Module, ids: Sequence[int], after: Prefix = NOTHING) -> Prefix:
    """Keys and values of `ids` in every block up to `last_block`; later blocks and the LM head don't run.

    Args:
        after: what stands before `ids`, run already; the prefix that comes out begins with it.
    """
    if not ids:
        return after
    cache = copy.deepcopy(after.cache) or DynamicCache(config=model.config.get_text_config())
    with stop_after(last_block):
        model(input_ids=torch.tensor([ids], device=input_device(model)), past_key_values=cache, use_cache=True)
    return Prefix(after.length + len(ids), cache)


@contextmanager
def spread_after(block: nn.Module, rows: int) -> Iterator[None]:
    """The one row that `block` puts out goes on as `rows`, which interventions from there on may treat differently.

    Up to `block` nothing is computed twice. Enter it after the interventions: they get the rows.
    """
    with hooked(block, lambda hidden: hidden.expand(rows, -1, -1), first=True):
        yield


def combine(starts: Sequence[Prefix], model: PreTrainedModel, room: int) -> DynamicCache:
    """One cache for a batch whose row `r` begins with `starts[r]`; shorter ones are padded on the left.

    Args:
        room: tokens that will be in it at the end.
    """
    cache = roomy_cache(model, room)
    some = next((p.cache for p in starts if p.cache is not None), None)
    if some is None:
        return cache
    length = max(p.length for p in starts)

    def stack(block: int, what: str) -> Tensor:
        """(1, heads, own length, head_dim) of each row to (rows, heads, length, head_dim)."""
        nothing = getattr(some.layers[block], what)[:, :, :0]
        rows = [getattr(p.cache.layers[block], what) if p.cache is not None else nothing for p in starts]
        return torch.cat([nn.functional.pad(row, (0, 0, length - row.shape[2], 0)) for row in rows])

    for block in range(len(some.layers)):
        cache.update(stack(block, "keys"), stack(block, "values"), block)
    return cache
