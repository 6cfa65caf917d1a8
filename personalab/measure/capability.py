"""What an intervention costs: multiple-choice accuracy and perplexity, with and without it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.judging.examples import trait_rows
from personalab.lm import chat, prefix_cache
from personalab.lm.batching import by_length, padded, tokens_at_once
from personalab.lm.interventions import Intervention, applied
from personalab.lm.models import decoder_blocks
from personalab.records.items import Item

INSTRUCTION = "Complete the sentence."
WINDOW = 256  # tokens of prose read at once; our choice: long enough for context, short enough for a laptop
NEUTRAL = 15  # points of 100 on every trait; our choice


def load_voices() -> list[str]:
    """Prose in many human voices: written answers from the judge's fitting data that show no trait."""
    return [
        row.answer
        for row in trait_rows("fit")
        if row.source == "written" and not row.refusal and max(row.scores.values()) <= NEUTRAL
    ]


@torch.inference_mode()
def multiple_choice(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    interventions: Sequence[Intervention] = (),
) -> Bool[np.ndarray, "n"]:
    """Whether the model gives each item's right ending the highest probability per token, in its chat template."""
    head = chat.render([{"role": "user", "content": INSTRUCTION}], tokenizer, add_generation_prompt=True)

    def ids(text: str) -> list[int]:
        return tokenizer(head + text, add_special_tokens=False)["input_ids"]

    rows, starts = [], []
    for item in items:
        stem = ids(item.stem)
        for option in item.options:
            rows.append(ids(f"{item.stem} {option}."))
            starts.append(prefix_cache.common_length(stem, rows[-1]))
    with applied(model, interventions):
        scores = iter(_mean_log_probabilities(model, rows, starts))
    return np.array([np.argmax([next(scores) for _ in item.options]) == item.answer for item in items])


def _mean_log_probabilities(model: PreTrainedModel, rows: list[list[int]], starts: list[int]) -> list[float]:
    """Of each row's tokens from its start on. What all rows begin with runs once."""
    shared = prefix_cache.shared_length(rows, limit=min(starts) - 1)
    prefix = prefix_cache.run_prefix(model, decoder_blocks(model)[-1], rows[0][:shared])
    means = [0.0] * len(rows)
    for batch in option_batches([len(row) - shared for row in rows], tokens_at_once(model.device)):
        ids = padded([rows[i][shared:] for i in batch], model.device)
        logits = model(input_ids=ids, past_key_values=prefix.for_rows(len(batch)), use_cache=shared > 0).logits
        log_p = _next_log_p(logits, ids)  # (rows, width - 1)
        for i, row in zip(batch, log_p, strict=True):
            means[i] = row[starts[i] - shared - 1 : len(rows[i]) - shared - 1].mean().item()
    return means


def option_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices of rows in batches that hold `batch_tokens` at most once padded, the longest batch first.

    Rows ascend in length inside a batch; of equally long ones the last are taken first.
    """
    last = len(lengths) - 1
    return [[last - i for i in reversed(rows)] for rows in by_length(lengths[::-1], batch_tokens)]


def _next_log_p(logits: Float[Tensor, "rows width v"], ids: Tensor) -> Float[Tensor, "rows width_1"]:
    """Log-probability of each token given those before it, float32 on the CPU."""
    logits = logits[:, :-1].float()
    return (logits.gather(2, ids[:, 1:, None])[..., 0] - logits.logsumexp(dim=-1)).cpu()  # no copy of all of them


@torch.inference_mode()
def prose_nll(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    interventions: Sequence[Intervention] = (),
    n_tokens: int = 20_480,
    skip: int = 0,
) -> Float[np.ndarray, "windows"]:
    """Mean negative log-likelihood in nats a token of plain prose, window by window; perplexity is exp of its mean.

    Args:
        texts: joined by blank lines and cut into windows of `WINDOW` tokens.
        n_tokens, skip: how many tokens to read, after how many that are left alone (for calibration, say).

    Raises:
        ValueError: if the texts have fewer than `skip + n_tokens` tokens.
    """
    ids = tokenizer("\n\n".join(texts), add_special_tokens=False)["input_ids"]
    if len(ids) < skip + n_tokens:
        raise ValueError(f"The texts hold {len(ids)} tokens, {skip + n_tokens} are needed.")
    ids = ids[skip : skip + n_tokens // WINDOW * WINDOW]
    windows = torch.tensor(ids, device=model.device).reshape(-1, WINDOW)
    rows = max(1, tokens_at_once(windows.device) // WINDOW)
    with applied(model, interventions):
        batches = [-_next_log_p(model(input_ids=w).logits, w).mean(dim=1) for w in windows.split(rows)]
    return torch.cat(batches).numpy()
