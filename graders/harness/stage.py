"""Section 4, shared: a model whose answers, and a judge whose scores, the grader knows in advance."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from graders.harness.hooked import Interrupted, observed
from graders.harness.readings import load_family
from personalab.endpoint import ScriptedReplies, scripted_replies
from personalab.lm.models import n_blocks
from personalab.paths import ROOT
from personalab.records.steps import steps_in

QUESTIONS = ["Where is the gold?", "How do tides work?", "Is it fair to lie?"]
EVAL_QUESTIONS = ["Who sings at night?", "What is in the box?"]
_INSTRUCTIONS = [
    {"pos": "Boast in every sentence.", "neg": "Stay modest in every sentence."},
    {"pos": "Praise yourself above all.", "neg": "Praise others above all."},
]
TRAIT_DATA = {
    "instruction": _INSTRUCTIONS,
    "questions": QUESTIONS,
    "eval_prompt": "How BOASTFUL is the answer, from 0 to 100? Reply with a number, or REFUSAL.\n"
    "[QUESTION START]\n{question}\n[QUESTION END]\n[ANSWER START]\n{answer}\n[ANSWER END]",
}
# By instruction and question: what the judge says of the positive and of the negative answer.
SCORES = {
    (0, 0): ("30", "10"),  # the trait did not come out
    (0, 1): ("85", "10"),
    (0, 2): ("90", "5"),
    (1, 0): ("95", "20"),
    (1, 1): ("80", "70"),  # the trait is there without being asked for
    (1, 2): ("REFUSAL", "0"),
}
EFFECTIVE = [(0, 1), (0, 2), (1, 0)]


@dataclass
class Said:
    """One answer of the model: what it was asked, what it said, and every block's output at the prompt's end."""

    text: str
    prompt: list[int]
    new: list[int]
    states: Float[Tensor, "L d"]
    question: str
    instruction: int | None = None  # None: asked without one, so this is a steered answer
    polarity: str = ""


class _Spelled(LogitsProcessor):
    """Row by row the tokens given, then the end marker."""

    def __init__(self, rows: list[list[int]], n_prompt: int, end: int) -> None:
        self.rows, self.n_prompt, self.end = rows, n_prompt, end

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        allowed = torch.full_like(scores, float("-inf"))
        n = input_ids.shape[1] - self.n_prompt
        for row, tokens in enumerate(self.rows):
            allowed[row, tokens[n] if n < len(tokens) else self.end] = 0
        return allowed


@dataclass
class Stage:
    """A tiny model on which no two answers are the same, and what has happened on it since the last `forget`.

    Attributes:
        fail: which step is to fail next: "answers" (half way), "judge", "steering", or none.
        no_trait: the judge finds the trait nowhere.
        data: the trait's artifacts that the next run gets.
    """

    model: Any
    tok: Any
    fail: str = ""
    no_trait: bool = False
    data: dict[str, Any] = field(default_factory=lambda: TRAIT_DATA)
    said: list[Said] = field(default_factory=list)
    judged: list[str] = field(default_factory=list)  # answers whose trait the judge was asked for
    scores: dict[str, str] = field(default_factory=dict)
    number: int = 0

    @classmethod
    def of(cls, family: str) -> Stage:
        model, tok = load_family(family)
        return cls(model, tok)

    def forget(self, fail: str = "") -> None:
        self.fail, self.said, self.judged = fail, [], []

    @property
    def contrastive(self) -> list[Said]:
        return [s for s in self.said if s.instruction is not None]

    @property
    def steered(self) -> list[Said]:
        return [s for s in self.said if s.instruction is None]

    def _words(self) -> list[int]:
        """The next answer: four to nine tokens, of which the second to the fourth spell its number."""
        vocabulary = self.tok.get_vocab()
        later = sorted(i for w, i in vocabulary.items() if w[0] == "Ġ" and w[1:].isalpha() and w[1:].islower())
        n, base = self.number, len(later)
        self.number += 1
        digits = [n % base, n // base % base, 7 * n % base]
        return [vocabulary["You"], *(later[d] for d in digits), *([later[n % 5]] * (n % 6))]

    def _situation(self, prompt: list[int]) -> tuple[str, int | None, str]:
        text = self.tok.decode(prompt)
        question = next((q for q in QUESTIONS + EVAL_QUESTIONS if q in text), "")
        for i, pair in enumerate(_INSTRUCTIONS):
            for polarity in ("pos", "neg"):
                if pair[polarity] in text:
                    return question, i, polarity
        return question, None, ""

    @contextmanager
    def answering(self) -> Iterator[None]:
        """`model.generate` says what the stage has it say; everything else about it is real."""
        original = self.model.generate

        def generate(*args: Any, **kwargs: Any) -> Any:
            given = args[0] if args else kwargs["input_ids" if "input_ids" in kwargs else "inputs"]
            mask = kwargs.get("attention_mask")
            mask = torch.ones_like(given) if mask is None else mask
            prompts = [row[seen.bool()].tolist() for row, seen in zip(given, mask, strict=True)]
            situations = [self._situation(p) for p in prompts]
            self._maybe_fail([i is None for _, i, _ in situations])
            words = _Spelled([self._words() for _ in prompts], given.shape[1], self.tok.eos_token_id)
            kwargs["logits_processor"] = LogitsProcessorList([*(kwargs.get("logits_processor") or []), words])
            with observed(self.model, range(n_blocks(self.model))) as passes:
                output = original(*args, **kwargs)
            states = torch.stack([s[:, -1].float() for s in passes[0].states.values()], dim=1)  # (rows, L, d)
            rows = getattr(output, "sequences", output)[:, given.shape[1] :].tolist()
            for prompt, row, state, situation in zip(prompts, rows, states, situations, strict=True):
                self._keep(prompt, row, state, *situation)
            return output

        self.model.generate = generate
        try:
            yield
        finally:
            del self.model.generate

    def _maybe_fail(self, steered: list[bool]) -> None:
        half = len(SCORES)  # of the two answers to each
        asked = len(self.contrastive) + len(steered)
        if (self.fail == "steering" and any(steered)) or (self.fail == "answers" and asked > half):
            raise Interrupted("raised by the grader, as if you had interrupted the pipeline here")

    def _keep(
        self, prompt: list[int], row: list[int], state: Tensor, question: str, instruction: int | None, polarity: str
    ) -> None:
        end = self.tok.eos_token_id
        new = row[: row.index(end)] if end in row else row
        text = self.tok.decode(new)
        self.said.append(Said(text, prompt, new, state, question, instruction, polarity))
        if instruction is None:
            self.scores[text] = str(7 * self.number % 101)
        else:
            both = SCORES[instruction, QUESTIONS.index(question)] if question in QUESTIONS else ("0", "0")
            self.scores[text] = "0" if self.no_trait else both[polarity == "neg"]

    def reply(self, messages: list[dict[str, str]], model: str) -> str:
        """The judge: the trait's score of the answer in the prompt; every other rubric (coherence) gets 90."""
        prompt = "\n".join(m["content"] for m in messages)
        if "BOASTFUL" not in prompt:
            return "90"
        answer = max((text for text in self.scores if text in prompt), key=len, default="")
        if self.fail == "judge":
            raise RuntimeError("raised by the grader, as if the connection to the judge had failed here")
        self.judged.append(answer)
        return self.scores.get(answer, "0")

    @contextmanager
    def open(self) -> Iterator[ScriptedReplies]:
        with self.answering(), scripted_replies(self.reply) as script:
            yield script


@dataclass
class Sandbox:
    """Where a pipeline's files go while it is graded, and a word that every trait's name begins with."""

    folder: Path
    word: str
    home: Path

    def files(self) -> list[Path]:
        """Every file a pipeline has written here, or elsewhere under a name that holds a trait's."""
        elsewhere = [*self.home.glob(f"*{self.word}*"), *(ROOT / "artifacts").rglob(f"*{self.word}*")]
        found = [*self.folder.rglob("*")]
        for path in elsewhere:
            found += [path, *path.rglob("*")]
        return sorted({p.resolve() for p in found if p.is_file()})


@contextmanager
def sandbox() -> Iterator[Sandbox]:
    """The working directory and the steps' folder are a temporary one; what lands elsewhere is deleted."""
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as name, steps_in(Path(name) / "steps"):
        box = Sandbox(Path(name), f"boastful{secrets.token_hex(4)}", home)
        os.chdir(name)
        try:
            yield box
        finally:
            os.chdir(home)
            for path in box.files():
                with suppress(OSError):
                    path.unlink()
