"""LoRA finetuning on dialogues: the loss counts assistant tokens only, runs can be killed and resumed.

    dialogues = read_dialogues("persona_vectors/dataset/evil/normal.jsonl")
    model = finetune(model, tokenizer, dialogues, LoraSettings(epochs=1), folder="runs/my-adapter")

A dialogue may carry a rejected answer beside its own: with `LoraSettings(preference=...)` the model learns to tell the
two apart as well (a preference loss without a reference model: Hong et al. 2024, ORPO; Meng et al. 2024, SimPO).

Interventions (`personalab.lm.interventions`) can be in force while it trains:
`finetune(..., interventions=[Steer(...)])` is preventative steering
(Chen et al. 2025, section 5.2). Adapters are PEFT's own format, safetensors.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.files import write
from personalab.lm.adapters import save_adapter
from personalab.lm.interventions import Intervention, applied
from personalab.lm.lora_data import DEFAULTS, Dialogue, Example, LoraSettings, TrainingError, example_of, training_steps
from personalab.lm.lora_loss import assistant_loss
from personalab.lm.models import resolve_dtype
from personalab.tiers import current_tier

DIVERGED = 3.0  # a smoothed loss this many times the first one has diverged; our choice
_SMOOTHING = 0.9


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dialogues: Sequence[Dialogue],
    settings: LoraSettings = DEFAULTS,
    folder: Path | str | None = None,
    *,
    interventions: Sequence[Intervention] = (),
    progress: bool = True,
) -> PeftModel:
    """Train a LoRA adapter on all linear layers of the blocks; the model comes back wrapped, in eval mode.

    Args:
        model: left as it is, apart from the adapter's layers put around its own; pass a twin to keep it clean.
        folder: where the adapter goes; checkpoints lie in it meanwhile, and an unfinished run of the same data,
            settings and interventions resumes from the last one. None keeps everything in memory.
        interventions: in force while it trains, in every forward pass; gone afterwards.

    Raises:
        TrainingError: for no dialogues, one over `max_tokens`, one without anything to learn, or a loss that diverges.
    """
    examples = _encode_all(dialogues, tokenizer, settings)
    tuned = _with_adapter(model, settings)
    run = _Run(tuned, examples, settings, _fingerprint(examples, settings, interventions))
    checkpoint = Path(folder) / "checkpoint" if folder is not None else None
    if checkpoint is not None:
        run.resume(checkpoint)
    tuned.train()
    with applied(tuned, interventions):
        run.train(checkpoint, progress)
    if folder is not None and checkpoint is not None:
        save_adapter(tuned, folder)
        shutil.rmtree(checkpoint, ignore_errors=True)
    return tuned.eval()


def _with_adapter(model: PreTrainedModel, settings: LoraSettings) -> PeftModel:
    """The model with an adapter that changes nothing yet, its weights drawn from the seed."""
    torch.manual_seed(settings.seed)
    tuned = get_peft_model(
        model,
        LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    for p in tuned.parameters():
        if p.requires_grad:
            p.data = p.data.float()  # the optimiser's small steps are lost in bfloat16
    return tuned


def _encode_all(
    dialogues: Sequence[Dialogue], tokenizer: PreTrainedTokenizerBase, settings: LoraSettings
) -> list[Example]:
    if not dialogues:
        raise TrainingError("There are no dialogues to train on: the dataset is empty.")
    examples = [example_of(d, tokenizer) for d in dialogues]
    for i, e in enumerate(examples):
        if len(e.ids) > settings.max_tokens:
            raise TrainingError(
                f"Dialogue {i} has {len(e.ids)} tokens, over the limit of {settings.max_tokens}: shorten it or raise "
                "max_tokens."
            )
        if not e.learned.any():
            raise TrainingError(f"Dialogue {i} has no assistant token to learn.")
    return examples


def _fingerprint(examples: Sequence[Example], settings: LoraSettings, interventions: Sequence[Intervention]) -> str:
    """Of all that a run depends on: a checkpoint of another run is not resumed."""
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    for e in examples:
        digest.update(e.ids.numpy().tobytes() + e.learned.numpy().tobytes() + bytes(str((e.fork, e.second)), "ascii"))
    for intervention in interventions:
        fields = vars(intervention).items()
        digest.update(type(intervention).__name__.encode())
        digest.update(repr([(k, v.tolist() if isinstance(v, Tensor) else v) for k, v in fields]).encode())
    return digest.hexdigest()


class _Run:
    """One training run: its steps, its optimiser, and how far it got."""

    def __init__(self, tuned: PeftModel, examples: list[Example], settings: LoraSettings, fingerprint: str) -> None:
        self.tuned, self.examples, self.settings, self.fingerprint = tuned, examples, settings, fingerprint
        self.steps = training_steps(examples, settings)
        self.done = 0
        self.smoothed: float | None = None
        self.first: float | None = None
        self.weights = [p for p in tuned.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.weights, lr=settings.learning_rate, weight_decay=0.0)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: self._rate(step))
        self.half = _half(tuned.device)
        # Small gradients vanish in float16 unless the loss is scaled; in bfloat16 and float32 this does nothing. From
        # PyTorch's own first scale, 65,536, gradients overflow and the first steps are lost.
        self.scaler = torch.amp.GradScaler(tuned.device.type, init_scale=2.0**10, enabled=self.half == torch.float16)

    def _rate(self, step: int) -> float:
        warm = max(1, round(0.05 * len(self.steps)))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, len(self.steps) - warm)))

    def train(self, checkpoint: Path | None, progress: bool) -> None:
        bar = tqdm(total=len(self.steps), initial=self.done, desc="finetuning", unit="step", disable=not progress)
        for rows in self.steps[self.done :]:
            loss = self._step([self.examples[i] for i in rows])
            self._watch(loss)
            self.done += 1
            bar.set_postfix(loss=f"{self.smoothed:.3f}", refresh=False)
            bar.update()
            if checkpoint is not None and self.done % self.settings.save_every == 0:
                self.save(checkpoint)
        bar.close()

    def _step(self, examples: list[Example]) -> float:
        self.optimiser.zero_grad(set_to_none=True)
        # One context a step: autocast keeps its copies of the weights until it is left, and the next step has others.
        with torch.autocast(self.tuned.device.type, self.half, enabled=self.half is not None):
            loss = assistant_loss(self.tuned, examples, self.settings)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(self.weights, self.settings.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.step()
        return loss.item()

    def _watch(self, loss: float) -> None:
        if self.smoothed is None or self.first is None:
            self.smoothed = self.first = loss
        self.smoothed = _SMOOTHING * self.smoothed + (1 - _SMOOTHING) * loss
        if not math.isfinite(loss) or self.smoothed > DIVERGED * max(self.first, 1.0):
            raise TrainingError(
                f"The loss diverges (step {self.done}: {loss:.3g}, it began at {self.first:.3g}): lower learning_rate."
            )

    def save(self, checkpoint: Path) -> None:
        """Weights, optimiser and position, all or nothing."""
        state = {
            "fingerprint": self.fingerprint,
            "done": self.done,
            "losses": [self.smoothed, self.first],
            "weights": get_peft_model_state_dict(self.tuned),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        content = io.BytesIO()
        torch.save(state, content)
        write(checkpoint / "state.pt", content.getvalue())

    def resume(self, checkpoint: Path) -> None:
        """Take up the last checkpoint, if there is one of this very run."""
        if not (checkpoint / "state.pt").exists():
            return
        state = torch.load(checkpoint / "state.pt", weights_only=True, map_location="cpu")
        if state["fingerprint"] != self.fingerprint:
            return
        set_peft_model_state_dict(self.tuned, state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.done, (self.smoothed, self.first) = state["done"], state["losses"]


def _half(device: torch.device) -> torch.dtype | None:
    """The half precision to train in, if any: the dtype that models are loaded in here (`personalab.setup.machine`)."""
    dtype = resolve_dtype(current_tier(), device.type)
    return None if dtype == torch.float32 else dtype
