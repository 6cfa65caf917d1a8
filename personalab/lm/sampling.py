"""Exact sampling whose noise is a function of request, step and token: neighbours, order and device don't matter.

A counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") has no state to advance:
the noise of any token at any step is computed alone, for all rows of a batch at once, and only where it could matter.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

# Standard Gumbel noise made from 23 random bits is at most 16.64. A token further than this (in logits over temperature)
# below the likeliest one *with its noise* can't win, so it needs no noise: at temperature 0.7, 49 tokens of 50.
MOST = 16.65

_BITS = 23  # as many as float32 holds exactly after adding a half
# Multipliers and shifts of a 32-bit mixer with little bias (C. Wellons, "Prospecting for hash functions", 2018).
_ROUNDS = ((17, 0xED5AD4BB - 2**32), (11, 0xAC4C1B51 - 2**32), (15, 0x31848BAB))
_SPREAD = 0x9E3779B1 - 2**32  # 2**32 over the golden ratio: neighbouring tokens start far apart


def gumbel_noise(keys: Int[Tensor, "n 2"], tokens: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Standard Gumbel noise, float32: one number for each key (int32 words, see `step_keys`) and token."""
    x = tokens.to(torch.int32).mul_(_SPREAD).bitwise_xor_(keys[:, 0])
    for index, (shift, multiplier) in enumerate(_ROUNDS):
        x.bitwise_xor_(_shifted(x, shift)).mul_(multiplier)
        if index == 0:
            x.add_(keys[:, 1])  # both words matter, and two keys never give the same noise in another order
    x.bitwise_xor_(_shifted(x, 14))
    uniform = _shifted(x, 32 - _BITS).float().add_(0.5).mul_(2.0**-_BITS)  # inside (0, 1)
    return uniform.log_().neg_().log_().neg_()


def _shifted(x: Int[Tensor, "n"], by: int) -> Int[Tensor, "n"]:
    """Logical shift to the right; torch's own keeps the sign."""
    return torch.bitwise_right_shift(x, by).bitwise_and_((1 << (32 - by)) - 1)


def step_keys(seeds: Sequence[int], step: int) -> Int[Tensor, "rows 2"]:
    """64 bits for every request at one step of its answer, as two int32 words."""
    digests = [hashlib.blake2b(f"{seed} {step}".encode(), digest_size=8).digest() for seed in seeds]
    return torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.int32).reshape(-1, 2)


class GumbelSampler(LogitsProcessor):
    """Turns greedy decoding into sampling: `argmax(logits / T + Gumbel noise)` is distributed as softmax(logits / T).

    The token that this chooses gets infinity for its score. Rows at temperature 0 stay greedy. One sampler serves one
    call of `generate`: it counts the steps.

    Args:
        seeds: of every row; equal seeds give equal noise.
        temperatures: of every row.
    """

    def __init__(self, seeds: Sequence[int], temperatures: Sequence[float], device: torch.device) -> None:
        warm = [i for i, temperature in enumerate(temperatures) if temperature > 0]
        self.seeds = [seeds[i] for i in warm]
        self.rows = torch.tensor(warm, device=device, dtype=torch.long)
        self.temperatures = torch.tensor([temperatures[i] for i in warm], device=device)  # (warm,)
        self.step = 0

    def __call__(self, input_ids: Int[Tensor, "b s"] | None, scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        if not self.seeds:
            return scores
        keys = step_keys(self.seeds, self.step).to(scores.device)
        self.step += 1
        scores = scores.float()
        warm = scores if len(self.rows) == len(scores) else scores[self.rows]  # (warm, v)
        likeliest, token = warm.max(dim=1)
        reached = likeliest / self.temperatures + gumbel_noise(keys, token)
        rows, tokens = (warm > ((reached - MOST) * self.temperatures)[:, None]).nonzero(as_tuple=True)
        found = warm[rows, tokens] / self.temperatures[rows] + gumbel_noise(keys[rows], tokens)
        best = reached.scatter_reduce(0, rows, found, "amax")
        won = found == best[rows]
        return scores.index_put((self.rows[rows[won]], tokens[won]), scores.new_tensor(math.inf))
