"""Training configurations with the keys of the paper's repository: its own `configs/*.json` load and mean the same.

    plan = load_config("configs/train_instruct_7b_steer.json")
    finetune(model, tokenizer, plan.dialogues(), plan.settings, plan.folder, interventions=plan.interventions())

`layers` count as there: hidden_states indices, so that layer 20 is the output of block 19, and row 20 of a `.pt` file
of shape [layers + 1, d] is added or taken out there. Of our own safetensors, [layers, d], that is row 19.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from personalab.lm.interventions import Ablate, Intervention, Steer
from personalab.lm.lora_data import LINEAR, Dialogue, LoraSettings, read_dialogues
from personalab.records.clones import PERSONA_VECTORS, clone_of
from personalab.records.schema import DataError, read_as
from personalab.records.torch_files import load_pt
from personalab.records.vectors import load_vectors


class SteeringConfig(BaseModel, extra="forbid"):
    """What is done to the residual stream while it trains; a coefficient means something for `steer` only."""

    steering_vector_path: str
    type: Literal["steer", "ablate"]
    steering_coef: float = 1.0
    layers: list[int] = Field(min_length=1)


class TrainingConfig(BaseModel, extra="forbid"):
    """The upstream keys. Defaults are its file's; what we do not do is refused, what does not change training ignored.

    Ignored: `push_to_private` and `merge_before_push` (nothing is uploaded), `beta` (of another loss), `logging_steps`
    (every step is logged), `finetuned_model_id`.
    """

    model: str
    training_file: str | list[str]
    test_file: None = None
    max_seq_length: int = 2048
    load_in_4bit: Literal[False] = False
    loss: Literal["sft"] = "sft"
    is_peft: Literal[True] = True
    target_modules: list[str] = list(LINEAR)
    lora_bias: Literal["none"] = "none"
    r: int = 32
    lora_alpha: int = 64
    lora_dropout: float = 0.0
    use_rslora: bool = True
    merge_before_push: bool = False
    push_to_private: bool = True
    finetuned_model_id: str | None = None
    epochs: int = 1
    max_steps: int | None = None
    per_device_train_batch_size: int = 2
    gradient_accumulation_steps: int = 8
    warmup_steps: int = 5
    learning_rate: float = 1e-5
    logging_steps: int = 1
    optim: str = "adamw_8bit"
    weight_decay: float = 0.01
    lr_scheduler_type: Literal["linear", "cosine"] = "linear"
    seed: int = 0
    beta: float = 0.1
    save_steps: int = 5000
    output_dir: str
    train_on_responses_only: Literal[True] = True
    enable_steering_during_training: bool = False
    steering_config: SteeringConfig | None = None

    @model_validator(mode="after")
    def _steers_by_something(self) -> TrainingConfig:
        if self.enable_steering_during_training and self.steering_config is None:
            raise ValueError("enable_steering_during_training is true, but there is no steering_config")
        return self


@dataclass(frozen=True)
class Plan:
    """A configuration, and what it means here."""

    config: TrainingConfig
    path: Path

    @property
    def settings(self) -> LoraSettings:
        """In this engine's words."""
        c = self.config
        return LoraSettings(
            rank=c.r,
            alpha=c.lora_alpha,
            rslora=c.use_rslora,
            dropout=c.lora_dropout,
            targets=tuple(c.target_modules),
            learning_rate=c.learning_rate,
            schedule=c.lr_scheduler_type,
            warmup=float(c.warmup_steps),
            weight_decay=c.weight_decay,
            optimiser=_optimiser(c.optim),
            epochs=c.epochs,
            max_steps=c.max_steps,
            batch_size=c.per_device_train_batch_size,
            accumulation=c.gradient_accumulation_steps,
            max_tokens=c.max_seq_length,
            seed=c.seed,
            save_every=c.save_steps,
        )

    @property
    def folder(self) -> Path:
        """Where the adapter goes: `output_dir` beside the working folder."""
        return Path(self.config.output_dir)

    def dialogues(self) -> list[Dialogue]:
        """Of all training files, in their order.

        Raises:
            DataError: for a missing file, or a malformed line, by name and number.
        """
        files = self.config.training_file
        return [d for name in ([files] if isinstance(files, str) else files) for d in read_dialogues(self._find(name))]

    def interventions(self) -> list[Intervention]:
        """In force during training; none unless `enable_steering_during_training`.

        Raises:
            DataError: if the vectors cannot be read, or have no row for a layer.
        """
        steering = self.config.steering_config
        if not self.config.enable_steering_during_training or steering is None:
            return []
        found: list[Intervention] = []
        for layer in steering.layers:
            vector = _row(self._find(steering.steering_vector_path), layer)
            if steering.type == "steer":
                found.append(Steer(layer - 1, vector, steering.steering_coef))
            else:
                found.append(Ablate(layer - 1, vector))
        return found

    def _find(self, name: str) -> Path:
        """A file that it names: as it stands, beside the configuration, above it, or in `persona_vectors/`."""
        places = [Path(name), self.path.parent / name, self.path.parent.parent / name, PERSONA_VECTORS / name]
        places += [clone / name] if (clone := clone_of(PERSONA_VECTORS)) else []
        for place in places:
            if place.exists():
                return place
        raise DataError(f"{self.path}: {name} is in none of {', '.join(str(p.parent) for p in places)}.")


def load_config(path: Path | str) -> Plan:
    """Read a configuration.

    Raises:
        DataError: for a file that is no such configuration, or asks for what is not done here; names the field.
    """
    return Plan(read_as(path, TrainingConfig), Path(path))


def _optimiser(name: str) -> str:
    """The 8-bit AdamW needs bitsandbytes; elsewhere its 32-bit original takes the same steps, in more memory."""
    if "8bit" in name and importlib.util.find_spec("bitsandbytes") is None:
        return "adamw_torch"
    return name


def _row(path: Path, layer: int) -> Float[Tensor, "d"]:
    """The vector of one layer (a hidden_states index) in an upstream or one of our own files."""
    if path.suffix == ".safetensors":
        rows, at = load_vectors(path)[0]["vectors"], layer - 1
    else:
        rows, at = load_pt(path), layer
    vector: Any = rows
    if isinstance(rows, dict):
        vector = next((rows[k] for k in (layer, str(layer)) if k in rows), None)
    elif isinstance(rows, Tensor) and rows.ndim == 2:
        vector = rows[at] if 0 <= at < len(rows) else None
    if layer < 1 or not isinstance(vector, Tensor) or vector.ndim != 1:
        raise DataError(f"{path} has no vector for layer {layer} (hidden_states index, from 1).")
    return vector.float()
