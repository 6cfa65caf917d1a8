"""GPU memory and time of a section, from its work and its models' sizes. Predictions: no run stands behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from personalab.setup.shapes import SHAPES, Shape
from personalab.setup.work import Work
from personalab.tiers import Tier

READ_TOKENS = 1536  # of one batch that is read: `personalab.lm.batching.GPU_TOKENS`
TRAIN_TOKENS, RANK = 1024, 32  # of a step's batch, two rows of 512; `personalab.lm.lora_data.PAPER`
FLOPS_SHARE, BANDWIDTH_SHARE = 0.5, 0.6  # of the data sheet's that we expect; our choice
OVERHEAD = 1.5e9  # bytes: CUDA's own context and the allocator's gaps; our choice


@dataclass(frozen=True)
class Gpu:
    """A card as its maker describes it: bytes of memory, FLOP/s of dense products in the dtype, bytes/s of memory."""

    name: str
    memory: float
    flops: float
    bandwidth: float
    dtype: str


GPUS = MappingProxyType(
    {
        "a100": Gpu("A100 80 GB (SXM)", 80e9, 312e12, 2.039e12, "bfloat16"),
        "colab": Gpu("T4 16 GB", 16e9, 8.1e12, 0.32e12, "float32"),
    }
)


@dataclass(frozen=True)
class Needs:
    """What a section's own models take: bytes at the peak, and seconds."""

    weights: float
    cache: float
    rest: float
    seconds: float

    @property
    def peak(self) -> float:
        """Bytes, all together."""
        return self.weights + self.cache + self.rest + OVERHEAD


def needs(steps: Sequence[Work], tier: Tier, gpu: Gpu) -> Needs:
    """The most that any step of a section needs (models are loaded one at a time), and the time of all."""
    own = [step for step in steps if not step.hosted]
    found = [_step_needs(step, tier, gpu) for step in own]
    most = max(found, key=lambda n: n.peak)
    return Needs(most.weights, most.cache, most.rest, sum(n.seconds for n in found))


def _step_needs(step: Work, tier: Tier, gpu: Gpu) -> Needs:
    shape: Shape = SHAPES[getattr(tier, f"{step.model}_model")]
    weights, eager = shape.weight_bytes(gpu.dtype), shape.family == "gemma2"  # it caps its attention logits
    length = step.read + step.written
    reading = shape.flops(step.tokens_read * step.passes) / (FLOPS_SHARE * gpu.flops)
    if step.passes > 1:
        return Needs(weights, 0, shape.training_bytes(TRAIN_TOKENS, RANK, gpu.dtype), reading)
    if not step.written:
        tokens = max(READ_TOKENS, length)
        peak = shape.peak_bytes(tokens, max(1, tokens // length), gpu.dtype, eager=eager)
        if step.what == "your own functions":  # four rows at once, with logits at every position
            peak = max(peak, shape.logits_bytes(4 * length, gpu.dtype))
        if step.what == "texts through the autoencoder":
            peak += autoencoder_bytes(shape)
        return Needs(weights, 0, peak, reading)
    rows = max(1, min(tier.max_batch_rows, tier.max_batch_tokens // length, step.n))
    passes = math.ceil(step.n / rows) * (step.written - 1)
    cache = shape.cache_bytes(rows * length, gpu.dtype)
    moving = (weights + cache / 2) / (BANDWIDTH_SHARE * gpu.bandwidth)
    decoding = passes * max(moving, shape.flops(rows) / (FLOPS_SHARE * gpu.flops))
    peak = shape.peak_bytes(rows * step.read, rows, gpu.dtype, eager=eager)
    return Needs(weights, cache, peak, reading + decoding)


def autoencoder_bytes(shape: Shape) -> int:
    """GemmaScope's two matrices in float32: 16,384 features for Gemma 2 2B, 131,072 for 27B."""
    return 2 * 4 * shape.d_model * (131_072 if shape.blocks > 26 else 16_384)
