"""A control for a cap: caps along random directions that remove as much. And how much a cap removes.

**What a cap removes** at a token is `max(<h, v> - threshold, 0)`, the norm of what it takes out of that token's
residual stream, with `h` as the cap finds it: every cap of an earlier block is in force. It is counted over the content
tokens of the assistant's turns, since these are the tokens that a persona is judged by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.lm.batching import by_length, padded, tokens_at_once
from personalab.lm.chat import Message, turn_spans
from personalab.lm.hooks import Hidden, hooked, stop_after
from personalab.lm.interventions import Cap
from personalab.lm.models import decoder_blocks

Threshold = Callable[[int, Float[Tensor, "b s"]], float]  # of a cap's place in the list, and all projections there
First = dict[int, Float[Tensor, "d"]]  # the first token's residual stream, by block


class TurnBatch(NamedTuple):
    """Conversations as one batch, shorter ones filled up on the right (attention is causal: no mask is needed).

    Attributes:
        ids: token ids.
        spoken: which tokens are content of the assistant's turns.
    """

    ids: Int[Tensor, "n s"]
    spoken: Bool[Tensor, "n s"]


def turn_batch(conversations: Sequence[Sequence[Message]], tokenizer: PreTrainedTokenizerBase) -> TurnBatch:
    """All conversations in one tensor, on the CPU, with a mask of what the assistant says in them.

    Raises:
        ValueError: if there are none, or the assistant says nothing in one of them.
    """
    encoded = [turn_spans(c, tokenizer) for c in conversations]
    if not encoded:
        raise ValueError("There are no conversations.")
    ids = padded([e.ids for e in encoded], torch.device("cpu"))
    spoken = torch.zeros(ids.shape, dtype=torch.bool)
    for row, e in zip(spoken, encoded, strict=True):
        for start, end in e.spans:
            row[start:end] = True
    if silent := (~spoken.any(dim=1)).nonzero().flatten().tolist():
        raise ValueError(f"conversations {silent} hold no words of the assistant: drop them.")
    return TurnBatch(ids, spoken)


@torch.inference_mode()
def removed_norms(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    caps: Sequence[Cap],
    conversations: Sequence[Sequence[Message]],
    *,
    first_token: bool = False,
) -> Float[Tensor, "n k"]:
    """Mean norm that each cap removes over each conversation's assistant tokens, all caps in force; on the CPU.

    Args:
        first_token: of the conversation's first token instead.
    """
    lengths = [len(turn_spans(c, tokenizer).ids) for c in conversations]
    removed = torch.zeros(len(conversations), len(caps))
    for rows in by_length(lengths, tokens_at_once(model.device)):
        batch = turn_batch([conversations[r] for r in rows], tokenizer)
        counted = batch.spoken
        if first_token:
            counted = torch.zeros_like(counted)
            counted[:, 0] = True

        def keep(
            place: int, projections: Tensor, counted: Tensor = counted, rows: Sequence[int] = tuple(rows)
        ) -> float:
            excess = (projections - caps[place].threshold).clamp_min(0).cpu() * counted
            removed[list(rows), place] = excess.sum(dim=1) / counted.sum(dim=1)
            return caps[place].threshold

        _run(model, batch, [c.block for c in caps], [c.vector for c in caps], keep)
    return removed


def _run(
    model: PreTrainedModel, batch: TurnBatch, blocks: Sequence[int], vectors: Sequence[Tensor], threshold: Threshold
) -> First:
    """One pass in which each cap's threshold is chosen when it sees the projections, and then in force."""
    first: First = {}

    def act(place: int, hidden: Hidden) -> Hidden:
        first.setdefault(blocks[place], hidden[0, 0].float().cpu())
        v = F.normalize(vectors[place].float(), dim=0).to(hidden.device)
        projections = hidden.float() @ v  # (b, s)
        excess = (projections - threshold(place, projections)).clamp_min(0)
        return hidden - (excess[..., None] * v).to(hidden.dtype)

    with ExitStack() as stack:
        for place, block in enumerate(blocks):
            stack.enter_context(hooked(decoder_blocks(model)[block], partial(act, place)))
        stack.enter_context(stop_after(decoder_blocks(model)[max(blocks)]))
        model(input_ids=batch.ids.to(model.device), use_cache=False, logits_to_keep=1)
    return first


def turned(
    vectors: Float[Tensor, "k d"], generator: torch.Generator, avoid: Float[Tensor, "m d"] | None = None
) -> Float[Tensor, "k d"]:
    """The vectors turned together into a random subspace: norms and angles among them stay, and each of the new ones
    is orthogonal to every old one, and to those to `avoid`.

    Raises:
        ValueError: if there is no room: `2 k + m > d`.
    """
    vectors = vectors.float().cpu()
    beside = vectors if avoid is None else torch.cat([vectors, avoid.float().cpu()])
    k, d = vectors.shape
    if k + len(beside) > d:
        raise ValueError(f"{len(beside)} vectors of {d} dimensions leave no {k} dimensions beside them.")
    own = torch.linalg.qr(beside.T).Q  # (d, k + m)
    noise = torch.randn(d, k, generator=generator)
    other = torch.linalg.qr(noise - own @ (own.T @ noise)).Q
    return (other @ torch.linalg.qr(vectors.T).R).T


def ceiling(projections: Float[Tensor, "n"], removed: float) -> float:
    """The threshold above which the projections reach by `removed` in the mean; their largest for 0.

    >>> ceiling(torch.tensor([0.0, 1.0, 4.0]), 1.0)  # only the last reaches above 1, by 3
    1.0
    """
    values = projections.double().cpu().sort(descending=True).values
    above = torch.arange(1, len(values) + 1)
    thresholds = (values.cumsum(0) - len(values) * removed) / above  # if just the first k values are above it
    return float(thresholds.max()) if removed > 0 else float(values[0])


@torch.inference_mode()
def matched_random_caps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    caps: Sequence[Cap],
    conversations: Sequence[Sequence[Message]],
    generator: torch.Generator,
) -> list[Cap]:
    """Caps along random directions at the same blocks, each removing what the given cap in its place removes.

    What is removed: see the module. Directions: `turned`, from `generator` (on the CPU) alone, beside the first token's
    residual stream, which is longer than all others together: the axis caps leave it alone, and so must their control.
    Where a cap removes nothing, so does its control: its threshold is the largest projection found.

    Raises:
        ValueError: if there are no conversations, or too many caps for the model's width.
    """
    batch, blocks = turn_batch(conversations, tokenizer), [c.block for c in caps]
    vectors = F.normalize(torch.stack([c.vector.float().cpu() for c in caps]), dim=1)
    targets, thresholds = [0.0] * len(caps), [0.0] * len(caps)

    def given(place: int, projections: Tensor) -> float:
        spoken = projections.cpu()[batch.spoken]
        targets[place] = (spoken - caps[place].threshold).clamp_min(0).mean().item()
        return caps[place].threshold

    def matching(place: int, projections: Tensor) -> float:
        thresholds[place] = ceiling(projections.cpu()[batch.spoken], targets[place])
        return thresholds[place]

    first = _run(model, batch, blocks, list(vectors), given)
    directions = turned(vectors, generator, torch.stack(list(first.values())))
    _run(model, batch, blocks, list(directions), matching)
    return [Cap(block, v, t) for block, v, t in zip(blocks, directions, thresholds, strict=True)]
