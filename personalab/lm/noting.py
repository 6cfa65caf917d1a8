"""States noted while answers are written, so that nothing runs twice: an answer's tokens pass all blocks anyway."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from personalab.lm import chat, processes
from personalab.lm.decoding import Completion
from personalab.lm.hooks import hooked
from personalab.lm.models import are_twins, decoder_blocks


class Noted:
    """Mean residual stream over the tokens of each answer that was written while `noting` was open; see there."""

    def __init__(self, model: PreTrainedModel, blocks: Sequence[int] | None = None) -> None:
        layers = decoder_blocks(model)
        self.model, self.blocks = model, list(range(len(layers)) if blocks is None else blocks)
        if bad := [b for b in self.blocks if not 0 <= b < len(layers)]:
            raise ValueError(f"blocks {bad} do not exist: this model has blocks 0 to {len(layers) - 1}.")
        self._means: dict[tuple[int, ...], tuple[int, Float[Tensor, "L d"]]] = {}

    @property
    def n(self) -> int:
        """How many different answers are known."""
        return len(self._means)

    def held(
        self, model: PreTrainedModel, encoded: Sequence[chat.Encoded], blocks: Sequence[int] | None
    ) -> dict[int, Float[Tensor, "1 L d"]]:
        """What is known of conversations, by their place: those whose last message is, token by token, what this model
        wrote after them. A text may encode in other tokens than it was written in; then nothing is known."""
        wanted = range(len(decoder_blocks(model))) if blocks is None else blocks
        if not are_twins(model, self.model) or not set(wanted) <= set(self.blocks):
            return {}
        slots, found = [self.blocks.index(b) for b in wanted], {}
        for i, item in enumerate(encoded):
            [(start, end)] = item.spans
            written_from, means = self._means.get(tuple(item.ids[:end]), (None, None))
            if means is not None and written_from == start:
                found[i] = means[slots][None]
        return found

    def keep(
        self, prompts: Sequence[list[int]], rows: Sequence[list[int]], completions: Sequence[Completion], seen: Pass
    ) -> None:
        """The means of a batch, but for answers whose end was found in their text: their tokens are not their words."""
        means = [(s / seen.n[:, None].to(s.device)).cpu() for s in seen.sums]  # L of (b, d)
        for r, (prompt, row, completion) in enumerate(zip(prompts, rows, completions, strict=True)):
            n, mine = completion.n_tokens, [of_block[r] for of_block in means]
            if n and n == int(seen.n[r]) and all(m.isfinite().all() for m in mine):
                self._means[*prompt, *row[:n]] = len(prompt), torch.stack(mine)


class Pass:
    """Sums of the states of one batch while it is decoded.

    Attributes:
        sums: of the states after each block, over the tokens of every row's answer, float32.
        n: how many tokens.
    """

    def __init__(self, n_blocks: int, limits: Int[Tensor, "b"], ends: Sequence[int]) -> None:
        self.sums: list[Tensor] = [torch.empty(0)] * n_blocks
        self.n = torch.zeros_like(limits)
        self._limits, self._ends = limits, torch.tensor(ends, dtype=torch.long, device=limits.device)
        self._writing: Bool[Tensor, "b"] = torch.ones_like(limits, dtype=torch.bool)
        self._started = False

    def tokens(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        """What comes in: the prompts' ends first, then one token a row, which is an answer's until the row's end."""
        if self._started:
            ids = args[0][:, 0].to(self.n.device)
            self._writing &= ~torch.isin(ids, self._ends) & (self.n < self._limits)
            self.n += self._writing
        self._started = True

    def states(self, slot: int, hidden: Float[Tensor, "b s d"]) -> None:
        """What comes out of a block."""
        if not len(self.sums[slot]):
            self.sums[slot] = torch.zeros(len(hidden), hidden.shape[-1], device=hidden.device)
        if self.n.any():  # not yet in the pass over the prompts' ends
            state = hidden[:, -1].float()
            self.sums[slot] += torch.where(self._writing[:, None].to(state.device), state, 0)


_open: list[Noted] = []


@contextmanager
def noting(model: PreTrainedModel, blocks: Sequence[int] | None = None) -> Iterator[Noted]:
    """While open, the engine notes the mean state of each answer that `model`, or a `twin` of it, writes.

    `mean_response_activations(noted=…)` takes from there what is known, and reads the rest: answers from a cache or
    from another model, those written under an intervention, those whose text encodes in other tokens than it was
    written in. Numbers differ from what it would read by rounding. It costs one more decoding step a batch. Hooks of
    your own that are in force while the model writes are in what is noted. Launched as several processes, nothing is.

    Args:
        blocks: after which the states are noted (default: all).

    Raises:
        ValueError: for a block that does not exist.
    """
    _open.append(Noted(model, blocks))
    try:
        yield _open[-1]
    finally:
        _open.pop()


def open_for(model: PreTrainedModel) -> Noted | None:
    """Where what `model` writes is to be noted, if anywhere."""
    return _open[-1] if _open and processes.count() == 1 and are_twins(_open[-1].model, model) else None


@contextmanager
def seen(
    model: PreTrainedModel, blocks: Sequence[int], limits: Int[Tensor, "b"], ends: Sequence[int]
) -> Iterator[Pass]:
    """While open, the states after `blocks` of what `model` decodes are summed."""
    found, layers = Pass(len(blocks), limits, ends), decoder_blocks(model)
    entry = model.get_input_embeddings().register_forward_pre_hook(found.tokens)
    try:
        with ExitStack() as stack:
            for slot, block in enumerate(blocks):
                stack.enter_context(hooked(layers[block], partial(found.states, slot)))
            yield found
    finally:
        entry.remove()
