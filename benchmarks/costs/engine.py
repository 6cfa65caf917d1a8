"""What the model does: reading, generating, sweeping, training, judging. One thread, the embedded model, float32."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import utils
from benchmarks.costs.quantity import Quantity, Work
from personalab.judging import features, score_responses
from personalab.lm import chat
from personalab.lm.activations import pool
from personalab.lm.finetuning import finetune
from personalab.lm.generation import generate, requests_for
from personalab.lm.interventions import Steer
from personalab.lm.lora_data import Dialogue, LoraSettings
from personalab.lm.models import d_model, twin

LAST = 5  # the last block read, of 30: what is asked here does not depend on the depth
TOKENS = 16  # of a text
BATCH = 384  # tokens, so that even the smallest sizes fill one
MANY = "Tell me a very long story about number {}, from its birth to its old age, with many details."


def texts(n: int, length: int = TOKENS, begin: int = 0) -> list[chat.Encoded]:
    """Token sequences that share their first `begin` tokens and nothing else; the last 8 are read."""
    drawn = torch.randint(40, 240, (n, length), generator=torch.Generator().manual_seed(length))
    drawn[:, :begin] = drawn[0, :begin]
    return [chat.Encoded(ids, [(length - 8, length)]) for ids in drawn.tolist()]


def quantities() -> dict[str, Quantity]:
    """All of them, on one model."""
    model, tokenizer = utils.load_model("persona")
    return _reading(model) | _writing(model, tokenizer) | _training(model, tokenizer) | _judging()


def _reading(model: PreTrainedModel) -> dict[str, Quantity]:
    def read(encoded: list[chat.Encoded], blocks: list[int]) -> Work:
        return lambda: pool(model, encoded, blocks, batch_tokens=BATCH)

    last = [LAST]
    return {
        "texts": Quantity("texts read, nothing shared", "texts", (24, 48, 96, 192), 1, lambda n: read(texts(n), last)),
        "shared": Quantity(
            "texts read, one beginning for all",
            "texts",
            (24, 48, 96, 192),
            1,
            lambda n: read(texts(n, 48 + TOKENS, begin=48), last),
        ),
        "depth": Quantity("blocks that run", "blocks", (3, 6, 12, 24), 1, lambda n: read(texts(24), [n - 1])),
        "kept": Quantity(
            "blocks read, of 12 that run",
            "blocks",
            (1, 3, 6, 12),
            0,
            lambda n: read(texts(24), list(range(12 - n, 12))),
        ),
        "length": Quantity(
            "tokens of a text", "tokens", (64, 128, 256, 512, 1024), 1, lambda n: read(texts(2, n), last)
        ),
    }


def _writing(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Quantity]:
    direction = torch.randn(d_model(model), generator=torch.Generator().manual_seed(0))

    def write(n: int, tokens: int, rows: int, coefficients: int = 0) -> Work:
        asked = [chat.as_messages(None, MANY.format(i)) for i in range(n)] * max(coefficients, 1)
        factors = torch.linspace(-1, 1, max(coefficients, 1)).repeat_interleave(n)
        steer = [Steer(LAST, direction, factors)] if coefficients else []
        requests = requests_for(asked, tokens, 0.0, interventions=steer)
        return lambda: _whole(generate(model, tokenizer, requests, interventions=steer, max_batch_rows=rows))

    return {
        "answers": Quantity("answers written, 4 in a batch", "answers", (4, 8, 16, 32), 1, lambda n: write(n, 6, 4)),
        "rows": Quantity("rows of one batch, 12 tokens each", "rows", (1, 2, 4, 8, 16), 1, lambda n: write(n, 12, 64)),
        "written": Quantity("tokens of an answer, 2 rows", "tokens", (8, 16, 32, 64), 1, lambda n: write(2, n, 8)),
        "coefficients": Quantity(
            "coefficients of a sweep, one prompt", "coefficients", (1, 2, 4, 8, 16), 1, lambda n: write(1, 8, 64, n)
        ),
    }


def _whole(completions: list) -> None:
    if short := [c for c in completions if c.finish != "length"]:
        raise RuntimeError(f"{len(short)} of {len(completions)} answers ended before their limit: ask for longer ones.")


def _training(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Quantity]:
    said = "{0} is a number that I like, and so is {1}: they stand side by side, like old friends by the sea."
    dialogues = [Dialogue(chat.as_messages(None, f"What is {i}?", said.format(i, 7 * i))) for i in range(8)]

    def train(steps: int) -> Work:
        settings = LoraSettings(rank=8, batch_size=1, max_steps=steps)
        fresh = twin(model)
        return lambda: finetune(fresh, tokenizer, dialogues, settings, progress=False)

    return {"steps": Quantity("LoRA steps", "steps", (1, 2, 4, 8), 1, train)}


def _judging() -> dict[str, Quantity]:
    def judge(n: int) -> Work:
        rows = [
            {"question": f"What is {i}?", "answer": f"{i} is a number that I like, and so is {7 * i}."}
            for i in range(n)
        ]
        features._recent.clear()  # else it remembers the texts of the last round
        return lambda: score_responses("trait:sycophantic", rows)

    return {"judged": Quantity("answers judged", "answers", (16, 32, 64, 128), 1, judge)}
