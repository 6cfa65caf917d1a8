"""Coherence that reads: how far an answer makes sense to a reader, as an answer to its question.

The embedded judge's coherence sees form: it knows shuffled words and loops, and hardly tells fluent sense from fluent
nonsense. This one asks the *untouched* base model, whatever model wrote the answer: its hidden states over the answer,
given the question, hold most of what a reader's labels need. How close the sentence encoder finds answer and question
tells the rest. One linear head weighs both, fitted on labels that were given without sight of how an answer came about
(`python -m personalab coherence`).

It stands here and not in `judging/`, since the embedded judge shares no weights with the models it judges, and replies
without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import expit
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.judging.features import Pair, clip, encode_unique
from personalab.judging.heads import Head, load_heads
from personalab.lm import chat
from personalab.lm.hooks import hooked, stop_after
from personalab.lm.models import d_model, decoder_blocks, load_named
from personalab.lm.prefix_cache import run_prefix
from personalab.records.phases import phase
from personalab.tiers import EMBEDDED_MODEL

HEAD_FILE = Path(__file__).parent / "coherence.safetensors"
BLOCKS = (11, 17)  # our choice, by cross-validation over questions within the fit examples; later ones add little
CHARACTERS = 1000  # our choice: of a longer question or answer the beginning is read


@phase("coherence")
def read_coherence(questions: Sequence[str], answers: Sequence[str]) -> Float[np.ndarray, "n"]:
    """0 (senseless, or about something else) to 100 (makes sense and answers the question); an empty answer gets 0.

    The scale is the readers': answers that score 50 are those that readers put at 50 on average. Whether a text ends in
    the middle of a sentence counts as little as it did to them. A pair's score depends on that pair alone, and on the
    dtype in which this machine computes; it is rounded to a tenth.

    Raises:
        ValueError: if the two differ in length.
        EmbeddedModelError: if the embedded weights are missing and cannot be fetched.
    """
    pairs = [(q, a.strip()) for q, a in zip(questions, answers, strict=True)]
    if not (full := [pair for pair in dict.fromkeys(pairs) if pair[1]]):
        return np.zeros(len(pairs))
    scores = dict(zip(full, score(features(full)), strict=True))
    return np.array([scores.get(pair, 0.0) for pair in pairs])


def features(pairs: Sequence[Pair]) -> Float[np.ndarray, "n f"]:
    """What the head sees of each pair: the base model's states, and the cosine of question and answer."""
    asked, said = (encode_unique([clip(text) for text in texts])[:, -1] for texts in zip(*pairs, strict=True))
    topic = (asked * said).sum(dim=1, keepdim=True).numpy()
    return np.hstack([answer_states(*load_named(EMBEDDED_MODEL), pairs), topic])


def score(seen: Float[np.ndarray, "n f"], head: Head | None = None) -> Float[np.ndarray, "n"]:
    """What the committed head, or another, makes of `features`: 0 to 100."""
    return (100 * expit((head or _committed())(seen).astype(float))[:, 0]).round(1)


@cache
def _committed() -> Head:
    return load_heads(HEAD_FILE)[0]["coherence"]


@torch.inference_mode()
def answer_states(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], blocks: Sequence[int] = BLOCKS
) -> Float[np.ndarray, "n f"]:
    """Mean residual stream over each answer after each of `blocks`, side by side, float32.

    A question runs once for all of its answers, and each answer by itself: in a batch its numbers would depend on the
    others' lengths, by rounding. Blocks after the last one never run.

    Args:
        pairs: no answer may be blank.
        blocks: ascending.
    """
    layers = decoder_blocks(model)
    states = torch.zeros(len(pairs), len(blocks), d_model(model))

    def keep(i: int, slot: int, hidden: Float[Tensor, "1 s d"]) -> None:
        states[i, slot] = hidden[0].float().mean(dim=0)

    encoded = [chat.encode(chat.as_messages(None, q[:CHARACTERS], a[:CHARACTERS]), tokenizer) for q, a in pairs]
    rows: dict[tuple[int, ...], list[int]] = {}
    for i, (ids, [(start, _)]) in enumerate(encoded):
        rows.setdefault(tuple(ids[:start]), []).append(i)
    for prompt, members in rows.items():
        prefix = run_prefix(model, layers[blocks[-1]], list(prompt))
        for i in members:
            ids, [(start, end)] = encoded[i]
            with ExitStack() as stack:
                for slot, block in enumerate(blocks):
                    stack.enter_context(hooked(layers[block], partial(keep, i, slot)))
                stack.enter_context(stop_after(layers[blocks[-1]]))
                inputs = torch.tensor([ids[start:end]], device=model.device)
                model(input_ids=inputs, past_key_values=prefix.for_rows(1), use_cache=True)
    return states.flatten(1).numpy()
