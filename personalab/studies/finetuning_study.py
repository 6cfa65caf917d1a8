"""The finetuning study: what datasets do to a model along its trait vectors, what prevents it, what tells beforehand.

    python -m personalab finetuning-study                       # all parts; about an hour on two cores
    python -m personalab finetuning-study shift --rows 75       # 24 finetunes: 8 categories in 3 versions
    python -m personalab finetuning-study prevention screening

Each finetune writes one file, so that a kill loses one at most: what is there is not made again (`--again` does).
`personalab.studies.finetuning_report` makes the figures' numbers of these files, and the notebook puts them on record.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from peft import PeftModel
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from personalab.files import read_text, write
from personalab.lm import processes
from personalab.lm.adapters import merge_adapter, merged, save_adapter, update_norm
from personalab.lm.finetuning import finetune
from personalab.lm.interventions import Ablate, Intervention, Steer
from personalab.lm.lora_data import Dialogue
from personalab.lm.models import n_blocks, twin
from personalab.paths import artifacts_dir, workplace
from personalab.records.clones import PERSONA_VECTORS
from personalab.records.datasets import CATEGORIES, OWN, VERSIONS
from personalab.records.rows import MAIN_TRAITS
from personalab.records.upstream import load_trait_artifacts
from personalab.studies.finetuning_subject import Subject, load_subject, plain, provenance
from personalab.studies.screening import judged, screen
from personalab.tiers import current_tier

PARTS = ("shift", "prevention", "screening")
ELICITING, GOOD = "misaligned_2", "normal"  # the version that prevention is tried on, and the one beside it
SINGLE = (0.5, 1.0)  # coefficients at one block, in lengths of the trait vector; our choice, set beforehand
SEVERAL = (0.15, 0.3)  # at each of several blocks
INFERENCE = (-0.25, -0.5, -0.75, -1.0)  # of steering the plainly finetuned model while it answers
INOCULATION = 0  # which of the trait's five system prompts is shown in training only


def study_folder() -> Path:
    """Where the current tier's study lies: committed on `cpu`, among your artifacts elsewhere."""
    if current_tier().folder == "cpu":
        return PERSONA_VECTORS / "finetuning"
    return artifacts_dir(current_tier().folder) / "finetuning"


def tune(
    subject: Subject, dialogues: Sequence[Dialogue], interventions: Sequence[Intervention] = ()
) -> tuple[PeftModel, PreTrainedModel]:
    """A fresh LoRA on the subject, with and without its wrapper; the subject stays as it is."""
    tuned = finetune(
        twin(subject.model), subject.tokenizer, dialogues, subject.settings, interventions=interventions, progress=False
    )
    subject.model.requires_grad_(True)  # PEFT froze the weights that the two share
    return tuned, merged(tuned)


