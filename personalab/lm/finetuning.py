"""LoRA finetuning on dialogues: the loss counts assistant tokens only, runs can be killed and resumed.

    dialogues = read_dialogues("persona_vectors/dataset/evil/normal.jsonl")
    model = finetune(model, tokenizer, dialogues, Settings(epochs=1), folder="runs/my-adapter")

A dialogue may carry a rejected answer beside its own: with `Settings(preference=...)` the model learns to tell the two
apart as well (a preference loss without a reference model: Hong et al. 2024, ORPO; Meng et al. 2024, SimPO).

Interventions (`personalab.lm.interventions`) can be in force while it trains:
`finetune(..., interventions=[Steer(...)])` is preventative steering
(Chen et al. 2025, section 5.2). Adapters are PEFT's own format, safetensors.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.files import write
from personalab.lm import chat
from personalab.lm.adapters import save_adapter
from personalab.lm.interventions import Intervention, applied
from personalab.lm.models import resolve_dtype
from personalab.records.upstream import DataError, read_jsonl
from personalab.tiers import current_tier

DIVERGED = 3.0  # a smoothed loss this many times the first one has diverged; our choice
_SMOOTHING = 0.9


class TrainingError(ValueError):
    """Data or settings that cannot be trained on; the message says which and what to change."""


@dataclass(frozen=True)
class Dialogue:
    """A conversation to learn from.

    `complete` is false where the last answer is cut: its end is then not learned. `rejected` is an answer to the same
    turns that should become less likely than the last one. Neighbours of one `group` share a step, so that what they
    agree in cancels out of the preference's gradient: one question under opposite prompts, say.
    """

    messages: Sequence[chat.Message]
    complete: bool = True
    rejected: str | None = None
    group: str | None = None


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
    preference: float = 0.0  # weight of the preference loss; 0 leaves it out
    preference_scale: float = 2.0  # per nat a token by which an answer is likelier than the rejected one
    seed: int = 0
    save_every: int = 50  # steps between checkpoints

    def __post_init__(self) -> None:
        for name in ("rank", "alpha", "learning_rate", "epochs", "batch_tokens", "max_tokens", "clip", "save_every"):
            if not getattr(self, name) > 0:
                raise TrainingError(f"{name} must be above 0, not {getattr(self, name)}.")
        if not self.preference >= 0:
            raise TrainingError(f"preference must be 0 or more, not {self.preference}.")


@dataclass(frozen=True)
class Example:
    """Token ids of a dialogue, and which of them the model learns to write.

    A rejected answer stands behind the chosen one, from `second` on; both continue the `fork` tokens before them and
    do not see each other.
    """

    ids: Int[Tensor, "tokens"]
    learned: Bool[Tensor, "tokens"]
    fork: int = 0
    second: int | None = None
    group: str | None = None


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
    if dialogue.rejected is not None:
        return _encode_pair(dialogue, tokenizer)
    ids, spans = chat.turn_spans(dialogue.messages, tokenizer)
    learned = torch.zeros(len(ids), dtype=torch.bool)
    for i, (start, end) in enumerate(spans):
        cut = i == len(spans) - 1 and not dialogue.complete
        learned[start : end if cut or start == end else end + 1] = True
    return Example(torch.tensor(ids), learned, group=dialogue.group)


def _encode_pair(dialogue: Dialogue, tokenizer: PreTrainedTokenizerBase) -> Example:
    other = [*dialogue.messages[:-1], {"role": "assistant", "content": dialogue.rejected or ""}]
    chosen, rejected = (encode(Dialogue(m, dialogue.complete), tokenizer) for m in (dialogue.messages, other))
    fork = chat.turn_spans(dialogue.messages, tokenizer)[1][-1][0]
    if not torch.equal(chosen.ids[:fork], rejected.ids[:fork]):
        raise TrainingError(f"The chat template writes other tokens before the answer {dialogue.rejected!r:.40}.")
    parts = zip((chosen.ids, chosen.learned), (rejected.ids[fork:], rejected.learned[fork:]), strict=True)
    ids, learned = (torch.cat(part) for part in parts)
    return Example(ids, learned, fork, len(chosen.ids), dialogue.group)


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
    together = [list(g) for _, g in itertools.groupby(range(len(examples)), lambda i: examples[i].group or str(i))]
    widths = [max(len(examples[i].ids) for i in group) for group in together]
    steps: list[list[int]] = []
    for _ in range(settings.epochs):
        jitter = (torch.rand(len(together), generator=generator) * 8).tolist()  # other neighbours in every epoch
        packed: list[list[int]] = [[]]
        widest = 0
        for group, width, _ in sorted(zip(together, widths, jitter, strict=True), key=lambda g: g[1] + g[2]):
            widest = max(widest, width)
            if packed[-1] and widest * (len(packed[-1]) + len(group)) > settings.batch_tokens:
                packed.append([])
                widest = width
            packed[-1] += group
        steps += [packed[i] for i in torch.randperm(len(packed), generator=generator)]
    return steps


def _fingerprint(examples: Sequence[Example], settings: Settings, interventions: Sequence[Intervention]) -> str:
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

    def __init__(self, tuned: PeftModel, examples: list[Example], settings: Settings, fingerprint: str) -> None:
        self.tuned, self.examples, self.settings, self.fingerprint = tuned, examples, settings, fingerprint
        self.steps = batches(examples, settings)
        self.done = 0
        self.smoothed: float | None = None
        self.first: float | None = None
        self.weights = [p for p in tuned.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.weights, lr=settings.learning_rate, weight_decay=0.0)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate)
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


def assistant_loss(
    model: torch.nn.Module, examples: Sequence[Example], settings: Settings = Settings()
) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats over the learned tokens of a batch, each dialogue padded on the left.

    Where examples have a rejected answer, `settings.preference` times -log sigmoid(scale * margin) is added, with the
    margin in nats a token by which the chosen answer is likelier (SimPO, equation 5, without its target margin).
    Logits are computed from the first learned token on: with short answers under long prompts that saves a fifth.
    """
    device = next(model.parameters()).device
    width = max(len(e.ids) for e in examples)
    pads = torch.tensor([width - len(e.ids) for e in examples])
    ids, learned, before = (
        torch.stack([F.pad(row, (width - len(row), 0)) for row in rows])
        for rows in ([e.ids for e in examples], [e.learned for e in examples], [_before(e) for e in examples])
    )  # (rows, width)
    rows, columns = learned.nonzero(as_tuple=True)  # of every learned token; the position before it predicts it
    sources = before[rows, columns] + pads[rows]
    first = int(sources.min())
    logits = model(
        input_ids=ids.to(device), use_cache=False, logits_to_keep=width - first, **_attention(examples, width, device)
    ).logits
    predicted, targets = logits[rows.to(device), (sources - first).to(device)], ids[rows, columns].to(device)
    losses = F.cross_entropy(predicted.float(), targets, reduction="none")
    second = torch.tensor([len(e.ids) if e.second is None else e.second for e in examples]) + pads
    chosen = columns < second[rows]
    loss = losses[chosen.to(device)].mean()
    pairs = [i for i, e in enumerate(examples) if e.second is not None]
    if not pairs or not settings.preference:
        return loss
    fork = torch.tensor([e.fork for e in examples]) + pads
    chosen_loss, rejected_loss = (
        torch.stack([losses[((rows == i) & side).to(device)].mean() for i in pairs])
        for side in (chosen & (columns >= fork[rows]), ~chosen)
    )
    margin = rejected_loss - chosen_loss
    return loss - settings.preference * F.logsigmoid(settings.preference_scale * margin).mean()


