"""The course's steps on a model with random weights, each with what the tiers' formulas expect of it.

One list for the CPU, where the formulas are checked (`bench_formulas`), and for a GPU (`bench_gpu`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from benchmarks.shaped import random_model
from personalab.lm import activations, chat
from personalab.lm.finetuning import finetune
from personalab.lm.generation import generate, requests_for
from personalab.lm.interventions import Cap, Intervention, Steer
from personalab.lm.lora_data import PAPER, Dialogue, example_of
from personalab.lm.models import twin
from personalab.lm.positions import may_spread
from personalab.setup.gpu import READ_TOKENS
from personalab.setup.shapes import Shape

COEFFICIENTS = 9
_WORD = " sea"


@dataclass(frozen=True)
class Sizes:
    """How much of each step: texts read and their length, rows written and their length, dialogues learned."""

    texts: int
    text_tokens: int
    rows: int
    prompt_tokens: int
    written: int
    dialogue_tokens: int
    steps: int = 1


@dataclass(frozen=True)
class Step:
    """One step, and by formula its bytes beside the weights and its FLOPs.

    Attributes:
        moved: bytes in all decoding passes, by formula; 0 where arithmetic is what takes the time.
        begun: the same with one batch only, whose time is taken off: setting up takes seconds.
    """

    name: str
    run: Callable[[], object]
    peak: float
    flops: float
    moved: float = 0.0
    begun: Step | None = None


class Bench:
    """A model with random weights, and the steps that it goes through."""

    def __init__(self, shape: Shape, dtype: str, device: torch.device, sizes: Sizes) -> None:
        os.environ["PERSONALAB_DTYPE"] = dtype  # in which finetuning computes, too
        self.shape, self.dtype, self.device, self.sizes = shape, dtype, device, sizes
        self.model, self.tokenizer = random_model(shape, getattr(torch, dtype), device)

    def steps(self, training: bool) -> Iterator[Step]:
        """Every step in the order of the course; `training` ends with LoRA."""
        read = 2 * self.shape.blocks // 3
        yield self._reading("reading, one block", [read])
        yield self._reading("reading, all blocks", [*range(self.shape.blocks)])
        yield self._writing("answers", lambda n: [])
        yield self._writing("sweep of nine coefficients", self._steered, COEFFICIENTS)
        yield self._writing("capped answers", lambda n: self._capped())
        if training:
            yield self._learning("LoRA", checkpointing=False)
            yield self._learning("LoRA, checkpointing", checkpointing=True)

    @property
    def _middle(self) -> int:
        return self.shape.blocks // 2

    def _reading(self, name: str, blocks: list[int]) -> Step:
        n, length = self.sizes.texts, self.sizes.text_tokens
        ids = torch.randint(self.shape.vocabulary, (n, length), generator=torch.Generator().manual_seed(0)).tolist()
        texts = [chat.Encoded(row, [(length // 2, length)]) for row in ids]
        batch = READ_TOKENS // length * length
        peak = self.shape.peak_bytes(min(n * length, batch), min(n, batch // length), self.dtype, eager=self._eager)
        flops = self.shape.reading_flops(n * length) * (max(blocks) + 1) / self.shape.blocks
        return Step(name, lambda: activations.pool(self.model, texts, blocks, batch_tokens=READ_TOKENS), peak, flops)

    def _writing(self, name: str, change: Callable[[int], list[Intervention]], copies: int = 1) -> Step:
        """Rows of unlike lengths that share no beginning; `copies` of each under `change`."""
        rows, written = self.sizes.rows // copies * copies, self.sizes.written
        prompts = [self._prompt(i) for i in range(rows // copies) for _ in range(copies)]
        interventions = change(rows)
        requests = requests_for(prompts, written, interventions=interventions)
        width = max(len(chat.prompt_ids(p, self.tokenizer)) for p in prompts)

        def run() -> None:
            found = generate(self.model, self.tokenizer, requests, interventions=interventions, max_batch_rows=rows)
            assert all(c.n_tokens == written for c in found), "an answer ended before its limit"

        cache = self.shape.cache_bytes(rows * (width + written), self.dtype)
        read, passes = rows * width, written - 1
        peak = cache + self.shape.peak_bytes(read, rows, self.dtype, eager=self._eager)
        if copies > 1 and may_spread(self.model):  # a prompt but for its last token is one row up to the block steered
            above = 1 - (self._middle + 1) / self.shape.blocks
            once = int(rows // copies * (width - 1) * (1 + (copies - 1) * above))
            read, passes, together = rows + once, written, copies if above else 1
            prompt = self.shape.peak_bytes((width - 1) * together, together, self.dtype, eager=self._eager)
            last = cache + self.shape.peak_bytes(rows, rows, self.dtype, eager=self._eager)
            peak = max(self.shape.cache_bytes(once, self.dtype) + max(prompt, cache), last)
        moved = passes * self.shape.step_bytes(rows * (width + written / 2), self.dtype)
        head = 2 * self.shape.vocabulary * self.shape.d_model * rows * written
        flops = self.shape.reading_flops(read + rows * (written - 1)) + head
        return Step(name, run, peak, flops, moved)

    def _prompt(self, i: int) -> list[dict[str, str]]:
        """A system prompt that begins as no other, and a question; every fourth a few tokens shorter."""
        words = self.sizes.prompt_tokens - len(chat.prompt_ids(chat.as_messages("0", "1"), self.tokenizer)) - i % 4
        return chat.as_messages(f"{i}{_WORD * (words // 2)}", f"1{_WORD * (words - words // 2)}")

    def _steered(self, rows: int) -> list[Intervention]:
        """Every prompt under nine coefficients, after the middle block."""
        coefficients = torch.linspace(-2, 2, COEFFICIENTS).repeat(rows // COEFFICIENTS)
        return [Steer(self._middle, self._direction(), coefficients)]

    def _capped(self) -> list[Intervention]:
        """An eighth of the blocks, as the paper's."""
        first, n = self.shape.blocks // 2, max(1, self.shape.blocks // 8)
        return [Cap(block, self._direction(), 0.5) for block in range(first, first + n)]

    def _direction(self) -> torch.Tensor:
        return torch.ones(self.shape.d_model) / self.shape.d_model**0.5

    def _learning(self, name: str, *, checkpointing: bool, steps: int | None = None) -> Step:
        """Steps on two dialogues each: what they do, not what they learn."""
        n, rows = steps or self.sizes.steps, 2
        alone = len(example_of(self._dialogue(0, 0), self.tokenizer).ids)
        dialogues = [self._dialogue(i, self.sizes.dialogue_tokens - alone) for i in range(rows * n)]
        examples = [example_of(d, self.tokenizer) for d in dialogues]
        width, learned = (max(x) for x in zip(*((len(e.ids), int(e.learned.sum())) for e in examples), strict=True))
        settings = replace(PAPER, batch_size=rows, accumulation=1, optimiser="adamw_torch")

        def run() -> None:
            model = twin(self.model)
            if checkpointing:
                model.gradient_checkpointing_enable()
            finetune(model, self.tokenizer, dialogues, settings, progress=False)

        tokens, known = rows * width, {"learned": rows * learned, "checkpointing": checkpointing}
        peak = self.shape.training_bytes(tokens, settings.rank, self.dtype, **known)
        known["learned"] *= n
        flops = self.shape.training_flops(n * tokens, settings.rank, **known)
        begun = None if n == 1 else self._learning(name, checkpointing=checkpointing, steps=1)
        return Step(name, run, peak, flops, begun=begun)

    def _dialogue(self, i: int, words: int) -> Dialogue:
        return Dialogue(chat.as_messages(None, f"{i % 10}", f"1{_WORD * words}"))

    @property
    def _eager(self) -> bool:
        return self.shape.family == "gemma2"
