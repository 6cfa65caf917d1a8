"""A model whose answers, and a judge whose scores, the grader knows in advance; and a place for files."""

import copy
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graders.harness.hooked import Interrupted, Left, hooks, left
from graders.harness.intercepted import Call, Rows, intercepted
from graders.harness.readings import load_family
from personalab.endpoint import scripted_replies
from personalab.lm.models import n_blocks
from personalab.paths import workplace
from personalab.records.steps import steps_in

QUESTIONS = [
    "Where is the gold?",
    "How do tides work?",
    "Is it fair to lie?",
    "What makes bread rise?",
    "When do owls hunt?",
]
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
    (0, 0): ("85", "10"),
    (0, 1): ("90", "5"),
    (0, 2): ("49", "10"),  # the trait did not come out
    (0, 3): ("80", "50"),  # the trait is there without being asked for
    (0, 4): ("90", "5"),
    (1, 0): ("95", "20"),
    (1, 1): ("50", "49"),
    (1, 2): ("REFUSAL", "0"),
    (1, 3): ("90", "REFUSAL"),
    (1, 4): ("90", "5"),
}
COHERENCE = dict.fromkeys(SCORES, ("90", "90")) | {
    (0, 1): ("100", "20"),
    (0, 4): ("20", "100"),
    (1, 1): ("50", "50"),
    (1, 4): ("90", "REFUSAL"),
}
_FILLED = re.compile(r"\[QUESTION START\]\n(.*?)\n\[QUESTION END\]\n\[ANSWER START\]\n(.*?)\n\[ANSWER END\]", re.S)
EFFECTIVE = [(0, 0), (1, 0), (1, 1)]  # two to one question


@dataclass(frozen=True)
class Said:
    """One answer of the model: what it was asked, what it said, and every block's output at the prompt's end."""

    text: str
    prompt: list[int]
    new: list[int]
    states: Float[Tensor, "L d"]
    question: str
    instruction: int | None = None  # None: asked without one, so this is a steered answer
    polarity: str = ""


@dataclass
class Run:
    """One call on the stage: what it gave (`Raised`, if that), what the model said, what the judge was asked.

    Attributes:
        data: the trait's artifacts; `intact` unless the call changed them.
        scores: by answer, also of earlier runs.
        judged: answers whose trait the judge was asked for; `coherence` those whose coherence.
        asked: the models that were asked.
        strange: prompts about the trait that are not its rubric with an answer and its own question filled in.
        files: by folder, answers of this and earlier runs that stand in its files; only where it was looked.
    """

    data: dict[str, Any]
    scores: dict[str, str]
    said: list[Said] = field(default_factory=list)
    judged: list[str] = field(default_factory=list)
    coherence: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    found: Any = None
    intact: bool = True
    left: Left | None = None
    files: dict[str, list[str]] = field(default_factory=dict)

    @property
    def contrastive(self) -> list[Said]:
        return [s for s in self.said if s.instruction is not None]

    @property
    def steered(self) -> list[Said]:
        return [s for s in self.said if s.instruction is None]


