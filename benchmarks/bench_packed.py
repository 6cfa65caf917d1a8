"""Packed weights against torch's own products, everything else equal: answers, a sweep of one conversation, reading.

    python -m benchmarks.bench_packed    # in PERSONALAB_DTYPE, with OMP_NUM_THREADS threads; minutes

Sides take turns; the median ratio of the rounds, with the smallest and the largest.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median
from unittest import mock

import torch

import utils
from personalab.lm import packed_weights
from personalab.lm.generation import generate, requests_for

ROUNDS, BLOCK = 5, 19


def main() -> int:
    model, tokenizer = utils.load_model("persona")
    roles, questions = list(utils.load_roles().values())[:4], utils.load_questions()
    asked = [utils.as_messages(role.prompts[0], q) for role in roles for q in questions[:16]]
    texts = [[*c, {"role": "assistant", "content": "The sea is deep and wide, and full of fish. " * 6}] for c in asked]

    def answers(n: int) -> Callable[[], object]:
        requests = requests_for(asked[:n], 40)
        return lambda: [c.text for c in generate(model, tokenizer, requests)]

    def reading() -> object:
        return utils.mean_response_activations(model, tokenizer, texts, [BLOCK])

    print(f"{model.dtype}, {torch.get_num_threads()} threads, {ROUNDS} rounds")
    for name, call in {
        "64 answers of 40 tokens": answers(64),
        "8 answers": answers(8),
        "1 answer": answers(1),
        f"{len(texts)} texts read up to block {BLOCK}": reading,
    }.items():
        print(f"{name}: {compared(call)}", flush=True)
    return 0


def compared(call: Callable[[], object]) -> str:
    """Seconds without packing over seconds with it."""
    call()
    ratios = []
    for _ in range(ROUNDS):
        with mock.patch.object(packed_weights, "MOST_BYTES", 0):
            plain, expected = timed(call)
        packed, found = timed(call)
        ratios.append(plain / packed)
        same = expected == found if isinstance(found, list) else None
    texts = "" if same is None else ", texts equal" if same else ", texts differ by rounding"
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); {packed:.2f} s with{texts}"


def timed(call: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


if __name__ == "__main__":
    sys.exit(main())
