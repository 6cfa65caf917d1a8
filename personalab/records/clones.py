"""Clones of the papers' repositories in place of this course's data.

    PERSONALAB_ASSISTANT_AXIS=~/assistant-axis PERSONALAB_PERSONA_VECTORS=~/persona_vectors python -m personalab run

What a clone has is read from it; what it lacks (role groups, jailbreaks, capability items, graded prompts, …) is this
course's own, and a line says so.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from personalab.paths import ROOT
from personalab.records.schema import DataError
from personalab.tiers import current_tier

ASSISTANT_AXIS, PERSONA_VECTORS = ROOT / "assistant-axis", ROOT / "persona_vectors"  # this course's own
VARIABLES = {ASSISTANT_AXIS: "PERSONALAB_ASSISTANT_AXIS", PERSONA_VECTORS: "PERSONALAB_PERSONA_VECTORS"}


def clone_of(ours: Path) -> Path | None:
    """The clone that the environment names for `ASSISTANT_AXIS` or `PERSONA_VECTORS`, if it names one.

    Raises:
        DataError: if it names what is no folder.
    """
    variable = VARIABLES.get(ours, "")
    named = os.environ.get(variable)
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise DataError(f"{variable} names {folder}, which is no folder: name a clone of {ours.name}, or unset it.")
    return folder


def root_of(root: Path | str | None, ours: Path) -> Path:
    """The folder in which upstream's kinds of files lie: `root`, else the clone that the environment names, else ours.

    Raises:
        DataError: if that is no folder.
    """
    folder = Path(root) if root is not None else clone_of(ours) or ours
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: name a clone of {ours.name}.")
    return folder


def located(part: str, root: Path | str | None, ours: Path) -> Path:
    """Where what upstream lacks is read: in `root` (default: see `root_of`) if it has it, else in ours.

    Args:
        part: a path below the root, such as "data/roles/groups.json" or "jailbreaks".

    Raises:
        DataError: if the root is no folder.
    """
    root = root_of(root, ours)
    if not (root / part).exists() and (ours / part).exists():
        print(f"{part}: this course's own ({root.name} has none)")
        return ours / part
    return root / part


def short_name(model_id: str) -> str:
    """What a model is called in a sentence: "Gemma" for google/gemma-2-27b-it, "Llama" for meta-llama/Llama-3.3-70B."""
    name = model_id.rstrip("/").rpartition("/")[2]
    found = re.match(r"[A-Za-z]+", name)
    return found[0][:1].upper() + found[0][1:] if found else name


def named(text: str, model_name: str | None = None) -> str:
    """An instruction with its `{model_name}` filled in (default: the current tier's persona model)."""
    if "{model_name}" not in text:
        return text
    return text.replace("{model_name}", model_name or short_name(current_tier().persona_model))
