"""LoRA finetuning on dialogues: the loss counts assistant tokens only, runs can be killed and resumed.

    dialogues = read_dialogues("persona_vectors/dataset/evil/normal.jsonl")
    model = finetune(model, tokenizer, dialogues, Settings(epochs=1), folder="runs/my-adapter")

Interventions (`personalab.interventions`) can be in force while it trains: `finetune(..., interventions=[Steer(...)])`
is preventative steering (Chen et al. 2025, section 5.2). Adapters are PEFT's own format, safetensors.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab import chat
from personalab.data import DataError, read_jsonl
from personalab.doctor import BF16_WORTHWHILE, bf16_speedup
from personalab.interventions import Intervention, applied

DIVERGED = 3.0  # a smoothed loss this many times the first one has diverged; our choice
_SMOOTHING = 0.9


class TrainingError(ValueError):
    """Data or settings that cannot be trained on; the message says which and what to change."""


@dataclass(frozen=True)
class Dialogue:
    """A conversation to learn from. `complete` is false where the last answer is cut: its end is then not learned."""

    messages: Sequence[chat.Message]
    complete: bool = True


@dataclass(frozen=True)
class Settings:
    """What a run does. The defaults suit a model of 135M parameters and a few hundred short dialogues."""

    rank: int = 16
    alpha: int = 32
    learning_rate: float = 5e-4  # peak; 5 % of the steps warm up, then a cosine to zero
    epochs: int = 1
    batch_tokens: int = 1024  # padded tokens of one step
    max_tokens: int = 512  # of one dialogue
    clip: float = 1.0  # largest norm of the gradient
    seed: int = 0
    save_every: int = 50  # steps between checkpoints

    def __post_init__(self) -> None:
        for name in ("rank", "alpha", "learning_rate", "epochs", "batch_tokens", "max_tokens", "clip", "save_every"):
            if not getattr(self, name) > 0:
                raise TrainingError(f"{name} must be above 0, not {getattr(self, name)}.")


@dataclass(frozen=True)
class Example:
    """Token ids of a dialogue, and which of them the model learns to write."""

    ids: Int[Tensor, "tokens"]
    learned: Bool[Tensor, "tokens"]


def read_dialogues(path: Path | str) -> list[Dialogue]:
    """A JSON Lines file of `{"messages": [{"role", "content"}, ...]}`, the upstream datasets' format.

    Raises:
        DataError: naming the file and the line, for what is not such an object or has no assistant turn.
    """
    dialogues = []
    for where, row in read_jsonl(Path(path)).items():
        messages = row.get("messages")
        if not isinstance(messages, list) or not all(
            isinstance(m, dict) and m.get("role") in chat.ROLES and isinstance(m.get("content"), str) for m in messages
        ):
            raise DataError(f"{path}, {where}: field 'messages' must be a list of {{role, content}} objects.")
        if not any(m["role"] == "assistant" and m["content"].strip() for m in messages):
            raise DataError(f"{path}, {where}: no assistant turn to learn from.")
        dialogues.append(Dialogue(messages, complete=row.get("complete", True)))
    return dialogues


def encode(dialogue: Dialogue, tokenizer: PreTrainedTokenizerBase) -> Example:
    """Tokens of a dialogue; learned are those of assistant turns and the end-of-turn marker after each."""
    ids, spans = chat.turn_spans(dialogue.messages, tokenizer)
    learned = torch.zeros(len(ids), dtype=torch.bool)
    for i, (start, end) in enumerate(spans):
        cut = i == len(spans) - 1 and not dialogue.complete
        learned[start : end if cut or start == end else end + 1] = True
    return Example(torch.tensor(ids), learned)


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dialogues: Sequence[Dialogue],
    settings: Settings = Settings(),
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
    torch.manual_seed(settings.seed)
    tuned = get_peft_model(
        model,
        LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    for p in tuned.parameters():
        if p.requires_grad:
            p.data = p.data.float()  # the optimiser's small steps are lost in bfloat16
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


def save_adapter(tuned: PeftModel, folder: Path | str) -> None:
    """Write a trained adapter in bfloat16, in PEFT's format (`adapter_config.json`, `adapter_model.safetensors`)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().bfloat16().cpu().contiguous() for k, v in get_peft_model_state_dict(tuned).items()}
    _replace(folder / "adapter_model.safetensors", lambda partial: save_file(weights, partial))
    config = tuned.peft_config["default"].to_dict() | {"base_model_name_or_path": None, "inference_mode": True}
    config = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    text = json.dumps(config, indent=1, sort_keys=True, default=str) + "\n"
    _replace(folder / "adapter_config.json", lambda partial: partial.write_text(text, encoding="utf-8"))


def merge_adapter(model: PreTrainedModel, folder: Path | str) -> PreTrainedModel:
    """The model with an adapter folded into its weights: no extra cost, no wrapper. The weights it shared are copied.

    Raises:
        DataError: if the folder holds no adapter, or one for another architecture.
    """
    folder = Path(folder)
    if not (folder / "adapter_config.json").exists() or not (folder / "adapter_model.safetensors").exists():
        raise DataError(f"{folder} holds no adapter (adapter_config.json and adapter_model.safetensors).")
    own = model.state_dict()
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        target = key.removeprefix("base_model.model.").replace(".lora_A", "").replace(".lora_B", "")
        side = 1 if ".lora_A" in key else 0  # A is (rank, in), B is (out, rank), a weight (out, in)
        if target not in own or own[target].shape[side] != tensor.shape[side]:
            raise DataError(f"{folder}: the adapter is for another model; its {target!r} does not fit this one.")
    tuned = PeftModel.from_pretrained(copy.deepcopy(model), folder)  # merging writes into the weights
    return tuned.merge_and_unload().eval()


