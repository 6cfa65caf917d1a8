"""Blocks that return something else, hooks of somebody else, and what a model would say."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Conversation = list[dict[str, str]]


@contextmanager
def bystander(block: nn.Module) -> Iterator[None]:
    """Somebody else's hook, which a learner's code must leave alone."""
    handle = block.register_forward_hook(lambda module, args, output: None)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def outputs_changed(
    model: Any, layer: int, change: Callable[[Tensor], Any], undo: Callable[[Any], Tensor]
) -> Iterator[None]:
    """Block `layer` returns `change(hidden)`, and the next one undoes it: the model computes what it always did."""
    block, following = model.model.layers[layer], model.model.layers[layer + 1]
    inner, after = block.forward, following.forward
    block.__dict__["forward"] = lambda *args, **kwargs: change(inner(*args, **kwargs))
    following.__dict__["forward"] = lambda hidden, *args, **kwargs: after(undo(hidden), *args, **kwargs)
    try:
        yield
    finally:
        del block.__dict__["forward"], following.__dict__["forward"]


def returning_tuples(model: Any, layer: int) -> Any:
    """Block `layer` returns a tuple that starts with the hidden states, as in older versions of transformers."""
    return outputs_changed(model, layer, lambda hidden: (hidden, None), lambda output: output[0])


@torch.inference_mode()
def greedy(model: Any, ids: list[int], n: int) -> list[int]:
    """Up to `n` greedy tokens, one uncached pass each; the end token is the last."""
    stop = model.generation_config.eos_token_id
    stops = set(stop if isinstance(stop, list) else [stop])
    tokens: list[int] = []
    while len(tokens) < n and not (tokens and tokens[-1] in stops):
        logits = model(input_ids=torch.tensor([[*ids, *tokens]], device=model.device), use_cache=False).logits
        tokens.append(int(logits[0, -1].argmax()))
    return tokens
