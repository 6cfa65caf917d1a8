"""Training the TopK autoencoder of the embedded trait model, on text that this project carries.

Plain torch and no trainer: sae-lens's wants a data set to stream and a model of its own class, and leaves a learner
nothing to read. The recipe is Gao et al. 2024 (arXiv 2406.04093): TopK, unit decoder rows, and an auxiliary loss in
which features that have died explain what the living leave over.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from personalab.judging.examples import trait_rows
from personalab.lm.chat import Message, as_messages
from personalab.lm.models import load_model
from personalab.records.items import load_prose
from personalab.sae.files import BLOCK, TopKSAE, keep_largest, save_sae, tier_folder
from personalab.sae.statistics import (
    Reading,
    Text,
    dead_features,
    explained_variance,
    l0,
    read_text,
    spliced_losses,
    token_activations,
)
from personalab.studies import organism
from personalab.tiers import GLOBAL_SEED, current_tier

HELD_OUT = 10  # one text in so many is never trained on
N_HELD_OUT = 20_000  # token activations behind the statistics
N_LOSS = 60  # texts behind the spliced losses


@dataclass(frozen=True)
class SaeSettings:
    """What a training run does. Sizes are our choice: what six minutes on two cores allow."""

    n_features: int = 2048
    k: int = 24
    n_tokens: int = 210_000
    epochs: int = 4
    batch: int = 1024
    learning_rate: float = 1e-3
    dead_after: int = 40_000  # tokens without firing
    aux_k: int = 256  # dead features that explain the rest, about d / 2 as in Gao et al.
    aux_weight: float = 1 / 32  # theirs
    seed: int = GLOBAL_SEED


SETTINGS = SaeSettings()


def load_texts(split: Literal["train", "held_out"]) -> list[Text]:
    """Documentation prose, the judge's fitting answers, and what the organism learned from; as chats where they are.

    Both answers to one question, and whatever else shares its words, are on the same side of the split. In an order
    that is shuffled once and for all.
    """
    chats = [as_messages(None, row.question, row.answer) for row in trait_rows("fit")]
    chats += [[dict(m) for m in d.messages] for d in organism.training_dialogues()]
    everything: list[Text] = [*load_prose(), *chats]
    texts = [text for text in everything if _held_out(text) == (split == "held_out")]
    random.Random(GLOBAL_SEED).shuffle(texts)
    return texts


def _held_out(text: Text) -> bool:
    key = text if isinstance(text, str) else _question(text)
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % HELD_OUT == 0


def _question(messages: Sequence[Message]) -> str:
    return next(m["content"] for m in messages if m["role"] == "user")


def train_sae(activations: Float[Tensor, "n d"], settings: SaeSettings = SETTINGS, progress: bool = False) -> TopKSAE:
    """An autoencoder for these states. The same states and seed give the same weights on the same machine.

    Raises:
        ValueError: if there are fewer states than one batch holds.
    """
    n, d = activations.shape
    if n < settings.batch:
        raise ValueError(f"{n} states are too few for a batch of {settings.batch}.")
    mean = activations.mean(dim=0)
    scale = float((activations - mean).norm(dim=1).mean()) / math.sqrt(d)  # trained on states of about unit variance
    generator = torch.Generator().manual_seed(settings.seed)
    sae = _initial(d, settings, generator)
    optimizer = torch.optim.Adam(sae.parameters(), lr=settings.learning_rate)
    steps = settings.epochs * (n // settings.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    silent = torch.zeros(settings.n_features)  # tokens since each feature fired
    bar = tqdm(total=steps, desc="training the autoencoder", unit="step", disable=not progress)
    for _ in range(settings.epochs):
        for rows in torch.randperm(n, generator=generator)[: n // settings.batch * settings.batch].split(
            settings.batch
        ):
            loss, fired = _loss(sae, (activations[rows] - mean) / scale, silent > settings.dead_after, settings)
            optimizer.zero_grad()
            loss.backward()
            _step(sae, optimizer)
            schedule.step()
            silent = torch.where(fired, 0.0, silent + len(rows))
            bar.update()
    bar.close()
    return _unscaled(sae, mean, scale)


def _initial(d: int, settings: SaeSettings, generator: torch.Generator) -> TopKSAE:
    """Random unit decoder rows, the encoder their transpose."""
    sae = TopKSAE(d, settings.n_features, settings.k)
    rows = F.normalize(torch.randn(settings.n_features, d, generator=generator), dim=1)
    sae.W_dec.data, sae.W_enc.data = rows, rows.T.clone().contiguous()
    return sae


def _rate(step: int, steps: int) -> float:
    """Linear rise over the first twentieth, linear fall over the last third."""
    return min(1.0, (step + 1) / max(1, steps // 20), (steps - step) / max(1, steps // 3))


def _loss(
    sae: TopKSAE, x: Float[Tensor, "n d"], dead: Bool[Tensor, "n_features"], settings: SaeSettings
) -> tuple[Tensor, Bool[Tensor, "n_features"]]:
    """Mean squared error plus the dead features' share, and which features fired."""
    before = sae.before_topk(x)  # (n, n_features)
    acts = keep_largest(before, sae.k)
    rest = x - sae.decode(acts)
    loss = rest.square().mean()
    if n_dead := int(dead.sum()):
        helpers = keep_largest(before[:, dead], min(settings.aux_k, n_dead))
        loss = loss + settings.aux_weight * (rest.detach() - helpers @ sae.W_dec[dead]).square().mean()
    return loss, (acts > 0).any(dim=0)


