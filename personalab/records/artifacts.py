"""What one section leaves for the next: your own run's where it exists, else the committed reference.

`artifacts/<tier>/` holds your runs (a model of your own has a folder in it: `tiers.Tier.folder`);
`artifacts/reference/<tier>/` is written by `python -m personalab record` only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from personalab import tiers
from personalab.files import read_text, write
from personalab.paths import ROOT, artifacts_dir
from personalab.records.vectors import load_vectors, save_vectors


def save_artifact(name: str, content: Mapping[str, Tensor] | Any, **metadata: object) -> Path:
    """Write tensors (`name` ends in .safetensors, with metadata) or JSON for later sections; returns the path."""
    path = artifacts_dir(tiers.current_tier().folder) / name
    if path.suffix == ".safetensors":
        return save_vectors(path, content, **{"budget": tiers.budget(), "seed": tiers.GLOBAL_SEED, **metadata})
    write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path


def load_artifact(name: str) -> Any:
    """Tensors with their metadata, or JSON: from your own run, else the committed reference; says which.

    Raises:
        FileNotFoundError: if this tier has neither, naming the section to run.
    """
    path, whose = find_artifact(name, advice="run the section that its name begins with first")
    print(f"{name}: {whose}")
    return load_vectors(path) if path.suffix == ".safetensors" else json.loads(read_text(path))


def load_steering_block() -> int:
    """The block at which Sections 3 and 4 read and steer every trait: "steer" in `section_3_blocks.json`.

    Raises:
        FileNotFoundError: if this tier has no such file.
        ValueError: if the file is older than the rule that chooses one block for all traits.
    """
    block = load_artifact("section_3_blocks.json").get("steer")
    if not isinstance(block, int):
        raise ValueError(
            'section_3_blocks.json names no block for all traits ("steer"): it is older than the rule that chooses '
            "one. Run Section 3 again."
        )
    return block


def load_axis_of_section_1() -> tuple[Float[Tensor, "d"], int] | None:
    """Section 1's Assistant Axis (unit norm, towards the Assistant) and its block, if it fits the trait model.

    The trait organism is the embedded model plus a small adapter, so that model's axis fits it. Elsewhere the axis must
    be of the trait model itself; where Section 1 studied another model, or has not run, this is None and says why.
    """
    tier, name = tiers.current_tier(), "section_1_axis.safetensors"
    try:
        path, whose = find_artifact(name, advice="run Section 1 with the trait model first")
    except FileNotFoundError as error:
        print(f"{error} What needs it is left out.")
        return None
    tensors, metadata = load_vectors(path)
    made_with, block = metadata["model"], metadata["convention"].removeprefix("block ")
    if made_with != (tier.persona_model if tier.studies_organism else tier.trait_model):
        print(f"{name} is of {made_with}, not of {tier.trait_model}: what needs it is left out.")
        return None
    print(f"{name}: {whose}")
    return tensors["axis"], int(block)


def find_artifact(name: str, committed: Path | None = None, *, advice: str) -> tuple[Path, str]:
    """The file of your own run, else the committed reference, and in words which of the two it is.

    Args:
        committed: the reference (default: `name` in `reference_dir()`).
        advice: what to do where there is neither.

    Raises:
        FileNotFoundError: if this tier has neither, closing with the advice.
    """
    own, committed = artifacts_dir(tiers.current_tier().folder) / name, committed or reference_dir() / name
    if own.exists():
        return own, "your own run"
    if committed.exists():
        return committed, "the committed reference"
    raise FileNotFoundError(f"No {name} for the {tiers.current_tier().folder!r} tier: {advice}.")


def reference_dir() -> Path:
    """Folder of the current tier's committed artifacts; for a model of your own there are none."""
    return ROOT / "artifacts" / "reference" / tiers.current_tier().folder
