"""Linear heads over standardised features, kept as safetensors: nothing that has to be unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import safe_open
from safetensors.numpy import save

from personalab.files import write

CLIP = 6.0  # standard deviations; our choice: an odd text may be far from all others, its score not


@dataclass(frozen=True)
class Head:
    """`outputs` linear functions of standardised features."""

    mean: Float[np.ndarray, "f"]
    scale: Float[np.ndarray, "f"]
    weight: Float[np.ndarray, "outputs f"]
    bias: Float[np.ndarray, "outputs"]

    def __call__(self, features: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "n outputs"]:
        z = np.clip((features - self.mean) / self.scale, -CLIP, CLIP)
        return z @ self.weight.T + self.bias


def save_heads(path: Path, heads: Mapping[str, Head], metadata: Mapping[str, object], **arrays: np.ndarray) -> None:
    """Write heads and further arrays, with what they were fitted on."""
    tensors = {f"{name}/{part}": value for name, head in heads.items() for part, value in vars(head).items()}
    tensors = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in {**tensors, **arrays}.items()}
    write(path, save(tensors, {"fit": json.dumps(metadata, sort_keys=True)}))


def load_heads(path: Path) -> tuple[dict[str, Head], dict[str, np.ndarray]]:
    """The heads and the further arrays in a file of `save_heads`."""
    with safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    names = {name.partition("/")[0] for name in arrays if "/" in name}
    heads = {name: Head(**{part: arrays.pop(f"{name}/{part}") for part in Head.__annotations__}) for name in names}
    return heads, arrays