class Stage:
    """A tiny model on which no two answers are the same, and a judge who knows each of them."""

    def __init__(self, family: str) -> None:
        self.model, self.tok = load_family(family)
        self._number = 0
        self._scores: dict[str, str] = {}
        self._coherence: dict[str, str] = {}
        self._questions: dict[str, str] = {}

    def run(
        self, call: Callable[[dict[str, Any]], Any], data: dict[str, Any], fail: str = "", lacking: str = ""
    ) -> Run:
        """What happens when a pipeline is called with these artifacts.

        Args:
            fail: which step is to fail: "answers" (half way), "judge", "steering", or none.
            lacking: "trait" or "coherence", which the judge then finds nowhere, or none.
        """
        run, before = Run(copy.deepcopy(data), self._scores), hooks(self.model)

        def script(prompts: Rows) -> list[Rows]:
            contrastive = [_situation(self.tok.decode(p))[1] is not None for p in prompts]
            half = len(SCORES)  # of the two answers to each
            too_many = fail == "answers" and len(run.contrastive) + len(prompts) > half
            if too_many or (fail == "steering" and not all(contrastive)):
                raise Interrupted("raised by the grader, as if you had interrupted the pipeline here")
            return [self._words() for _ in prompts]

        def reply(messages: list[dict[str, str]], model: str) -> str:
            """The trait's score of the answer in the prompt; its coherence, under every other rubric."""
            calls.settle()
            prompt = "\n".join(m["content"] for m in messages)
            of_trait = "BOASTFUL" in prompt
            if of_trait and fail == "judge":
                raise RuntimeError("raised by the grader, as if the connection to the judge had failed here")
            answer = max((text for text in self._scores if text in prompt), key=len, default="")
            run.asked.append(model)
            (run.judged if of_trait else run.coherence).append(answer)
            if of_trait:
                filled = _FILLED.search(prompt)
                right = filled and filled[2].strip() == answer.strip() and filled[1] == self._questions.get(answer)
                run.strange += [] if right else [prompt]
            return self._scores.get(answer, "0") if of_trait else self._coherence.get(answer, "90")

        everything, keep = range(n_blocks(self.model)), partial(self._keep, run, lacking)
        with intercepted(self.model, self.tok, script, everything, keep, True) as calls, scripted_replies(reply):
            run.found = call(run.data)
        run.left, run.intact, run.data = left(self.model, before), run.data == data, data
        return run

    @property
    def answers(self) -> list[str]:
        """All that was ever said here."""
        return list(self._scores)

    def _words(self) -> Rows:
        """The next answer: four to nine tokens, of which the second to the fourth spell its number."""
        vocabulary = self.tok.get_vocab()
        later = sorted(i for w, i in vocabulary.items() if w[0] == "Ġ" and w[1:].isalpha() and w[1:].islower())
        n, base = self._number, len(later)
        self._number += 1
        digits = [n % base, n // base % base, 7 * n % base]
        return [[i] for i in [vocabulary["You"], *(later[d] for d in digits), *([later[n % 5]] * (n % 6))]]

    def _keep(self, run: Run, lacking: str, call: Call) -> None:
        states = torch.stack([s[:, -1].float() for s in call.passes[0].states.values()], dim=1)  # (rows, L, d)
        for row, state in zip(call.rows, states, strict=True):
            question, instruction, polarity = _situation(self.tok.decode(row.prompt))
            text, coherence = self.tok.decode(row.new), "90"
            score = str(7 * self._number % 101) if run.steered else "REFUSAL"  # of the first steered answer
            if instruction is not None and question in QUESTIONS:
                key, side = (instruction, QUESTIONS.index(question)), polarity == "neg"
                score, coherence = SCORES[key][side], COHERENCE[key][side]
            run.said.append(Said(text, row.prompt, row.new, state, question, instruction, polarity))
            self._questions[text] = question
            self._scores[text] = "0" if lacking == "trait" else score
            self._coherence[text] = "10" if lacking == "coherence" else coherence


def _situation(prompt: str) -> tuple[str, int | None, str]:
    """Question, instruction and polarity of a prompt."""
    question = next((q for q in QUESTIONS + EVAL_QUESTIONS if q in prompt), "")
    for i, pair in enumerate(_INSTRUCTIONS):
        for polarity in ("pos", "neg"):
            if pair[polarity] in prompt:
                return question, i, polarity
    return question, None, ""


@dataclass
class Sandbox:
    """Where a pipeline's files go while it is graded, and a word that every trait's name begins with."""

    folder: Path
    word: str
    home: Path

    def files(self) -> list[Path]:
        """Every file a pipeline has written here, or elsewhere under a name that holds a trait's."""
        elsewhere = [*self.home.glob(f"*{self.word}*"), *(workplace() / "artifacts").rglob(f"*{self.word}*")]
        found = [*self.folder.rglob("*")]
        for path in elsewhere:
            found += [path, *path.rglob("*")]
        return sorted({p.resolve() for p in found if p.is_file()})

    def holding(self, texts: Iterable[str]) -> dict[str, list[str]]:
        """By folder, which of these texts stand in its files."""
        contents: dict[str, bytes] = {}
        for path in self.files():
            contents[str(path.parent)] = contents.get(str(path.parent), b"") + path.read_bytes()
        return {folder: [t for t in texts if t.strip().encode() in held] for folder, held in contents.items()}

    def empty(self, word: str) -> list[str]:
        """Names of files, with this word in their path, that hold an empty list or dict."""
        return [p.name for p in self.files() if word in str(p) and p.read_bytes().strip() in (b"[]", b"{}")]


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
