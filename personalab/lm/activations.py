"""Pooled residual-stream activations: one forward pass, means taken inside hooks, no blocks run for nothing.

`block` k is the output of decoder block k, which is `hidden_states[k + 1]` (except after the last block, where
`hidden_states[-1]` carries the final norm and ours does not).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.lm import chat, prefix_cache, processes
from personalab.lm.batching import by_length, of_one_length, padded, tokens_at_once
from personalab.lm.hooks import hooked, plainly, stop_after
from personalab.lm.models import context_length, d_model, decoder_blocks, input_device
from personalab.lm.noting import Noted
from personalab.lm.packed_weights import FEWEST_TOKENS, packed_weights
from personalab.lm.positions import may_be_padded, may_share
from personalab.records.phases import phase


def mean_response_activations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[chat.Message]],
    blocks: Sequence[int] | None = None,
    *,
    batch_tokens: int | None = None,
    progress: bool = False,
    noted: Noted | None = None,
) -> Float[Tensor, "n L d"]:
    """Mean residual stream over the last message's content tokens, float32 on the CPU.

    Args:
        conversations: each ends with the assistant's answer.
        blocks: block indices to read, in the order wanted (default: all). Blocks after the last one never run.
        batch_tokens: at most so many in a batch, padding included (default: `batching.tokens_at_once`).
        noted: what was noted while answers were written (`noting.noting`): these are not read again.

    Raises:
        ValueError: for a block that does not exist, a conversation whose last message has no tokens or which exceeds
            the model's context, or activations that are not finite.
    """
    encoded = [chat.encode(c, tokenizer) for c in conversations]
    for i, item in enumerate(encoded):
        if item.spans[0][0] == item.spans[0][1]:
            raise ValueError(f"conversations[{i}] ends with an empty message: drop it before taking its mean.")
    known = noted.held(model, encoded, blocks) if noted else {}
    to_read = [i for i in range(len(encoded)) if i not in known]
    read = pool(model, [encoded[i] for i in to_read], blocks, batch_tokens=batch_tokens, progress=progress)
    known |= zip(to_read, read, strict=True)
    pooled = [known[i] for i in range(len(encoded))]
    return torch.cat(pooled) if pooled else torch.empty(0, len(blocks or decoder_blocks(model)), d_model(model))


def last_prompt_activations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[chat.Message]],
    blocks: Sequence[int] | None = None,
    *,
    batch_tokens: int | None = None,
) -> Float[Tensor, "n L d"]:
    """Residual stream at the last prompt token, where the answer's first token is predicted; float32 on the CPU.

    Args:
        conversations: each ends with the user's turn; the header of the assistant's is added.
        blocks: block indices to read, in the order wanted (default: all).

    Raises:
        ValueError: as `mean_response_activations`.
    """
    prompts = [chat.prompt_ids(c, tokenizer) for c in conversations]
    encoded = [chat.Encoded(ids, [(len(ids) - 1, len(ids))]) for ids in prompts]
    return torch.cat(pool(model, encoded, blocks, batch_tokens=batch_tokens))


def answer_token_activations(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, messages: Sequence[chat.Message], block: int
) -> tuple[list[int], Float[Tensor, "tokens d"]]:
    """Ids of the last message's content tokens, and the residual stream at each after one block."""
    ids, [(start, end)] = chat.encode(messages, tokenizer)
    encoded = chat.Encoded(ids, [(t, t + 1) for t in range(start, end)])
    return ids[start:end], pool(model, [encoded], [block])[0][:, 0]


@phase("activations")
@torch.inference_mode()
def pool(
    model: PreTrainedModel,
    encoded: Sequence[chat.Encoded],
    blocks: Sequence[int] | None = None,
    *,
    batch_tokens: int | None = None,
    progress: bool = False,
) -> list[Float[Tensor, "spans L d"]]:
    """Mean residual stream over every span of every conversation, in one pass for all blocks.

    Conversations that begin alike (one persona, many questions) share the work: their common prefix runs once.
    Memory holds one block's output at a time, whatever the number of blocks read. The model runs uncompiled and in
    eval mode (`hooks.plainly`). Launched as several processes, each reads its share (`lm.processes`).

    Raises:
        ValueError: for a block that does not exist, more tokens than the model's context holds, or means that are not
            finite, naming conversation and block.
        RuntimeError: if the model runs without calling a block that is to be read.
    """
    layers = decoder_blocks(model)
    wanted = list(range(len(layers)) if blocks is None else blocks)
    if bad := [b for b in wanted if not 0 <= b < len(layers)]:
        raise ValueError(f"blocks {bad} do not exist: this model has blocks 0 to {len(layers) - 1}.")
    _check_context(model, encoded)
    found: dict[int, Tensor] = {}
    batch_tokens = batch_tokens or tokens_at_once(input_device(model))
    silent = not progress or processes.rank() > 0
    begins: list[int] = []
    prefix = prefix_cache.NOTHING
    worth = model.dtype == torch.float32 and sum(len(e.ids) for e in encoded) >= FEWEST_TOKENS
    fast = packed_weights(layers[: max(wanted) + 1], worth=worth)
    with tqdm(total=len(encoded), desc="reading activations", unit="text", disable=silent) as bar, plainly(model), fast:
        for rows, shared in processes.mine(_batches(model, encoded, batch_tokens)):
            items = [encoded[i] for i in rows]
            if begins != items[0].ids[:shared]:
                begins = items[0].ids[:shared]
                prefix = prefix_cache.run_prefix(model, layers[max(wanted)], begins)
            found |= zip(rows, _pool_batch(model, layers, items, wanted, prefix), strict=True)
            bar.update(min(len(rows) * processes.count(), bar.total - bar.n))
    found = processes.exchanged(found)
    pooled = [found[i] for i in range(len(encoded))]
    _check_finite(pooled, wanted)
    return pooled


