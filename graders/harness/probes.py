"""Section 2, shared: blocks that return something else, and where a conversation's turns lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from graders.harness import oracles

Conversation = list[dict[str, str]]


@contextmanager
def bystander(block: nn.Module) -> Iterator[None]:
    """Somebody else's hook, which a learner's code must leave alone."""
    handle = block.register_forward_hook(lambda module, args, output: None)
    try:
        yield
    finally:
        handle.remove()


def attempt(function: Callable[[], Any]) -> None:
    """Run something that is to fail, whatever becomes of the error."""
    try:
        function()
    except NotImplementedError:
        raise
    except Exception:
        return


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


def turn_spans(conversation: Conversation, tokenizer: Any) -> tuple[list[int], list[list[tuple[int, int]]]]:
    """Ids of a whole conversation, and every acceptable token span of each assistant turn.

    Acceptable: the content; with the end marker; up to the next turn's header; each also from an empty thinking block.
    """
    text = oracles.renderings(conversation, tokenizer)[0]
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, starts = encoding["input_ids"], [a for a, _ in encoding["offset_mapping"]]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    cursor, turns = 0, []
    for message in conversation:
        char = text.index(message["content"].strip(), cursor)  # turns stand in order: search after the one before
        cursor = char + len(message["content"].strip())
        if message["role"] == "assistant":
            last = next((i for i, s in enumerate(starts) if s >= cursor), len(ids))
            header = next((i for i in range(last + 1, len(ids)) if ids[i] in special), len(ids))
            firsts = [next(i for i, s in enumerate(starts) if s >= char)]
            block = text.rfind("<think>", 0, char)
            if block >= 0 and not text[block:char].replace("<think>", "").replace("</think>", "").strip():
                firsts.append(next(i for i, s in enumerate(starts) if s >= block))
            ends = dict.fromkeys([last, min(last + 1, len(ids)), header])
            turns.append([(a, b) for a in firsts for b in ends])
    return ids, turns


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
