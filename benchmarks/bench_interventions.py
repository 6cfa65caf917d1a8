"""What steering and capping cost in batched generation: the same requests without, with Steer, and with ten Caps.

Run it with `make bench`. Thresholds are out of reach and the coefficient is 0, so all three decode the same tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

import torch

import utils
from benchmarks.turns import N_PROMPTS, compare, requests
from personalab.lm.generation import generate
from personalab.lm.interventions import Cap, Intervention, Steer
from personalab.lm.models import d_model


def main() -> int:
    model, tokenizer = utils.load_model("capping")
    print(f"{utils.current_tier().capping_model}, {model.dtype}, {torch.get_num_threads()} threads")
    v = torch.randn(d_model(model), generator=torch.Generator().manual_seed(0))
    sides: dict[str, Sequence[Intervention]] = {
        "plain": [],
        "Steer, one block, a coefficient a row": [Steer(20, v, torch.zeros(N_PROMPTS))],
        "Cap, ten blocks": [Cap(block, v, 1e9) for block in range(12, 22)],
    }
    asked = requests()
    compare({name: partial(generate, model, tokenizer, asked, interventions=i) for name, i in sides.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