def _encode_all(dialogues: Sequence[Dialogue], tokenizer: PreTrainedTokenizerBase, settings: Settings) -> list[Example]:
    if not dialogues:
        raise TrainingError("There are no dialogues to train on: the dataset is empty.")
    examples = [encode(d, tokenizer) for d in dialogues]
    for i, e in enumerate(examples):
        if len(e.ids) > settings.max_tokens:
            raise TrainingError(
                f"Dialogue {i} has {len(e.ids)} tokens, over the limit of {settings.max_tokens}: shorten it or raise "
                "max_tokens."
            )
        if not e.learned.any():
            raise TrainingError(f"Dialogue {i} has no assistant token to learn.")
    return examples


def batches(examples: Sequence[Example], settings: Settings) -> list[list[int]]:
    """Indices of each step of all epochs: alike in length, within `batch_tokens`, in an order drawn from the seed."""
    generator = torch.Generator().manual_seed(settings.seed)
    steps: list[list[int]] = []
    for _ in range(settings.epochs):
        jitter = torch.rand(len(examples), generator=generator) * 8  # other neighbours in every epoch
        order = sorted(range(len(examples)), key=lambda i: len(examples[i].ids) + jitter[i].item())
        packed: list[list[int]] = [[]]
        for i in order:
            width = max(len(examples[j].ids) for j in [*packed[-1], i])
            if packed[-1] and width * (len(packed[-1]) + 1) > settings.batch_tokens:
                packed.append([])
            packed[-1].append(i)
        steps += [packed[i] for i in torch.randperm(len(packed), generator=generator)]
    return steps


def _fingerprint(examples: Sequence[Example], settings: Settings, interventions: Sequence[Intervention]) -> str:
    """Of all that a run depends on: a checkpoint of another run is not resumed."""
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    for e in examples:
        digest.update(e.ids.numpy().tobytes() + e.learned.numpy().tobytes())
    for intervention in interventions:
        fields = vars(intervention).items()
        digest.update(type(intervention).__name__.encode())
        digest.update(repr([(k, v.tolist() if isinstance(v, Tensor) else v) for k, v in fields]).encode())
    return digest.hexdigest()


class _Run:
    """One training run: its steps, its optimiser, and how far it got."""

    def __init__(self, tuned: PeftModel, examples: list[Example], settings: Settings, fingerprint: str) -> None:
        self.tuned, self.examples, self.settings, self.fingerprint = tuned, examples, settings, fingerprint
        self.steps = batches(examples, settings)
        self.done = 0
        self.smoothed: float | None = None
        self.first: float | None = None
        self.weights = [p for p in tuned.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.weights, lr=settings.learning_rate, weight_decay=0.0)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate)

    def _rate(self, step: int) -> float:
        warm = max(1, round(0.05 * len(self.steps)))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, len(self.steps) - warm)))

    def train(self, checkpoint: Path | None, progress: bool) -> None:
        bar = tqdm(total=len(self.steps), initial=self.done, desc="finetuning", unit="step", disable=not progress)
        with _autocast(self.tuned.device):
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
        loss = assistant_loss(self.tuned, examples)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, self.settings.clip)
        self.optimiser.step()
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
        }
        checkpoint.mkdir(parents=True, exist_ok=True)
        _replace(checkpoint / "state.pt", lambda partial: torch.save(state, partial))

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
        self.done, (self.smoothed, self.first) = state["done"], state["losses"]


def assistant_loss(model: torch.nn.Module, examples: Sequence[Example]) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats over the learned tokens of a batch, each dialogue padded on the left.

    Logits are computed from the first learned token on: with short answers under long prompts that saves a fifth.
    """
    device = next(model.parameters()).device
    width = max(len(e.ids) for e in examples)
    ids = torch.stack([F.pad(e.ids, (width - len(e.ids), 0)) for e in examples]).to(device)  # (rows, width)
    learned = torch.stack([F.pad(e.learned, (width - len(e.ids), 0)) for e in examples]).to(device)
    real = torch.stack([F.pad(torch.ones_like(e.ids), (width - len(e.ids), 0)) for e in examples]).to(device)
    keep = min(width, width - int(learned.any(dim=0).int().argmax()) + 1)  # the position before predicts it
    logits = model(input_ids=ids, attention_mask=real, use_cache=False, logits_to_keep=keep).logits[:, :-1]
    mask = learned[:, width - keep + 1 :]
    return F.cross_entropy(logits[mask].float(), ids[:, width - keep + 1 :][mask])


def _autocast(device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 where it pays: on a GPU that has it, on a CPU that is measured to gain from it."""
    pays = torch.cuda.is_bf16_supported() if device.type == "cuda" else bf16_speedup() > BF16_WORTHWHILE
    return torch.autocast(device.type, torch.bfloat16) if pays else nullcontext()


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """A reader sees the old file or the new one, never half of one."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    write(partial)
    partial.replace(path)
