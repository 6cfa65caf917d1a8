"""Sizes of the tiers' models, and what follows from them: parameters, bytes, FLOPs. No torch, no network.

Sizes are those of each model's published config.json. `checks/setup/test_shapes.py` builds every one of them without
memory for its weights, and counts its parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

BYTES = MappingProxyType({"float32": 4, "bfloat16": 2, "float16": 2})


@dataclass(frozen=True)
class Shape:
    """A decoder with gated MLPs and grouped queries.

    Attributes:
        family: as `personalab.lm.tiny` names it; decides norms and biases.
        tied: whether the LM head is the embedding.
        licence: of the weights; `gated`: they are given after its terms were accepted on the model's page.
    """

    family: str
    blocks: int
    d_model: int
    d_mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    tied: bool
    licence: str
    gated: bool = False

    @property
    def block_parameters(self) -> int:
        """Of one block: queries, keys, values, output, three matrices of the MLP, norms, and Qwen 2's biases."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.d_model * (2 * queries + 2 * keys)
        norms = {"gemma2": 4, "gemma3": 4}.get(self.family, 2) * self.d_model
        if self.family in ("qwen3", "gemma3"):
            norms += 2 * self.head_dim  # of queries and keys
        biases = queries + 2 * keys if self.family == "qwen2" else 0
        return attention + 3 * self.d_model * self.d_mlp + norms + biases

    @property
    def parameters(self) -> int:
        """All of them; a tied LM head counts once."""
        embeddings = (1 if self.tied else 2) * self.vocabulary * self.d_model
        return embeddings + self.blocks * self.block_parameters + self.d_model

    @property
    def active(self) -> int:
        """Parameters in the matrix products of one token: looking up an embedding is none."""
        return self.blocks * self.block_parameters + self.vocabulary * self.d_model

    def weight_bytes(self, dtype: str) -> int:
        """Of the weights."""
        return self.parameters * BYTES[dtype]

    def cache_bytes(self, tokens: int, dtype: str) -> int:
        """Of the keys and values of so many tokens, padding included, of all rows of a batch together."""
        return 2 * self.blocks * self.kv_heads * self.head_dim * tokens * BYTES[dtype]

    def peak_bytes(self, tokens: int, rows: int, dtype: str, *, eager: bool) -> int:
        """The most that one pass over a batch needs beside weights and cache.

        The largest of three that follow each other: the MLP's gate, up and product beside four of d_model; with eager
        attention one block's scores, 8 bytes each (in float32 after the softmax, in the dtype before and after); the
        last position's logits, two copies in float32, and five bytes for which of them matter and for noise. Eager
        attention's masks, one for each of two kinds of block, are always there, and a block's scores in the dtype are
        as long as it runs.

        Args:
            tokens: of all rows, padding included.
            rows: of the batch, equally long.
        """
        size = BYTES[dtype]
        pairs = rows * (tokens / rows) ** 2 if eager else 0
        mlp = tokens * (3 * self.d_mlp + 4 * self.d_model) * size + pairs * (self.heads + 2) * size
        scores = pairs * (8 * self.heads + 2 * size) + 6 * tokens * self.d_model * size
        logits = rows * self.vocabulary * (size + 4 + 4 + 5)
        return int(max(mlp, scores, logits))

    def logits_bytes(self, tokens: int, dtype: str) -> int:
        """Of logits at every position, where a plain forward pass is asked for nothing less: they, and their capped
        copy in Gemma 2, in the model's dtype."""
        return (2 if self.family == "gemma2" else 1) * tokens * self.vocabulary * BYTES[dtype]

    def lora_parameters(self, rank: int) -> int:
        """Of adapters on the seven matrices of every block."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sides = [(self.d_model, queries), (self.d_model, keys), (self.d_model, keys), (queries, self.d_model)]
        sides += 3 * [(self.d_model, self.d_mlp)]
        return self.blocks * rank * sum(a + b for a, b in sides)

    def training_bytes(
        self, tokens: int, rank: int, dtype: str, *, learned: int | None = None, checkpointing: bool = False
    ) -> int:
        """What a step of LoRA needs beside the weights: what every block keeps for the way back, logits, adapters.

        A block keeps, of each token, 24 bytes a width of d_model (six tensors in float32; eight and two in float32 in
        bfloat16), four tensors of d_mlp, keys and values, and seven of the rank; with checkpointing its input only.
        Of every logit there are three in float32: itself, the copy of those learned, and its log-probability. Adapters
        have Adam's two moments beside them, all in float32.

        Args:
            tokens: of all rows, padding included.
            learned: positions that have logits (default: all).
        """
        size, logits = BYTES[dtype], 12 * self.vocabulary * (tokens if learned is None else learned)
        thin = 4 * self.d_mlp + 2 * self.kv_heads * self.head_dim + 7 * rank
        kept = tokens * (24 * self.d_model + thin * size)  # of one block
        inputs = (self.blocks + 1) * tokens * self.d_model * size
        passing = inputs + max(kept, logits) if checkpointing else self.blocks * kept + logits
        return passing + 16 * self.lora_parameters(rank)

    def flops(self, tokens: int) -> int:
        """Of so many tokens forward: a multiplication and an addition a parameter. Attention's own, 2 to 5 % at the
        lengths of the course, are left out."""
        return 2 * self.active * tokens

    def reading_flops(self, tokens: int) -> int:
        """Of so many tokens of texts and prompts, which need the LM head nowhere or at their end only."""
        return 2 * self.blocks * self.block_parameters * tokens

    def training_flops(self, tokens: int, rank: int, *, learned: int | None = None, checkpointing: bool = False) -> int:
        """Of so many tokens forward and backward: frozen weights need no gradient of their own, so backward costs as
        much as forward; adapters do, twice as much. With checkpointing the blocks run forward once more."""
        again, head = int(checkpointing), 2 * self.vocabulary * self.d_model
        adapters = 2 * self.lora_parameters(rank) * tokens
        blocks = (2 + again) * self.reading_flops(tokens) + (3 + again) * adapters
        return blocks + 2 * head * (tokens if learned is None else learned)

    def step_bytes(self, tokens: float, dtype: str) -> float:
        """Moved by one decoding step over a batch that holds so many tokens: the weights, and the cache several times.

        Keys and values are read for attention; where several queries share them, and a mask rules out kernels that know
        of it, each group's copies are written and read. Layers with a window, every second one in Gemma 2, also copy
        what they hold to put the new token's behind it.
        """
        copies, windows = self.heads // self.kv_heads, {"gemma2": 1 / 2, "gemma3": 5 / 6}.get(self.family, 0)
        times = 1 + 2 * windows + (2 * copies if copies > 1 else 0)
        return self.active * BYTES[dtype] + times * self.cache_bytes(1, dtype) * tokens


GEMMA, APACHE = "Gemma terms of use", "Apache 2.0"
SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "google/gemma-2-27b-it": Shape("gemma2", 46, 4608, 36864, 32, 16, 128, 256_000, 8192, True, GEMMA, gated=True),
        "google/gemma-2-2b-it": Shape("gemma2", 26, 2304, 9216, 8, 4, 256, 256_000, 8192, True, GEMMA, gated=True),
        "Qwen/Qwen3-32B": Shape("qwen3", 64, 5120, 25600, 64, 8, 128, 151_936, 40_960, False, APACHE),
        "Qwen/Qwen3-1.7B": Shape("qwen3", 28, 2048, 6144, 16, 8, 128, 151_936, 40_960, True, APACHE),
        "Qwen/Qwen2.5-7B-Instruct": Shape("qwen2", 28, 3584, 18944, 28, 4, 128, 152_064, 32_768, False, APACHE),
        "Qwen/Qwen2.5-1.5B-Instruct": Shape("qwen2", 28, 1536, 8960, 12, 2, 128, 151_936, 32_768, True, APACHE),
        "SmolLM2-135M-Instruct": Shape("llama", 30, 576, 1536, 9, 3, 64, 49_152, 8192, True, APACHE),
        "trait-organism": Shape("llama", 30, 576, 1536, 9, 3, 64, 49_152, 8192, True, APACHE),
    }
)
