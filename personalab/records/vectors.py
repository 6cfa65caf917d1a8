"""Steering vectors and axes on disk: safetensors with the metadata that says what they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from personalab.files import write

REQUIRED_METADATA = ("model", "convention", "seed")


def save_vectors(path: Path | str, vectors: Mapping[str, Float[Tensor, "..."]], **metadata: object) -> Path:
    """Write named vectors with metadata; a reader sees the old file or the new one, never half of one.

    Args:
        metadata: must hold `model` (id), `convention` (what indexes a layer, e.g. "block 19") and `seed`;
            add what else tells a reader where the vectors come from (n, date, trait).

    Raises:
        ValueError: if one of those three is missing, or a vector holds NaN or infinity.
    """
    path = Path(path)
    write(path, packed(path.name, vectors, **metadata))
    return path


def packed(name: str, vectors: Mapping[str, Float[Tensor, "..."]], **metadata: object) -> bytes:
    """What `save_vectors` writes, for files that must change together; `name` is for its errors."""
    if missing := [k for k in REQUIRED_METADATA if k not in metadata]:
        raise ValueError(f"{name}: metadata {missing} missing; vectors nobody can place are of no use.")
    if bad := [key for key, v in vectors.items() if not torch.isfinite(v).all()]:
        raise ValueError(f"{name}: vectors {bad} hold NaN or infinity.")
    tensors = {key: v.detach().cpu().contiguous().clone() for key, v in vectors.items()}
    return save(tensors, {k: str(v) for k, v in metadata.items()})


def load_vectors(path: Path | str) -> tuple[dict[str, Float[Tensor, "..."]], dict[str, str]]:
    """Vectors by name, and their metadata.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a safetensors file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: run the section that writes it, or pull the committed one.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}): {_advice(path)}.") from None


def _advice(path: Path) -> str:
    if path.suffix in (".pt", ".pth", ".gguf"):
        return f"`python -m personalab convert {path.name} {path.stem}.safetensors` makes one of it"
    return "put a whole one in its place, or make it again, which replaces it"
