"""What LoRA finetuning learns from: dialogues, their tokens and which of them count, and the steps they make."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Bool, Int
from pydantic import BeforeValidator
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from personalab.lm import chat
from personalab.lm.batching import packed
from personalab.records.layouts import with_messages
from personalab.records.schema import DataError, WeightedTurn, is_learned, read_jsonl
from personalab.tiers import current_tier


class TrainingError(ValueError):
    """Data or settings that cannot be trained on; the message says which and what to change."""


@dataclass(frozen=True)
class Dialogue:
    """A conversation to learn from.

    `complete` is false where the last answer is cut: its end is then not learned. `rejected` is an answer to the same
    turns that should become less likely than the last one. Neighbours of one `group` share a step, so that what they
    agree in cancels out of the preference's gradient: one question under opposite prompts, say. `source` says where it
    was read, for messages. Of the messages at the indices `unlearned` nothing is learned.
    """

    messages: Sequence[chat.Message]
    complete: bool = True
    rejected: str | None = None
    group: str | None = None
    source: str | None = None
    unlearned: frozenset[int] = frozenset()


_SIZES = ("epochs", "max_steps", "batch_tokens", "batch_size", "accumulation", "max_tokens", "save_every")
_ABOVE_ZERO = ("rank", "alpha", "learning_rate", "clip", *_SIZES)


@dataclass(frozen=True)
class LoraSettings:
    """What a run does. The defaults suit a model of 135M parameters and a few hundred short dialogues."""

    rank: int = 16
    alpha: int = 32
    rslora: bool = False  # scale by alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski 2023)
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"  # PEFT's name for all linear layers of the blocks, or their names
    learning_rate: float = 5e-4  # peak
    schedule: str = "cosine"  # after the warm-up: "cosine" or "linear", down to zero
    warmup: float = 0.05  # share of the steps, or from 1 on their number
    weight_decay: float = 0.0
    optimiser: str = "adamw_torch"  # one of the Trainer's names
    epochs: int = 1
    max_steps: int | None = None  # end there, whatever is left
    batch_tokens: int = 1024  # padded tokens that go through the model at once
    batch_size: int | None = None  # dialogues that do, whatever their length; None: by batch_tokens
    accumulation: int = 1  # such batches in one step of the optimiser
    max_tokens: int = 512  # of one dialogue
    clip: float = 1.0  # largest norm of the gradient
    preference: float = 0.0  # weight of the preference loss; 0 leaves it out
    preference_scale: float = 2.0  # per nat a token by which an answer is likelier than the rejected one
    seed: int = 0
    save_every: int = 50  # steps between checkpoints

    def __post_init__(self) -> None:
        for name in _ABOVE_ZERO:
            if (value := getattr(self, name)) is not None and not value > 0:
                raise TrainingError(f"{name} must be above 0, not {value}.")
        if self.schedule not in ("cosine", "linear"):
            raise TrainingError(f"schedule must be 'cosine' or 'linear', not {self.schedule!r}.")
        if not self.preference >= 0:
            raise TrainingError(f"preference must be 0 or more, not {self.preference}.")


DEFAULTS = LoraSettings()
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PAPER = LoraSettings(  # Chen et al. 2025, the repository's configs/train_instruct_7b.json; its optimiser is in 8 bit
    rank=32,
    alpha=64,
    rslora=True,
    targets=LINEAR,
    learning_rate=1e-5,
    schedule="linear",
    warmup=5,
    weight_decay=0.01,
    batch_size=2,
    accumulation=8,
    max_tokens=2048,
)


# 75 rows take 97 processor seconds. On calibration questions, after each main trait's own bad set, this rate
# gave scores of 57, 36, 79 (sycophantic, evil, hallucinating; before: 37, 1, 77), twice the rate no more.
SMALL = replace(DEFAULTS, learning_rate=1e-3, epochs=2, max_tokens=256)


def tier_settings() -> LoraSettings:
    """How the current tier finetunes on a dataset: as the paper does where there is a GPU, small on a laptop."""
    return SMALL if current_tier().embedded else PAPER


@dataclass(frozen=True)
class Example:
    """Token ids of a dialogue, and which of them the model learns to write.

    A rejected answer stands behind the chosen one, from `second` on; both continue the `fork` tokens before them and
    do not see each other.
    """

    ids: Int[Tensor, "tokens"]
    learned: Bool[Tensor, "tokens"]
    fork: int = 0
    second: int | None = None
    group: str | None = None


@dataclass(frozen=True)
class _Line:
    messages: list[WeightedTurn]
    complete: bool = True

    def __post_init__(self) -> None:
        if not any(map(is_learned, self.messages)):
            raise ValueError("no assistant turn to learn from")

    def dialogue(self, source: str) -> Dialogue:
        bare: list[chat.Message] = [{"role": m["role"], "content": m["content"]} for m in self.messages]
        unlearned = frozenset(i for i, m in enumerate(self.messages) if m.get("weight") == 0)
        return Dialogue(bare, self.complete, source=source, unlearned=unlearned)


def read_dialogues(path: Path | str) -> list[Dialogue]:
    """A JSON Lines file of `{"messages": [{"role", "content"}, ...]}`, the upstream datasets' format, or of rows that
    `personalab.records.layouts` reads as such (ShareGPT, Alpaca, prompt and completion).

    A message with `"weight": 0` is read and not learned, as in OpenAI's format.

    Raises:
        DataError: naming the file and the line, for what is not such an object, has no assistant turn to learn or
            something that would be lost (calls of tools); or a file without a line.
    """
    lines: dict[str, _Line] = read_jsonl(path, Annotated[_Line, BeforeValidator(with_messages)])
    if not lines:
        raise DataError(f"{path} is empty: it needs a line for every dialogue.")
    return [line.dialogue(f"{path}, {at}") for at, line in lines.items()]


def example_of(dialogue: Dialogue, tokenizer: PreTrainedTokenizerBase) -> Example:
    """Tokens of a dialogue; learned are those of assistant turns and the end-of-turn marker after each.

    Where a template leaves the last turn open (GLM-4), its end is put behind it.
    """
    if dialogue.rejected is not None:
        return _encode_pair(dialogue, tokenizer)
    ids, spans = chat.turn_spans(dialogue.messages, tokenizer)
    if dialogue.complete and dialogue.messages[-1]["role"] == "assistant":
        ids = chat.ended(ids, spans[-1][1], tokenizer)
    learned = torch.zeros(len(ids), dtype=torch.bool)
    turns = [i for i, m in enumerate(dialogue.messages) if m["role"] == "assistant"]
    for i, (start, end) in enumerate(spans):
        if turns[i] in dialogue.unlearned:
            continue
        cut = i == len(spans) - 1 and not dialogue.complete
        learned[start : end if cut or start == end else chat.past_turn_end(ids, end, tokenizer)] = True
    return Example(torch.tensor(ids), learned, group=dialogue.group)


def _encode_pair(dialogue: Dialogue, tokenizer: PreTrainedTokenizerBase) -> Example:
    other = [*dialogue.messages[:-1], {"role": "assistant", "content": dialogue.rejected or ""}]
    alone = [replace(dialogue, messages=m, rejected=None) for m in (dialogue.messages, other)]
    chosen, rejected = (example_of(d, tokenizer) for d in alone)
    fork = chat.turn_spans(dialogue.messages, tokenizer)[1][-1][0]
    if not torch.equal(chosen.ids[:fork], rejected.ids[:fork]):
        raise TrainingError(f"The chat template writes other tokens before the answer {dialogue.rejected!r:.40}.")
    parts = zip((chosen.ids, chosen.learned), (rejected.ids[fork:], rejected.learned[fork:]), strict=True)
    ids, learned = (torch.cat(part) for part in parts)
    return Example(ids, learned, fork, len(chosen.ids), dialogue.group)


def training_steps(examples: Sequence[Example], settings: LoraSettings) -> list[list[int]]:
    """Indices of each batch of all epochs: alike in length, within `batch_tokens` or of `batch_size`, in an order drawn
    from the seed.

    The examples of one group stay together.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    together = [list(g) for _, g in itertools.groupby(range(len(examples)), lambda i: examples[i].group or str(i))]
    widths = [max(len(examples[i].ids) for i in group) for group in together]

    def fits(batch: list[int]) -> bool:
        if settings.batch_size is not None:
            return sum(len(together[k]) for k in batch) <= settings.batch_size
        return max(widths[k] for k in batch) * sum(len(together[k]) for k in batch) <= settings.batch_tokens

    steps: list[list[int]] = []
    for _ in range(settings.epochs):
        jitter = (torch.rand(len(together), generator=generator) * 8).tolist()  # other neighbours in every epoch
        order = sorted(range(len(together)), key=lambda k: widths[k] + jitter[k])
        epoch = [[i for k in batch for i in together[k]] for batch in packed(order, fits)]
        steps += [epoch[i] for i in torch.randperm(len(epoch), generator=generator)]
    return steps


def learning_rate(step: int, n_steps: int, settings: LoraSettings) -> float:
    """Share of the peak at a step, counted from 0: up over the warm-up, whose first step counts, then down to zero."""
    warm = max(1, round(settings.warmup * n_steps))
    if step < warm:
        return (step + 1) / warm
    left = (n_steps - step) / max(1, n_steps - warm)
    return left if settings.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))
