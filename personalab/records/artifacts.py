"""What one section leaves for the next: your own run's where it exists, else the committed reference.

`artifacts/<tier>/` holds your runs; `artifacts/reference/<tier>/` is written by `python -m personalab record` only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from personalab import tiers
from personalab.files import write
from personalab.paths import ROOT, artifacts_dir
from personalab.records.vectors import load_vectors, save_vectors


def save_artifact(name: str, content: Mapping[str, Tensor] | Any, **metadata: object) -> Path:
    """Write tensors (`name` ends in .safetensors, with metadata) or JSON for later sections; returns the path."""
    path = artifacts_dir(tiers.current_tier().name) / name
    if path.suffix == ".safetensors":
        return save_vectors(path, content, **{"budget": tiers.budget(), "seed": tiers.GLOBAL_SEED, **metadata})
    write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path


def load_artifact(name: str) -> Any:
    """Tensors with their metadata, or JSON: from your own run, else the committed reference; says which.

    Raises:
        FileNotFoundError: if this tier has neither, naming the section to run.
    """
    own, reference = artifacts_dir(tiers.current_tier().name) / name, _reference_dir() / name
    path = own if own.exists() else reference
    if not path.exists():
        raise FileNotFoundError(
            f"No {name} for the {tiers.current_tier().name!r} tier: run the section that its name begins with first."
        )
    print(f"{name}: {'your own run' if path == own else 'the committed reference'}")
    return load_vectors(path) if path.suffix == ".safetensors" else json.loads(path.read_text(encoding="utf-8"))


def _reference_dir() -> Path:
    return ROOT / "artifacts" / "reference" / tiers.current_tier().name
