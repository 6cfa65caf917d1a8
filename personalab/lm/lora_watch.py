"""What watches a training run: its progress, a loss that diverges, and which checkpoint is whole."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from personalab.lm.lora_data import TrainingError

DIVERGED = 3.0  # a smoothed loss this many times the first one has diverged; our choice
_SMOOTHING = 0.9
_PARTS = ("adapter_model", "optimizer", "scheduler")  # what the names of files begin with that resuming needs


class Watch(TrainerCallback):
    """A progress bar with the smoothed loss; ends a run that diverges. Resumed, it goes on from what was logged."""

    def __init__(self, progress: bool) -> None:
        self.progress = progress
        self.first: float | None = None
        self.smoothed = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take up what an interrupted run logged."""
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="finetuning",
            unit="step",
            disable=not (self.progress and state.is_world_process_zero),
        )
        for entry in state.log_history:
            self._see(entry)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        """Refuse to go on where the loss is not finite, or far above where it began."""
        if "loss" not in logs:
            return
        self._see(logs)
        if not math.isfinite(logs["loss"]) or self.smoothed > DIVERGED * max(self.first or 0.0, 1.0):
            raise TrainingError(
                f"The loss diverges (step {state.global_step}: {logs['loss']:.3g}, it began at {self.first:.3g}): "
                "lower learning_rate."
            )
        self.bar.set_postfix(loss=f"{self.smoothed:.3f}", refresh=False)
        self.bar.update()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Leave the bar as it is."""
        self.bar.close()

    def _see(self, logs: dict[str, float]) -> None:
        if (loss := logs.get("loss")) is None:
            return
        if self.first is None:
            self.first = self.smoothed = loss
        self.smoothed = _SMOOTHING * self.smoothed + (1 - _SMOOTHING) * loss


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest of the Trainer's checkpoints that is whole; names the damaged file of each that it passes over."""
    found = [p for p in folder.glob("checkpoint-*") if p.name.partition("-")[2].isdecimal()]
    for path in sorted(found, key=lambda p: -int(p.name.partition("-")[2])):
        if not (damage := damage_of(path)):
            return path
        print(f"{damage}: training goes on from the checkpoint before it, or begins anew.", flush=True)
    return None


def damage_of(checkpoint: Path) -> str | None:
    """What keeps a checkpoint from being resumed, naming the file; None if nothing does.

    Its state is written last and is JSON; PyTorch's files are zip archives with checksums.
    """
    state = checkpoint / TRAINER_STATE_NAME
    try:
        json.loads(state.read_text(encoding="utf-8"))
        if gone := [part for part in _PARTS if not list(checkpoint.glob(f"{part}*"))]:
            return f"{checkpoint / gone[0]} is missing"
        for path in sorted(checkpoint.iterdir()):
            if problem := _problem_of(path):
                return f"{path} {problem}"
    except FileNotFoundError:
        return f"{state} is missing"
    except (ValueError, OSError) as error:
        return f"{state} is damaged ({error})"
    return None


def _problem_of(path: Path) -> str | None:
    try:
        if path.suffix in (".pt", ".pth"):
            with zipfile.ZipFile(path) as archive:
                return "is damaged" if archive.testzip() else None
        if path.suffix == ".safetensors":
            bad = [key for key, t in load_file(path).items() if not torch.isfinite(t).all()]
            return f"holds NaN or infinity in {bad[0]!r}" if bad else None
    except (OSError, zipfile.BadZipFile, SafetensorError) as error:
        return f"is damaged ({error})"
    return None
