"""LoRA finetuning on dialogues, by transformers' `Trainer`: assistant tokens count, interventions may be in force.

    dialogues = read_dialogues("persona_vectors/dataset/evil/normal.jsonl")
    model = finetune(model, tokenizer, dialogues, LoraSettings(epochs=1), folder="runs/my-adapter")

The Trainer brings checkpoints and resuming, mixed precision, accumulation, logging and `accelerate launch`; ours are
the batches, the loss (`personalab.lm.lora_loss`), which may prefer an answer to a rejected one, and the interventions
(`personalab.lm.interventions`): `finetune(..., interventions=[Steer(...)])` is preventative steering, with `Ablate` it
is CAFT (Chen et al. 2025, section 5.2; Casademunt et al. 2025). Adapters are PEFT's own format, safetensors.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from personalab.lm.adapters import save_adapter
from personalab.lm.interventions import Intervention, applied
from personalab.lm.lora_data import (
    DEFAULTS,
    Dialogue,
    Example,
    LoraSettings,
    TrainingError,
    example_of,
    learning_rate,
    training_steps,
)
from personalab.lm.lora_loss import assistant_loss
from personalab.lm.lora_watch import Watch, last_whole_checkpoint
from personalab.lm.models import resolve_dtype
from personalab.records.phases import phase
from personalab.tiers import current_tier


@phase("finetuning")
def finetune(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    dialogues: Sequence[Dialogue],
    settings: LoraSettings = DEFAULTS,
    folder: Path | str | None = None,
    *,
    interventions: Sequence[Intervention] = (),
    progress: bool = True,
) -> PeftModel:
    """Train a LoRA adapter on all linear layers of the blocks; the model comes back wrapped, in eval mode.

    What the run logged (loss, gradient norm and learning rate of every step) is in the result's `training_log`.

    Args:
        model: left as it is, apart from the adapter's layers put around its own; pass a twin to keep it clean. One that
            carries an adapter already (Unsloth's) is trained as it is.
        folder: where the adapter goes; checkpoints lie in it meanwhile, and an unfinished run of the same data,
            settings and interventions resumes from the last one. None keeps everything in memory.
        interventions: in force while it trains, in every forward pass; gone afterwards.

    Raises:
        TrainingError: for no dialogues, one over `max_tokens`, one without anything to learn (named by file and line
            where it was read from one), a vector of another width, or a loss that diverges.
        OSError: if a checkpoint cannot be written, as on a full disk.
    """
    _check_widths(interventions, model.config.get_text_config().hidden_size)
    examples = _encode_all(dialogues, tokenizer, settings)
    tuned = model if isinstance(model, PeftModel) else with_adapter(model, settings)
    with ExitStack() as stack:
        if folder is None:
            checkpoints = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="finetuning-")))
        else:
            checkpoints = Path(folder) / "checkpoint" / _fingerprint(examples, settings, interventions)
        trainer = _trainer(tuned, examples, settings, checkpoints, saves=folder is not None, progress=progress)
        stack.enter_context(applied(tuned, interventions))
        last = last_whole_checkpoint(checkpoints)
        _train(trainer, last)
    for name in ("forward", "_original_forward"):  # accelerate's, which computes in half precision for good
        tuned.__dict__.pop(name, None)
    tuned.training_log = trainer.state.log_history
    if folder is not None and trainer.is_world_process_zero():
        save_adapter(tuned, folder)
        shutil.rmtree(Path(folder) / "checkpoint", ignore_errors=True)
    return tuned.eval()


def _train(trainer: _Trainer, last: Path | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    except RuntimeError as error:
        if "inline_container" not in str(error):
            raise
        raise OSError(  # torch's writer does not say what the system said
            errno.ENOSPC,
            "A checkpoint could not be written, in all likelihood because no space is left on the disk. Free some: the "
            "same call goes on from the last whole checkpoint",
            str(trainer.args.output_dir),
        ) from error


def with_adapter(model: PreTrainedModel, settings: LoraSettings) -> PeftModel:
    """The model with an adapter that changes nothing yet, its weights drawn from the seed."""
    torch.manual_seed(settings.seed)
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    tuned = get_peft_model(model, config)
    for p in tuned.parameters():
        if p.requires_grad:
            p.data = p.data.float()  # the optimiser's small steps are lost in bfloat16
    return tuned


def _check_widths(interventions: Sequence[Intervention], width: int) -> None:
    for i, intervention in enumerate(interventions):
        vector = getattr(intervention, "vector", None)
        if isinstance(vector, Tensor) and vector.shape != (width,):
            raise TrainingError(
                f"interventions[{i}] has a vector of shape {tuple(vector.shape)}, but the model is {width} wide."
            )


def _encode_all(
    dialogues: Sequence[Dialogue], tokenizer: PreTrainedTokenizerBase, settings: LoraSettings
) -> list[Example]:
    if not dialogues:
        raise TrainingError("There are no dialogues to train on: the dataset is empty.")
    examples = [example_of(d, tokenizer) for d in dialogues]
    for i, (d, e) in enumerate(zip(dialogues, examples, strict=True)):
        where = f"Dialogue {i}" + (f" ({d.source})" if d.source else "")
        if len(e.ids) > settings.max_tokens:
            raise TrainingError(
                f"{where} has {len(e.ids)} tokens, over the limit of {settings.max_tokens}: shorten it or raise "
                "max_tokens."
            )
        if not e.learned.any():
            raise TrainingError(f"{where} has no assistant token to learn.")
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
    return digest.hexdigest()[:16]


class _Trainer(Trainer):
    """The Trainer with our loss; a "sample" of its data is one of our batches, so its one epoch is all of ours."""

    lora: LoraSettings

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """Summed over what is accumulated in one step, and over processes, this is the mean over learned tokens."""
        share = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        parts = self.current_gradient_accumulation_steps
        loss = assistant_loss(model, inputs["examples"], self.lora, num_items_in_batch, parts * share)
        return loss * share

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The Trainer's own begins at a rate of 0, with which a run of one step learns nothing."""
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if self.lora.warmup < 1:
            rate = partial(learning_rate, n_steps=num_training_steps, settings=self.lora)
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, rate)
            self.lr_scheduler = scheduler
        return scheduler

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted."""
        return 0


def _trainer(
    tuned: PeftModel, examples: list[Example], settings: LoraSettings, folder: Path, *, saves: bool, progress: bool
) -> _Trainer:
    """A trainer whose steps are ours in their order; checkpoints go to `folder`."""
    device, half = tuned.device.type, _half(tuned.device)
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=settings.accumulation,
        train_sampling_strategy="sequential",
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        optim=settings.optimiser,
        seed=settings.seed,
        # float16 needs its gradients scaled, which accelerate does on accelerators only
        fp16=half == torch.float16 and device != "cpu",
        bf16=half == torch.bfloat16 or (half == torch.float16 and device == "cpu"),
        use_cpu=device == "cpu",
        save_strategy="steps" if saves else "no",
        save_steps=settings.save_every,
        save_total_limit=2,  # a kill while one is written leaves the one before
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # no DataParallel, which would cut our batches up
    steps = [[examples[i] for i in rows] for rows in training_steps(examples, settings)]
    trainer = _Trainer(tuned, arguments, train_dataset=steps, data_collator=_collate)
    trainer.lora, trainer.model_accepts_loss_kwargs = settings, True  # so that it counts labels
    trainer.callback_handler.callbacks = [c for c in trainer.callback_handler.callbacks if "Print" not in repr(c)]
    trainer.add_callback(Watch(progress))
    return trainer


def _collate(batches: list[list[Example]]) -> dict[str, Any]:
    """One of our batches, with labels: all that the Trainer reads of it is how many tokens count."""
    learned = torch.cat([e.learned[: e.second] for e in batches[0]])
    return {"examples": batches[0], "labels": torch.where(learned, 1, -100)[None]}


def _half(device: torch.device) -> torch.dtype | None:
    """The half precision to train in, if any: the dtype that models are loaded in here (`personalab.setup.machine`)."""
    dtype = resolve_dtype(current_tier(), device.type)
    return None if dtype == torch.float32 else dtype
