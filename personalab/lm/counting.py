"""How many tokens this process has put through its tier's models: counted where they enter, at the embedding.

A token of a pass over several is read; a token of a pass over one a row is decoded. So an answer of k tokens is k - 1
decoded ones: the first comes out of the pass that reads its prompt. Padding counts, since it is computed.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from transformers import PreTrainedModel

_counts: dict[str, dict[str, int]] = {}


def watch(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """Count what enters `model`, and its twins, from now on; returns it."""
    model.get_input_embeddings().register_forward_pre_hook(partial(_note, name))
    return model


def counts() -> dict[str, dict[str, int]]:
    """By model: forward passes, tokens read and tokens decoded so far."""
    return {name: dict(found) for name, found in _counts.items()}


def _note(name: str, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
    if not args:  # given by name, which no model of the course does
        return
    found = _counts.setdefault(name, {"passes": 0, "read": 0, "decoded": 0})
    found["passes"] += 1
    found["read" if args[0].shape[-1] > 1 else "decoded"] += args[0].numel()
