"""What LoRA finetuning learns from: dialogues, their tokens and which of them count, and the steps they make."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from personalab.lm import chat
from personalab.lm.batching import packed
from personalab.records.schema import Turn, read_jsonl


class TrainingError(ValueError):
    """Data or settings that cannot be trained on; the message says which and what to change."""


@dataclass(frozen=True)
class Dialogue:
    """A conversation to learn from.

    `complete` is false where the last answer is cut: its end is then not learned. `rejected` is an answer to the same
    turns that should become less likely than the last one. Neighbours of one `group` share a step, so that what they
    agree in cancels out of the preference's gradient: one question under opposite prompts, say.
    """

    messages: Sequence[chat.Message]
    complete: bool = True
    rejected: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class LoraSettings:
    """What a run does. The defaults suit a model of 135M parameters and a few hundred short dialogues."""

    rank: int = 16
    alpha: int = 32
    learning_rate: float = 5e-4  # peak; 5 % of the steps warm up, then a cosine to zero
    epochs: int = 1
    batch_tokens: int = 1024  # padded tokens of one step
    max_tokens: int = 512  # of one dialogue
    clip: float = 1.0  # largest norm of the gradient
    preference: float = 0.0  # weight of the preference loss; 0 leaves it out
    preference_scale: float = 2.0  # per nat a token by which an answer is likelier than the rejected one
    seed: int = 0
    save_every: int = 50  # steps between checkpoints

    def __post_init__(self) -> None:
        for name in ("rank", "alpha", "learning_rate", "epochs", "batch_tokens", "max_tokens", "clip", "save_every"):
            if not getattr(self, name) > 0:
                raise TrainingError(f"{name} must be above 0, not {getattr(self, name)}.")
        if not self.preference >= 0:
            raise TrainingError(f"preference must be 0 or more, not {self.preference}.")


DEFAULTS = LoraSettings()


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
    messages: list[Turn]
    complete: bool = True

    def __post_init__(self) -> None:
        if not any(m["role"] == "assistant" and m["content"].strip() for m in self.messages):
            raise ValueError("no assistant turn to learn from")


def read_dialogues(path: Path | str) -> list[Dialogue]:
    """A JSON Lines file of `{"messages": [{"role", "content"}, ...]}`, the upstream datasets' format.

    Raises:
        DataError: naming the file and the line, for what is not such an object or has no assistant turn.
    """
    return [Dialogue(line.messages, line.complete) for line in read_jsonl(path, _Line).values()]


def example_of(dialogue: Dialogue, tokenizer: PreTrainedTokenizerBase) -> Example:
    """Tokens of a dialogue; learned are those of assistant turns and the end-of-turn marker after each."""
    if dialogue.rejected is not None:
        return _encode_pair(dialogue, tokenizer)
    ids, spans = chat.turn_spans(dialogue.messages, tokenizer)
    learned = torch.zeros(len(ids), dtype=torch.bool)
    for i, (start, end) in enumerate(spans):
        cut = i == len(spans) - 1 and not dialogue.complete
        learned[start : end if cut or start == end else chat.past_turn_end(ids, end, tokenizer)] = True
    return Example(torch.tensor(ids), learned, group=dialogue.group)


def _encode_pair(dialogue: Dialogue, tokenizer: PreTrainedTokenizerBase) -> Example:
    other = [*dialogue.messages[:-1], {"role": "assistant", "content": dialogue.rejected or ""}]
    chosen, rejected = (example_of(Dialogue(m, dialogue.complete), tokenizer) for m in (dialogue.messages, other))
    fork = chat.turn_spans(dialogue.messages, tokenizer)[1][-1][0]
    if not torch.equal(chosen.ids[:fork], rejected.ids[:fork]):
        raise TrainingError(f"The chat template writes other tokens before the answer {dialogue.rejected!r:.40}.")
    parts = zip((chosen.ids, chosen.learned), (rejected.ids[fork:], rejected.learned[fork:]), strict=True)
    ids, learned = (torch.cat(part) for part in parts)
    return Example(ids, learned, fork, len(chosen.ids), dialogue.group)


def training_steps(examples: Sequence[Example], settings: LoraSettings) -> list[list[int]]:
    """Indices of each step of all epochs: alike in length, within `batch_tokens`, in an order drawn from the seed.

    The examples of one group stay together.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    together = [list(g) for _, g in itertools.groupby(range(len(examples)), lambda i: examples[i].group or str(i))]
    widths = [max(len(examples[i].ids) for i in group) for group in together]

    def fits(batch: list[int]) -> bool:
        return max(widths[k] for k in batch) * sum(len(together[k]) for k in batch) <= settings.batch_tokens

    steps: list[list[int]] = []
    for _ in range(settings.epochs):
        jitter = (torch.rand(len(together), generator=generator) * 8).tolist()  # other neighbours in every epoch
        order = sorted(range(len(together)), key=lambda k: widths[k] + jitter[k])
        epoch = [[i for k in batch for i in together[k]] for batch in packed(order, fits)]
        steps += [epoch[i] for i in torch.randperm(len(epoch), generator=generator)]
    return steps