def _before(example: Example) -> Int[Tensor, "tokens"]:
    """For every token the position that predicts it: the one before, or the last that two answers share."""
    positions = torch.arange(len(example.ids)) - 1
    if example.second is not None:
        positions[example.second] = example.fork - 1
    return positions.clamp(min=0)


def _attention(examples: Sequence[Example], width: int, device: torch.device) -> dict[str, Tensor]:
    """Mask and positions of a batch padded on the left; with a second answer, a mask that hides the first from it."""
    real = torch.stack([torch.arange(width) >= width - len(e.ids) for e in examples])
    if all(e.second is None for e in examples):
        return {"attention_mask": real.long().to(device)}
    seen = real[:, None, :] & torch.ones(width, width, dtype=torch.bool).tril()
    seen |= torch.eye(width, dtype=torch.bool)  # padding sees itself, since a softmax over nothing is not a number
    positions = (real.cumsum(dim=1) - 1).clamp(min=0)
    for row, e in enumerate(examples):
        if e.second is not None:
            pad = width - len(e.ids)
            seen[row, pad + e.second :, pad + e.fork : pad + e.second] = False
            positions[row, pad + e.second :] -= e.second - e.fork
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[
        :, None
    ]  # (rows, 1, width, width)
    return {"attention_mask": mask.to(device), "position_ids": positions.to(device)}


def _half(device: torch.device) -> torch.dtype | None:
    """The half precision to train in, if any: the dtype that models are loaded in here (`personalab.setup.machine`)."""
    dtype = resolve_dtype(current_tier(), device.type)
    return None if dtype == torch.float32 else dtype