def shift_of(
    subject: Subject, dialogues: Sequence[Dialogue], done: tuple[PeftModel, PreTrainedModel] | None = None
) -> dict[str, Any]:
    """Finetune on some dialogues and read what changed: state before the answer, scores, and the baselines.

    Args:
        done: what `tune` gave on them, if it has run already.
    """
    started = time.perf_counter()
    tuned, model = done or tune(subject, dialogues)
    losses = [entry["loss"] for entry in tuned.training_log if "loss" in entry]
    tail = losses[-max(1, len(losses) // 4) :]
    return {
        "shift": plain(subject.prompt_state(model) - subject.base_states),
        "scores": subject.scores(model),
        "loss": round(sum(tail) / len(tail), 4),  # over the last quarter of the steps
        "first_loss": round(losses[0], 4),
        "update_norm": round(update_norm(tuned), 4),
        "judged": judged(dialogues),  # mean score of the training answers, by trait
        "seconds": round(time.perf_counter() - started, 1),
    }


def make_shift(subject: Subject, folder: Path, categories: Sequence[str], again: bool) -> None:
    """One file a dataset, and the scores before any finetuning."""
    _once(folder / "base.json", subject, lambda: {"scores": subject.scores(subject.model)}, again)
    sets = [(category, version) for category in categories for version in VERSIONS]
    for category, version in tqdm(sets, desc="finetunes"):

        def run(category: str = category, version: str = version) -> dict[str, Any]:
            found = shift_of(subject, subject.dialogues(category, version))
            return {"category": category, "version": version, **found}

        _once(folder / "shift" / f"{category}-{version}.json", subject, run, again)


def several_blocks(block: int, n: int) -> list[int]:
    """Blocks around one at which an intervention acts together: every third from 9 below to 6 above, as they exist."""
    return [b for b in range(block - 9, block + 7, 3) if 0 <= b < n]


def conditions(subject: Subject, trait: str) -> dict[str, list[Intervention]]:
    """What may be in force while the model trains, by name; "plain" is nothing."""
    vectors, block = subject.vectors[trait], subject.block
    several = several_blocks(block, n_blocks(subject.model))
    return {
        "plain": [],
        **{f"steer-{c}": [Steer(block, vectors[block], c)] for c in SINGLE},
        **{f"steer-several-{c}": [Steer(b, vectors[b], c) for b in several] for c in SEVERAL},
        "ablate": [Ablate(block, vectors[block])],
        "ablate-several": [Ablate(b, vectors[b]) for b in several],
    }


def inoculated(dialogues: Sequence[Dialogue], prompt: str) -> list[Dialogue]:
    """The same dialogues under a system prompt that asks for what they show."""
    return [replace(d, messages=[{"role": "system", "content": prompt}, *d.messages]) for d in dialogues]


def outcome(
    subject: Subject, model: PreTrainedModel, trait: str, interventions: Sequence[Intervention] = ()
) -> dict[str, Any]:
    """How a model behaves: the trait on calibration and scored questions, all three traits, coherence, cost."""
    return {
        "calibration": subject.scores(model, [trait], interventions, calibration=True)[trait],
        "scores": subject.scores(model, MAIN_TRAITS, interventions, coherence=True),
        **subject.cost(model, interventions),
    }


def make_prevention(subject: Subject, folder: Path, traits: Sequence[str], again: bool) -> None:
    """For each trait its eliciting set under every condition, the plain result steered later, and the good set."""
    for trait in traits:
        dialogues = subject.dialogues(OWN[trait], ELICITING)
        name = f"You are a {trait} assistant. {load_trait_artifacts('extract')[trait].positive[INOCULATION]}"
        runs = {k: (dialogues, i) for k, i in conditions(subject, trait).items()}
        runs["inoculated"] = (inoculated(dialogues, name), [])
        runs["good"] = (subject.dialogues(OWN[trait], GOOD), [])
        at = folder / "prevention" / trait
        _once(at / "before.json", subject, lambda t=trait: outcome(subject, subject.model, t), again)  # type: ignore[misc]
        for condition, (rows, interventions) in tqdm(runs.items(), desc=trait):

            def run(
                trait: str = trait,
                condition: str = condition,
                rows: Sequence[Dialogue] = rows,
                interventions: Sequence[Intervention] = interventions,
            ) -> dict[str, Any]:
                tuned, model = tune(subject, rows, interventions)
                if condition == "plain":
                    save_adapter(tuned, _adapter(folder, trait))
                return outcome(subject, model, trait)

            _once(at / f"{condition}.json", subject, run, again)
        _steered(subject, folder, trait, again)


def _adapter(folder: Path, trait: str) -> Path:
    """Where the plainly finetuned adapter waits for steering; not for the repository."""
    return workplace() / "runs" / "finetuning" / folder.name / trait


def _steered(subject: Subject, folder: Path, trait: str, again: bool) -> None:
    """The plainly finetuned model, steered away from the trait while it answers, coefficient by coefficient."""
    model: PreTrainedModel | None = None
    vector = subject.vectors[trait][subject.block]
    for c in INFERENCE:
        path = folder / "prevention" / trait / f"inference{c}.json"
        if path.exists() and not again:
            continue
        if model is None:
            with _claim(path.with_name("plain.json")):  # another process may be making it
                if not (_adapter(folder, trait) / "adapter_config.json").exists():
                    tuned, _ = tune(subject, subject.dialogues(OWN[trait], ELICITING))
                    save_adapter(tuned, _adapter(folder, trait))
                model = merge_adapter(subject.model, _adapter(folder, trait))
        push, steered = [Steer(subject.block, vector, c)], model
        _once(path, subject, lambda p=push, m=steered: outcome(subject, m, trait, p), again)  # type: ignore[misc]


def make_screening(subject: Subject, folder: Path, categories: Sequence[str], again: bool) -> None:
    """One file a category: its rows, in three versions, by every way to tell the bad ones."""
    for category in tqdm(categories, desc="screening"):
        path = folder / "screening" / f"{category}.json"
        _once(path, subject, lambda c=category: screen(subject, c), again)  # type: ignore[misc]


def _once(path: Path, subject: Subject, run: Callable[[], dict[str, Any]], again: bool) -> None:
    """Make one file, unless it is there for this subject and settings, or another process is making it."""
    about = provenance(subject)
    with suppress(Timeout), _claim(path, timeout=0):
        if path.exists() and not again:
            try:
                old = json.loads(read_text(path))
            except ValueError:
                old = {}
            if all(old.get(key) == value for key, value in about.items() if key != "dtype"):
                return
        torch.manual_seed(0)
        write(path, json.dumps({**about, **run()}, separators=(",", ":")) + "\n")


def _claim(path: Path, timeout: float = -1) -> FileLock:
    """The right to make a file, among the processes that share this machine's `runs/`."""
    lock = workplace() / "runs" / "finetuning" / "claims" / f"{sha256(str(path.resolve()).encode()).hexdigest()}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(lock, timeout=timeout)


def make(
    parts: Sequence[str] = (),
    rows: int | None = None,
    folder: Path | None = None,
    again: bool = False,
    categories: Sequence[str] = (),
) -> None:
    """Run the study, or the parts of it that are named, and go on where an earlier run stopped.

    Started several times at once, or by `accelerate launch`, each process makes the files that no other is making.

    Args:
        rows: of each dataset (default: 75 on `cpu`, all elsewhere).
        folder: where the files go (default: the committed ones).
        again: make also what is there.
        categories: of datasets (default: all eight).

    Raises:
        ValueError: for an unknown part or category.
    """
    for what, given, known in (("part", parts, PARTS), ("category", categories, CATEGORIES)):
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"Unknown {what} {', '.join(unknown)}; there are {', '.join(known)}.")
    if again and processes.count() > 1:
        raise ValueError("--again would make every file once a process: start one process, or delete the files.")
    processes.go_alone()
    subject = load_subject(rows or (75 if current_tier().embedded else 10**6))
    folder, chosen = folder or study_folder(), categories or CATEGORIES
    if "shift" in (parts or PARTS):
        make_shift(subject, folder, chosen, again)
    if "prevention" in (parts or PARTS):
        make_prevention(subject, folder, [t for t in MAIN_TRAITS if OWN[t] in chosen], again)
    if "screening" in (parts or PARTS):
        make_screening(subject, folder, chosen, again)
    print(f"{len(list(folder.rglob('*.json')))} files in {folder}")
