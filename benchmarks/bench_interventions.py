"""What steering and capping cost in batched generation: the same requests without, with Steer, and with ten Caps.

Run it with `make bench`. Thresholds are out of reach and the coefficient is 0, so all three decode the same tokens;
the sides take turns, and the median of the ratios within a turn is reported.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence

import torch

import utils
from personalab.generation import Request, generate
from personalab.interventions import Cap, Intervention, Steer
from personalab.models import d_model

REPEATS = 5
N_PROMPTS, MAX_TOKENS = 32, 32


def main() -> int:
    model, tokenizer = utils.load_model("capping")
    print(f"{utils.current_tier().capping_model}, {model.dtype}, {torch.get_num_threads()} threads")
    v = torch.randn(d_model(model), generator=torch.Generator().manual_seed(0))
    sides: dict[str, Sequence[Intervention]] = {
        "plain": [],
        "Steer, one block, a coefficient a row": [Steer(20, v, torch.zeros(N_PROMPTS))],
        "Cap, ten blocks": [Cap(block, v, 1e9) for block in range(12, 22)],
    }
    # No two begin alike, so that no side shares a prefix.
    questions = [f"{i}. {q}" for i, q in enumerate(utils.load_questions()[:N_PROMPTS])]
    prompts = [utils.as_messages(f"Number {i}.", q) for i, q in enumerate(questions)]
    requests = [Request(p, MAX_TOKENS, temperature=0.0) for p in prompts]
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    texts: dict[str, list[str]] = {}
    for _ in range(REPEATS + 1):
        for name, interventions in sides.items():
            start = time.perf_counter()
            texts[name] = [c.text for c in generate(model, tokenizer, requests, interventions=interventions)]
            seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values[1:], seconds["plain"][1:], strict=True)]  # the first round warms up
        same = texts[name] == texts["plain"]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(f"{name:<40}{statistics.median(ratios):6.3f} x plain ({spread}, {REPEATS} rounds), same texts: {same}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