def _batches(
    model: PreTrainedModel, encoded: Sequence[chat.Encoded], batch_tokens: int
) -> Iterator[tuple[list[int], int]]:
    """Indices of conversations that run together, and the length of the prefix that they share."""
    for group, shared in _sharing(encoded, may_share(model)):
        lengths = [len(encoded[i].ids) - shared for i in group]
        batches = by_length(lengths, batch_tokens)
        for rows in batches if may_be_padded(model) else of_one_length(batches, lengths):
            yield [group[r] for r in rows], shared


def _check_context(model: PreTrainedModel, encoded: Sequence[chat.Encoded]) -> None:
    limit = context_length(model)
    if limit and (bad := [i for i, e in enumerate(encoded) if len(e.ids) > limit]):
        raise ValueError(
            f"conversations[{bad[0]}] has {len(encoded[bad[0]].ids)} tokens, but the model's context holds {limit}: "
            "what it computes beyond has no meaning. Shorten the conversation."
        )


def _check_finite(pooled: Sequence[Tensor], wanted: Sequence[int]) -> None:
    for i, means in enumerate(pooled):
        if not means.isfinite().all():
            block = wanted[int((~means.isfinite()).any(dim=2).any(dim=0).nonzero()[0])]
            raise ValueError(
                f"conversations[{i}]: activations after block {block} hold NaN or infinity. The model's weights are "
                "damaged, or its dtype is too narrow (float16): load it in float32 or bfloat16."
            )


def _sharing(encoded: Sequence[chat.Encoded], allowed: bool) -> Iterator[tuple[list[int], int]]:
    """Indices of conversations that begin alike and the length of what they share; those that don't, all together."""
    alone: list[int] = [] if allowed else list(range(len(encoded)))
    for group in prefix_cache.groups([e.ids for e in encoded]) if allowed else ():
        items = [encoded[i] for i in group]
        if shared := prefix_cache.shared_length([e.ids for e in items], limit=_first_token_read(items)):
            yield group, shared
        else:
            alone += group
    if alone:
        yield alone, 0


def _first_token_read(items: Sequence[chat.Encoded]) -> int:
    """Where the earliest span starts: a shared prefix must end there, since its own outputs are not kept."""
    return min((start for e in items for start, end in e.spans if start < end), default=0)


def _pool_batch(
    model: PreTrainedModel,
    layers: nn.ModuleList,
    batch: list[chat.Encoded],
    blocks: list[int],
    prefix: prefix_cache.Prefix,
) -> list[Float[Tensor, "spans L d"]]:
    ids = padded([e.ids[prefix.length :] for e in batch], input_device(model))  # (b, s)
    weights = _span_weights(batch, prefix.length, ids.shape[1])  # (b, spans, s)
    out = torch.empty(len(batch), weights.shape[1], len(blocks), d_model(model))  # (rows, spans, L, d)
    fired = set()

    def keep(block: int, hidden: Float[Tensor, "rows width d"]) -> None:
        fired.add(block)
        text = hidden[:, -ids.shape[1] :]  # prompt tuning puts its learned tokens in front
        means = weights.to(hidden.device) @ text.float()
        for slot in (j for j, b in enumerate(blocks) if b == block):
            out[:, :, slot] = means.cpu()

    with ExitStack() as stack:
        for block in set(blocks):
            stack.enter_context(hooked(layers[block], partial(keep, block)))
        stack.enter_context(stop_after(layers[max(blocks)]))
        model(input_ids=ids, past_key_values=prefix.for_rows(len(batch)), use_cache=prefix.length > 0)
    if missing := sorted(set(blocks) - fired):
        raise RuntimeError(f"The model ran without calling blocks {missing}, as code captured in a graph does.")
    return [rows[: len(e.spans)] for rows, e in zip(out, batch, strict=True)]


def _span_weights(batch: list[chat.Encoded], offset: int, width: int) -> Float[Tensor, "rows spans width"]:
    """Averaging weights: 1/length inside a span, 0 outside; column 0 is token `offset`."""
    weights = torch.zeros(len(batch), max(len(e.spans) for e in batch), width)
    for r, item in enumerate(batch):
        for s, (start, end) in enumerate(item.spans):
            if start < end:
                weights[r, s, start - offset : end - offset] = 1 / (end - start)
    return weights
