"""Finetuning on your own file, and what it does along the three main traits.

python -m personalab finetune my.jsonl        # a figure and a table, in runs/finetune/my/
python -m personalab finetune config.json     # a configuration with the upstream keys: trains an adapter
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from personalab.figures.finetuning import Panel, shifts_figure
from personalab.files import write
from personalab.lm.finetuning import finetune
from personalab.lm.finetuning_config import load_config
from personalab.lm.lora_data import read_dialogues
from personalab.lm.models import load_model
from personalab.lm.unsloth_models import load_unsloth
from personalab.paths import workplace
from personalab.records.datasets import OWN
from personalab.records.rows import MAIN_TRAITS
from personalab.records.schema import DataError
from personalab.studies.finetuning_report import Shifts, along, load_shifts, mean_scores, shifts_of
from personalab.studies.finetuning_study import shift_of, study_folder
from personalab.studies.finetuning_subject import Subject, load_subject
from personalab.tiers import current_tier, use_tier


def finetune_file(path: Path | str, subject: Subject | None = None, folder: Path | None = None) -> dict[str, Any]:
    """Finetune on the dialogues of a JSON Lines file, and put the three traits' shifts into one figure.

    Writes `shifts.png` and `result.json` to `folder` (default: `runs/finetune/<name>/`); the figure has the recorded
    datasets behind your own, where the tier has a study. Returns, by trait, the shift and the scores before and after.

    Raises:
        DataError, TrainingError: for a malformed file, naming the line.
    """
    path = Path(path)
    dialogues = read_dialogues(path)
    subject = subject or load_subject()
    folder = folder or workplace() / "runs" / "finetune" / path.stem
    before = mean_scores(subject.scores(subject.model))
    found = {"category": path.stem, "version": "yours", **shift_of(subject, dialogues)}
    own = shifts_of([found])
    at_block = {t: subject.vectors[t][subject.block] for t in MAIN_TRAITS}
    summary = {
        t: {
            "shift": round(float(along(own.states, at_block[t])[0]), 3),
            "before": round(before[t], 1),
            "after": round(float(own.scores[t][0]), 1),
        }
        for t in MAIN_TRAITS
    }
    static, _, _ = shifts_figure(*_figure(own, at_block, summary))
    folder.mkdir(parents=True, exist_ok=True)
    static.savefig(folder / "shifts.png", dpi=100, bbox_inches="tight")
    write(folder / "result.json", json.dumps({"traits": summary, **found}) + "\n")
    for trait, row in summary.items():
        print(f"{trait}: shift {row['shift']:+.2f}, score {row['before']:.0f} before, {row['after']:.0f} after")
    print(f"figure and numbers: {folder}")
    return summary


def _figure(
    own: Shifts, vectors: dict[str, Float[Tensor, "d"]], summary: dict[str, Any]
) -> tuple[dict[str, Panel], list[str], list[str], list[bool]]:
    """Recorded finetunes, if there are any, and yours with a ring."""
    try:
        tables = [load_shifts(study_folder()), own]
    except DataError:
        tables = [own]
    categories = [c for t in tables for c in t.categories]
    versions = [v for t in tables for v in t.versions]
    panels = {
        trait: Panel(
            np.concatenate([along(t.states, vectors[trait]) for t in tables]),
            np.concatenate([t.scores[trait] for t in tables]),
            np.array([c == OWN[trait] for c in categories]),
            f"yours: shift {summary[trait]['shift']:+.1f}, score {summary[trait]['after']:.0f}",
        )
        for trait in MAIN_TRAITS
    }
    return panels, categories, versions, [i == len(tables) - 1 for i, t in enumerate(tables) for _ in t.categories]


def run_config(path: Path, folder: Path | None = None, model_id: str | None = None, unsloth: bool = False) -> Path:
    """Train the adapter that a configuration describes; returns its folder.

    Args:
        folder: in place of the configuration's `output_dir`.
        model_id: in place of its `model`; "trait" is the current tier's.
        unsloth: Unsloth loads the model and makes the adapter (needs a GPU).
    """
    plan = load_config(path)
    dialogues, interventions = plan.dialogues(), plan.interventions()  # before a model is loaded: files may be missing
    wanted = model_id or plan.config.model
    wanted = current_tier().trait_model if wanted == "trait" else wanted
    model: PreTrainedModel | PeftModel
    if unsloth:
        model, tokenizer = load_unsloth(wanted, plan.settings)
    else:
        if wanted != current_tier().trait_model:
            use_tier(current_tier().name, trait_model=wanted)
        model, tokenizer = load_model("trait")
    folder = folder or plan.folder
    finetune(model, tokenizer, dialogues, plan.settings, folder, interventions=interventions)
    return folder


def make(file: Path, folder: Path | None = None, model: str | None = None, unsloth: bool = False) -> None:
    """Finetune on a JSON Lines file of dialogues, or as a configuration says."""
    if file.suffix == ".json":
        print(f"adapter: {run_config(file, folder, model, unsloth)}")
    else:
        finetune_file(file, folder=folder)