def _step(sae: TopKSAE, optimizer: torch.optim.Optimizer) -> None:
    """One step that leaves every decoder row a unit vector: no gradient along a row, and rows normalised after."""
    grad = sae.W_dec.grad
    if grad is None:
        raise RuntimeError("The decoder has no gradient: nothing was activated.")
    grad -= (grad * sae.W_dec.data).sum(dim=1, keepdim=True) * sae.W_dec.data
    torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
    optimizer.step()
    sae.W_dec.data = F.normalize(sae.W_dec.data, dim=1)


def _unscaled(sae: TopKSAE, mean: Float[Tensor, "d"], scale: float) -> TopKSAE:
    """For states as they are: activations in their units, the decoder's rows still of length one."""
    sae.b_enc.data *= scale
    sae.b_dec.data = sae.b_dec.data * scale + mean
    return sae.requires_grad_(False).eval()


def make(block: int = BLOCK, tokens: int | None = None, folder: Path | None = None) -> None:
    """Train an autoencoder on the states of the trait model after `block`, and write it to `folder` (`tier_folder`).

    Args:
        tokens: activations to train on (default: what fits in nine minutes on two cores).
    """
    train_from_texts(folder or tier_folder(), block, tokens)


def train_from_texts(
    folder: Path | str, block: int, n_tokens: int | None = None, settings: SaeSettings = SETTINGS
) -> TopKSAE:
    """Read the trait model's states, train, measure on held-out text, save; prints what it found."""
    start = time.monotonic()
    model, tokenizer = load_model("trait")
    sides = [
        take([read_text(text, tokenizer) for text in texts], n)
        for texts, n in ((load_texts("train"), n_tokens or settings.n_tokens), (load_texts("held_out"), N_HELD_OUT))
    ]
    states, held_out = (torch.cat(token_activations(model, side, block, progress=True)) for side in sides)
    print(f"{len(states):,} states after {time.monotonic() - start:.0f} s")
    sae = train_sae(states, settings, progress=True).half().float()  # as it will be read back
    losses = spliced_losses(model, sides[1][:N_LOSS], sae, states.mean(dim=0), block)
    means = {name: float(values.mean()) for name, values in losses.items()}
    found = {
        "n_training_tokens": len(states),
        "n_held_out_tokens": len(held_out),
        "explained_variance": round(explained_variance(sae, held_out), 4),
        "l0": round(float(l0(sae, held_out).float().mean()), 2),
        "dead_features_held_out": len(dead_features(sae, held_out)),
        "dead_features_training": len(dead_features(sae, states)),
        "next_token_loss": {name: round(mean, 4) for name, mean in means.items()},
        "loss_recovered": round((means["zero"] - means["sae"]) / (means["zero"] - means["clean"]), 4),
        "n_loss_texts": len(losses["clean"]),
    }
    sae.metadata = {
        "model_name": current_tier().trait_model,
        "hook_name": f"blocks.{block}.hook_resid_post",
        "hook_layer": block,
        "dataset": "documentation prose, judge fitting answers, organism dialogues (personalab.studies.sae_training)",
        "seed": settings.seed,
        "held_out": found,
    }
    save_sae(folder, sae)
    print("\n".join(f"{name}: {value}" for name, value in found.items()))
    print(f"{folder} after {time.monotonic() - start:.0f} s")
    return sae


def take(readings: Sequence[Reading], n_tokens: int) -> list[Reading]:
    """The first readings that together have about `n_tokens` positions that count."""
    taken, total = [], 0
    for reading in readings:
        if total >= n_tokens:
            break
        if len(reading.ids) > reading.start:
            taken.append(reading)
            total += len(reading.ids) - reading.start
    return taken
