"""The loss of LoRA finetuning: assistant tokens only, and the preference for an answer over a rejected one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from accelerate.utils import extract_model_from_parallel
from jaxtyping import Float, Int
from torch import Tensor

from personalab.lm.lora_data import DEFAULTS, Example, LoraSettings, TrainingError
from personalab.lm.positions import has_running_state, learns_positions, window


def assistant_loss(
    model: torch.nn.Module,
    examples: Sequence[Example],
    settings: LoraSettings = DEFAULTS,
    n_tokens: Tensor | int | None = None,
    parts: int = 1,
) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats over the learned tokens of a batch, each dialogue padded on the left.

    Where examples have a rejected answer, `settings.preference` times -log sigmoid(scale * margin) is added, with the
    margin in nats a token by which the chosen answer is likelier (SimPO, equation 5, without its target margin).
    Logits are computed from the first learned token on: with short answers under long prompts that saves a fifth.

    Args:
        n_tokens: learned tokens that the mean is over, where this batch is one of several (default: its own).
        parts: how many batches share one step: each gives so much less of the preference.
    """
    device = next(model.parameters()).device
    width = max(len(e.ids) for e in examples)
    pads = torch.tensor([width - len(e.ids) for e in examples])
    ids, learned, before = (
        torch.stack([F.pad(row, (width - len(row), 0)) for row in rows])
        for rows in ([e.ids for e in examples], [e.learned for e in examples], [_before(e) for e in examples])
    )  # (rows, width)
    rows, columns = learned.nonzero(as_tuple=True)  # of every learned token; the position before it predicts it
    sources = before[rows, columns] + pads[rows]
    first = int(sources.min())
    logits = model(
        input_ids=ids.to(device),
        use_cache=False,
        logits_to_keep=width - first,
        **_attention(examples, width, device, extract_model_from_parallel(model)),
    ).logits
    predicted, targets = logits[rows.to(device), (sources - first).to(device)], ids[rows, columns].to(device)
    losses = F.cross_entropy(predicted.float(), targets, reduction="none")
    second = torch.tensor([len(e.ids) if e.second is None else e.second for e in examples]) + pads
    chosen = columns < second[rows]
    own = losses[chosen.to(device)]
    loss = own.mean() if n_tokens is None else own.sum() / n_tokens
    pairs = [i for i, e in enumerate(examples) if e.second is not None]
    if not pairs or not settings.preference:
        return loss
    fork = torch.tensor([e.fork for e in examples]) + pads
    chosen_loss, rejected_loss = (
        torch.stack([losses[((rows == i) & side).to(device)].mean() for i in pairs])
        for side in (chosen & (columns >= fork[rows]), ~chosen)
    )
    margin = rejected_loss - chosen_loss
    return loss - settings.preference * F.logsigmoid(settings.preference_scale * margin).mean() / parts


def _before(example: Example) -> Int[Tensor, "tokens"]:
    """For every token the position that predicts it: the one before, or the last that two answers share."""
    positions = torch.arange(len(example.ids)) - 1
    if example.second is not None:
        positions[example.second] = example.fork - 1
    return positions.clamp(min=0)


def _attention(
    examples: Sequence[Example], width: int, device: torch.device, model: torch.nn.Module
) -> dict[str, Tensor]:
    """Mask and positions of a batch padded on the left; with a second answer, a mask that hides the first from it."""
    real = torch.stack([torch.arange(width) >= width - len(e.ids) for e in examples])
    positions = (real.cumsum(dim=1) - 1).clamp(min=0)
    if all(e.second is None for e in examples):
        told = {"position_ids": positions.to(device)} if learns_positions(model) else {}
        return {"attention_mask": real.long().to(device), **told}
    if has_running_state(model) or width > (window(model) or width):
        raise TrainingError(
            "A rejected answer stands behind the chosen one, which this model's layers could not leave out: they carry "
            f"a state, or see {window(model)} tokens back where a row has {width}. Train without rejected answers."
        )
    seen = real[:, None, :] & torch.ones(width, width, dtype=torch.bool).tril()
    seen |= torch.eye(width, dtype=torch.bool)  # padding sees itself, since a softmax over nothing is not a number
    for row, e in enumerate(examples):
        if e.second is not None:
            pad = width - len(e.ids)
            seen[row, pad + e.second :, pad + e.fork : pad + e.second] = False
            positions[row, pad + e.second :] -= e.second - e.fork
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[
        :, None
    ]  # (rows, 1, width, width)
    return {"attention_mask": mask.to(device), "position_ids": positions.to(device)}
