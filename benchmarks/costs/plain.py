"""What Python does around the model. No model runs here, and sizes go far beyond the course's own."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import torch
from transformers import AutoTokenizer

from benchmarks.costs.quantity import Quantity, Work
from personalab.judging.cues import cue_matrix
from personalab.lm import chat, prefix_cache
from personalab.lm.content_check import violations
from personalab.lm.generation import Request, batches_of, requests_for
from personalab.measure.auc import auc
from personalab.measure.separation import separation
from personalab.setup.weights import LANGUAGE_MODEL

WORDS = ("the", "sea", "is", "calm", "today", "and", "a", "friend", "may", "listen", "to", "moon", "river", "stone")
PERSONAS = 50
ROWS, TOKENS = 96, 16_384  # of a batch


def conversations(n: int) -> list[list[dict[str, str]]]:
    """Different ones, of 50 personas, some 90 tokens each."""
    rng = random.Random(n)
    return [
        chat.as_messages(f"You are persona {i % PERSONAS}.", *(" ".join(rng.choices(WORDS, k=k)) for k in (20, 40)))
        for i in range(n)
    ]


def sequences(n: int) -> list[list[int]]:
    """Prompts of 60 to 100 tokens, of which 50 begin alike in 40 tokens."""
    rng = random.Random(n)
    begin = [rng.choices(range(40_000), k=40) for _ in range(PERSONAS)]
    return [begin[i % PERSONAS] + rng.choices(range(40_000), k=20 + i % 40) for i in range(n)]


def quantities() -> dict[str, Quantity]:
    """All of them, on the embedded model's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(LANGUAGE_MODEL.ensure())

    def encode(n: int) -> Work:
        given = conversations(n)
        return lambda: [chat.encode(c, tokenizer) for c in given]

    def turns(n: int) -> Work:
        talk = [m for c in conversations(n // 2) for m in c[1:]]
        return lambda: chat.turn_spans(talk, tokenizer)

    return {
        "encoded": Quantity("conversations encoded", "conversations", (100, 200, 400, 800), 1, encode),
        "turns": Quantity("spans of a conversation's answers", "messages", (16, 32, 64, 128), 1, turns),
        "grouped": Quantity("prompts grouped by beginning", "prompts", (2500, 5000, 10_000, 20_000), 1, _grouped),
        "batched": Quantity("prompts put into batches", "prompts", (1250, 2500, 5000, 10_000), 1, _batched),
        "seeds": Quantity("requests given their seeds", "requests", (1250, 2500, 5000, 10_000), 1, _seeded),
        "cues": Quantity("answers' cues for the judge", "answers", (50, 100, 200, 400), 1, _cues),
        "checked": Quantity(
            "characters under the content check, text", "characters", (8000, 16_000, 32_000, 64_000), 1, _checked
        ),
        "checked_run": Quantity(
            "the same, one run of signs", "characters", (8000, 16_000, 32_000, 64_000), 1, _checked_run
        ),
        "auc": Quantity("values in an AUC", "values", (50_000, 100_000, 200_000, 400_000), 1, _auc),
        "separation": Quantity(
            "answers in an AUC with resamples", "answers", (1600, 3200, 6400, 12_800), 1, _separation
        ),
    }


def _grouped(n: int) -> Work:
    given = sequences(n)
    return lambda: list(prefix_cache.groups(given))


def _batched(n: int) -> Work:
    given, requests = sequences(n), [Request([], 40)] * n
    return lambda: list(batches_of(given, requests, TOKENS, ROWS))


def _seeded(n: int) -> Work:
    return partial(requests_for, conversations(n), 40)


def _cues(n: int) -> Work:
    return partial(cue_matrix, [(c[1]["content"], c[2]["content"]) for c in conversations(n)])


def _checked(n: int) -> Work:
    return partial(violations, " ".join(random.Random(0).choices(WORDS, k=n))[:n])


def _checked_run(n: int) -> Work:
    return partial(violations, "=" * n)


def _auc(n: int) -> Work:
    rng = np.random.default_rng(n)
    return partial(auc, rng.normal(size=n // 2), rng.normal(size=n // 2))


def _separation(n: int) -> Work:
    values = torch.randn(n, 4, generator=torch.Generator().manual_seed(n))
    return partial(separation, values, np.arange(n) % 2 == 0, [i // 2 % 40 for i in range(n)])
