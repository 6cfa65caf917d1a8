"""What an autoencoder keeps of a model's states, and what its features stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.lm import chat
from personalab.lm.activations import pool
from personalab.lm.hooks import Hidden
from personalab.lm.interventions import Intervention, applied
from personalab.sae.files import Autoencoder, sae_block

Text = str | Sequence[chat.Message]
MAX_TOKENS = 256  # longer texts are cut; our choice
_CHUNK = 2048  # states encoded at once: 131,072 features of GemmaScope take 1 GB
_BEFORE, _AFTER = 24, 6  # tokens shown around a passage's peak


class Reading(NamedTuple):
    """A text as the model reads it: token ids, and the first position that counts.

    Before it stand the first token, where models park a huge activation that says nothing about the text, and the
    header that a chat template puts in front of every conversation.
    """

    ids: list[int]
    start: int


def read_text(text: Text, tokenizer: PreTrainedTokenizerBase) -> Reading:
    """Plain text from its second token on; a conversation from its first message's content on."""
    if isinstance(text, str):
        return Reading(tokenizer(text)["input_ids"][:MAX_TOKENS], 1)
    encoded = chat.encode(text, tokenizer, turns=[0])
    return Reading(encoded.ids[:MAX_TOKENS], max(1, encoded.spans[0][0]))


def token_activations(
    model: PreTrainedModel,
    readings: Sequence[Reading],
    block: int,
    *,
    batch_tokens: int | None = None,
    progress: bool = False,
) -> list[Float[Tensor, "tokens d"]]:
    """The residual stream after `block` at every position that counts, text by text, float32 on the CPU."""
    spans = [chat.Encoded(r.ids, [(t, t + 1) for t in range(r.start, len(r.ids))]) for r in readings]
    return [states[:, 0] for states in pool(model, spans, [block], batch_tokens=batch_tokens, progress=progress)]


def _encode(sae: Autoencoder, states: Float[Tensor, "n d"]) -> Float[Tensor, "n n_features"]:
    """States lie on the CPU; an autoencoder of GemmaScope lies on the GPU where there is one."""
    return sae.encode(states.to(sae.W_enc.device))


