"""Capping configurations on disk: ours, a folder of JSON and safetensors, and upstream's, one `.pt`.

Both say the same: `{"vectors": {name: {"vector": (d), "layer": block}}, "experiments": [{"id", "interventions"}]}`, a
cap being a ceiling on the projection along its vector, which points away from the Assistant.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from personalab.files import write, write_all
from personalab.records.schema import DataError, read_as
from personalab.records.torch_files import load_pt
from personalab.records.vectors import load_vectors, packed

CONVENTION = "block (in config.json); minus the axis, except 'axis' (towards the Assistant)"


def read_capping(path: Path | str) -> dict[str, Any]:
    """A folder of ours, or upstream's `.pt`, with vectors as tensors and caps as numbers.

    Raises:
        DataError: naming the file and what is missing, not a number, or not finite.
    """
    path = Path(path)
    config = load_pt(path) if path.suffix == ".pt" else _read_folder(path)
    if not isinstance(config, dict) or not {"vectors", "experiments"} <= set(config):
        raise DataError(f"{path} is no capping configuration: it needs 'vectors' and 'experiments'.")
    for name, entry in config["vectors"].items():
        vector, layer = entry.get("vector"), entry.get("layer")
        if not isinstance(vector, Tensor) or vector.ndim != 1 or not isinstance(layer, int):
            raise DataError(f"{path}, vector {name!r}: it needs a 'vector' of one dimension and a 'layer', its block.")
        if not torch.isfinite(vector).all():
            raise DataError(f"{path}, vector {name!r}: it holds NaN or infinity.")
    for experiment in config["experiments"]:
        _check_experiment(experiment, config["vectors"], str(path))
    return config


def _read_folder(path: Path) -> dict[str, Any]:
    if not (path / "config.json").exists():
        raise DataError(
            f"{path} holds no config.json: run `python -m personalab capping` on this tier, or name a file."
        )
    config: dict[str, Any] = read_as(path / "config.json", dict[str, Any])
    tensors, _ = load_vectors(path / "vectors.safetensors")
    for name, entry in config["vectors"].items():
        if name not in tensors:
            raise DataError(f"{path / 'vectors.safetensors'}: vector {name!r} of config.json is missing.")
        entry["vector"] = tensors[name]
    return config


def _check_experiment(experiment: Mapping[str, Any], vectors: Mapping[str, Any], path: str) -> None:
    where = f"{path}, experiment {experiment.get('id')!r}"
    for step in experiment.get("interventions", []):
        if step.get("vector") not in vectors:
            raise DataError(f"{where}: there is no vector {step.get('vector')!r}.")
        if "cap" in step and not (isinstance(step["cap"], (int, float)) and math.isfinite(step["cap"])):
            raise DataError(f"{where}: the cap of {step['vector']!r} must be a finite number, not {step['cap']!r}.")


def write_capping(path: Path | str, config: Mapping[str, Any], *, model: str, seed: object) -> None:
    """Write a configuration: to upstream's `.pt`, else to a folder of ours, whose two files change together.

    Args:
        model: id of the model that it is for.
        seed: of what it was measured on ("unknown" where nobody said).
    """
    path = Path(path)
    if path.suffix == ".pt":
        buffer = io.BytesIO()
        torch.save(dict(config), buffer)  # tensors, text, numbers: upstream's loader and `load_pt` read it
        write(path, buffer.getvalue())
        return
    tensors = {name: entry["vector"] for name, entry in config["vectors"].items()}
    bare = {name: {k: v for k, v in entry.items() if k != "vector"} for name, entry in config["vectors"].items()}
    text = json.dumps({**config, "vectors": bare, "model": model}, indent=1) + "\n"
    weights = packed("vectors.safetensors", tensors, model=model, convention=CONVENTION, seed=seed)
    write_all({path / "vectors.safetensors": weights, path / "config.json": text})
