"""The sentence encoder that reads for the judge: all-MiniLM-L6-v2, 6 blocks, d_model 384, offline."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from personalab.setup.weights import SENTENCE_ENCODER

WINDOW = 128  # tokens; the length that the encoder was trained on
MAX_WINDOWS = 6  # our choice: about 500 words, taken evenly from a longer text
BATCH = 32  # windows; our choice: fills two cores
D_MODEL = 384


@functools.cache
def load_encoder() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The encoder and its tokenizer.

    Raises:
        EmbeddedModelError: if its weights are missing and cannot be fetched.
    """
    folder = SENTENCE_ENCODER.ensure()
    return AutoModel.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(folder)


@torch.inference_mode()
def hidden_states(texts: Sequence[str]) -> Float[Tensor, "n layers d"]:
    """Each text's mean hidden state after the embedding and after each of the six blocks, averaged over windows."""
    model, tokenizer = load_encoder()
    ids = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    windows = [(i, window) for i, tokens in enumerate(ids) for window in _windows(tokens)]
    windows.sort(key=lambda pair: len(pair[1]))  # like with like, so that little is padded
    total = torch.zeros(len(texts), model.config.num_hidden_layers + 1, D_MODEL)
    for i in range(0, len(windows), BATCH):
        rows, batch = zip(*windows[i : i + BATCH], strict=True)
        framed = [torch.tensor([tokenizer.cls_token_id, *window, tokenizer.sep_token_id]) for window in batch]
        inputs = pad_sequence(framed, batch_first=True, padding_value=tokenizer.pad_token_id)  # (b, t)
        mask = pad_sequence([torch.ones_like(row) for row in framed], batch_first=True)
        hidden = model(inputs, attention_mask=mask, output_hidden_states=True).hidden_states  # 7 of (b, t, d)
        means = torch.stack([(h * mask[..., None]).sum(dim=1) for h in hidden], dim=1) / mask.sum(dim=1)[:, None, None]
        total.index_add_(0, torch.tensor(rows), means)
    n_windows = torch.bincount(torch.tensor([i for i, _ in windows]), minlength=len(texts))
    return total / n_windows[:, None, None]


def _windows(tokens: list[int]) -> list[list[int]]:
    """Up to `MAX_WINDOWS` stretches of about equal length, evenly spaced; an empty text is one empty window."""
    n = max(1, -(-len(tokens) // WINDOW))
    size = -(-len(tokens) // n)
    stretches = [tokens[k * size : (k + 1) * size] for k in range(n)]
    if n <= MAX_WINDOWS:
        return stretches
    return [stretches[round(k * (n - 1) / (MAX_WINDOWS - 1))] for k in range(MAX_WINDOWS)]