@torch.inference_mode()
def squared_errors(
    sae: Autoencoder, activations: Float[Tensor, "n d"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Squared distance of each state from its reconstruction, and from the mean state."""
    centre = activations.mean(dim=0)
    lost = [(sae.decode(_encode(sae, x)).to(x) - x).square().sum(dim=-1) for x in activations.split(_CHUNK)]
    return torch.cat(lost), (activations - centre).square().sum(dim=-1)


def explained_variance(sae: Autoencoder, activations: Float[Tensor, "n d"]) -> float:
    """Share of the variance of the states that the reconstruction keeps: 1 is all, 0 what their mean does."""
    lost, total = squared_errors(sae, activations)
    return 1 - float(lost.sum() / total.sum())


@torch.inference_mode()
def l0(sae: Autoencoder, activations: Float[Tensor, "n d"]) -> Int[Tensor, "n"]:
    """Number of active features of each state."""
    return torch.cat([(_encode(sae, x) > 0).sum(dim=-1).cpu() for x in activations.split(_CHUNK)])


@torch.inference_mode()
def dead_features(sae: Autoencoder, activations: Float[Tensor, "n d"]) -> Int[Tensor, "n_dead"]:
    """Features that none of these states activates. Fewer states, more of them: say how many you looked at."""
    alive = torch.stack([(_encode(sae, x) > 0).any(dim=0).cpu() for x in activations.split(_CHUNK)]).any(dim=0)
    return (~alive).nonzero()[:, 0]


@dataclass(frozen=True, eq=False)
class Splice:
    """Another state in place of the block's output, from position `start` on: `h <- change(h)`."""

    block: int
    change: Callable[[Float[Tensor, "n d"]], Float[Tensor, "n d"]]
    start: int = 1

    def __call__(self, hidden: Hidden) -> Hidden:
        changed = self.change(hidden[:, self.start :].float()).to(hidden)
        return torch.cat([hidden[:, : self.start], changed], dim=1)

    def for_rows(self, rows: Sequence[int]) -> Splice:
        """Itself: all rows are treated alike."""
        return self


@torch.inference_mode()
def spliced_losses(
    model: PreTrainedModel,
    readings: Sequence[Reading],
    sae: Autoencoder,
    mean: Float[Tensor, "d"],
    block: int | None = None,
) -> dict[str, Float[np.ndarray, "texts"]]:
    """Mean next-token loss of every text, in nats a token, with the states after `block` replaced.

    Args:
        mean: the mean state, from other texts.
        block: default: the one the autoencoder was trained on.

    Returns:
        `clean` (nothing replaced), `sae` (the reconstruction), `mean` and `zero` (the same state everywhere). Only
        predictions made from replaced positions count.
    """
    block = sae_block(sae) if block is None else block
    changes: dict[str, Callable[[Tensor], Tensor] | None] = {
        "clean": None,
        "sae": lambda h: sae.decode(sae.encode(h)),
        "mean": lambda h: mean.to(h).expand_as(h),
        "zero": torch.zeros_like,
    }
    losses: dict[str, list[float]] = {name: [] for name in changes}
    for reading in (r for r in readings if len(r.ids) > r.start + 1):
        for name, change in changes.items():
            splice: list[Intervention] = [Splice(block, change, reading.start)] if change else []
            with applied(model, splice):
                losses[name].append(_loss(model, reading))
    return {name: np.array(values) for name, values in losses.items()}


def _loss(model: PreTrainedModel, reading: Reading) -> float:
    ids = torch.tensor([reading.ids], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, reading.start : -1].float()  # (tokens, v)
    return F.cross_entropy(logits, ids[0, reading.start + 1 :]).item()


@dataclass(frozen=True)
class Passage:
    """Where a feature is most active in one text.

    Attributes:
        text: index of the text.
        tokens, activations: around the peak, aligned.
        peak: index in `tokens` of the most active one.
    """

    feature: int
    text: int
    tokens: list[str]
    activations: list[float]
    peak: int

    def __str__(self) -> str:
        """The passage on one line, its most active token in brackets, in front its activation."""
        marked = [f"[{token}]" if i == self.peak else token for i, token in enumerate(self.tokens)]
        return f"{self.activations[self.peak]:6.1f}  {' '.join(''.join(marked).split())}"


def max_activating(
    sae: Autoencoder,
    features: Sequence[int],
    texts: Sequence[Text],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    n: int = 5,
    *,
    block: int | None = None,
    progress: bool = False,
) -> dict[int, list[Passage]]:
    """The `n` passages that activate each feature most, from `n` different texts, the strongest first.

    A feature that fewer than `n` texts activate has fewer passages.
    """
    readings = [read_text(text, tokenizer) for text in texts]
    block = sae_block(sae) if block is None else block
    rows = list(_feature_activations(sae, features, token_activations(model, readings, block, progress=progress)))
    passages: dict[int, list[Passage]] = {}
    for column, feature in enumerate(features):
        peaks = torch.stack([row[:, column].max() if len(row) else torch.tensor(0.0) for row in rows])
        best = [i for i in peaks.argsort(descending=True, stable=True)[:n].tolist() if peaks[i] > 0]
        passages[feature] = [_passage(feature, i, readings[i], rows[i][:, column], tokenizer) for i in best]
    return passages


@torch.inference_mode()
def _feature_activations(
    sae: Autoencoder, features: Sequence[int], states: Sequence[Float[Tensor, "_ d"]]
) -> Iterator[Float[Tensor, "_ features"]]:
    for text in states:
        yield _encode(sae, text)[:, list(features)].float().cpu()


def _passage(
    feature: int,
    text: int,
    reading: Reading,
    activations: Float[Tensor, "tokens"],
    tokenizer: PreTrainedTokenizerBase,
) -> Passage:
    peak = int(activations.argmax())
    first, last = max(0, peak - _BEFORE), peak + _AFTER + 1
    ids = reading.ids[reading.start :][first:last]
    return Passage(feature, text, [tokenizer.decode([i]) for i in ids], activations[first:last].tolist(), peak - first)
