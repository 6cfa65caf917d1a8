"""What the content guard costs in batched generation: the same requests with it and without; and one step of it.

Run it with `make bench`. Both decode the same tokens unless the guard had something to do. One step is compared with
transformers' own processor for banned words, on the same sequences.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, NoBadWordsLogitsProcessor

from benchmarks.turns import N_PROMPTS, compare, requests
from personalab.lm.content_guard import Guard, guarded, token_sequences
from personalab.lm.generation import generate
from personalab.setup.weights import LANGUAGE_MODEL
from personalab.tiers import EMBEDDED_MODEL

STEPS = 50


def main() -> int:
    folder = LANGUAGE_MODEL.ensure()
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    print(f"{EMBEDDED_MODEL}, {plain.dtype}, {torch.get_num_threads()} threads")
    start = time.perf_counter()
    sequences = token_sequences(tokenizer)
    print(f"{len(sequences):,} sequences in {time.perf_counter() - start:.1f} s")
    sides = {"plain": plain, "guarded": guarded(copy.deepcopy(plain), tokenizer)}
    asked = requests()
    compare({name: partial(generate, model, tokenizer, asked) for name, model in sides.items()})

    size = plain.get_output_embeddings().weight.shape[0]
    ids = torch.randint(len(tokenizer), (N_PROMPTS, 200), generator=torch.Generator().manual_seed(0)).to(plain.device)
    scores = torch.zeros(N_PROMPTS, size, device=plain.device)
    for name, processor in {
        "Guard": Guard(sequences),
        "NoBadWordsLogitsProcessor": NoBadWordsLogitsProcessor([list(s) for s in sequences]),
    }.items():
        print(f"{name:<28}{1e3 * _median_seconds(lambda p=processor: p(ids, scores)):8.2f} ms a step, {N_PROMPTS} rows")
    return 0


def _median_seconds(step: Callable[[], torch.Tensor]) -> float:
    """Median time of one call. Reading one number of the result waits for an accelerator."""
    seconds = []
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        step()[0, 0].item()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    sys.exit(main())
