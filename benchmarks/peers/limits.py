"""What the arithmetic and the memory of this machine allow, in one thread: measured, beside every table."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.peers.work import BLOCK
from personalab.setup.machine import one_thread

D, D_FF, D_KV, VOCAB = 576, 1536, 192, 49152  # SmolLM2-135M
BLOCK_WEIGHTS = 2 * D * D + 2 * D * D_KV + 3 * D * D_FF  # of the matrix products that a token meets in a block
_TRIES = 12


def limits(dtype: str) -> dict[str, Any]:
    """GFLOP/s of the model's own products on 1,536 tokens, GB/s read, and tokens a second that they allow."""
    kind = getattr(torch, dtype)
    with one_thread():
        x, w = torch.ones(1536, D, dtype=kind), torch.ones(D_FF, D, dtype=kind)
        rate = 2 * x.shape[0] * D * D_FF / _best(lambda: torch.nn.functional.linear(x, w))
        much = torch.ones(64 << 20, dtype=torch.uint8).view(kind)
        bandwidth = much.numel() * much.element_size() / _best(lambda: much.sum())
    return {
        "gflops": round(rate / 1e9, 1),
        "gbytes": round(bandwidth / 1e9, 1),
        "extraction_tokens": round(rate / (2 * BLOCK_WEIGHTS * (BLOCK + 1))),
    }


def _best(function: Any) -> float:
    """Processor seconds, the fewest of some tries."""
    seconds = []
    for _ in range(_TRIES):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return min(seconds)
