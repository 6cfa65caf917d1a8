"""A model of one's own: the same from Python and the command line, with controls, and nothing written elsewhere."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from endpoint_server import own_settings  # noqa: F401
from torch import nn

from personalab import __main__, own_model
from personalab.figures.base import Picture
from personalab.figures.report import page
from personalab.lm import chat, models, tiny
from personalab.lm.activations import mean_response_activations
from personalab.lm.interventions import Steer, applied
from personalab.lm.tiny import load_tiny_model
from personalab.measure import answers
from personalab.measure.answers import AnswerScores
from personalab.measure.outcome import Example, Ledger, Outcome, Row, over
from personalab.paths import ROOT
from personalab.records.vectors import load_vectors
from personalab.studies import contrast, own_axis, own_screen, own_trait, own_use
from personalab.studies.jailbreaks import Scores

DOCS = ROOT / "docs" / "your-own-model.md"
SMALL = {"n_questions": 4, "max_tokens": 6}
SHOWN = "<b>shown</b>"  # what a hostile model might say


def luck(text: str) -> int:
    """0 to 99, by the text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 100


@pytest.fixture(autouse=True)
def judge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A judge that needs no weights, and settings and folders of this check alone."""

    def score(trait: object, questions: Sequence[str], texts: Sequence[str], **_: object) -> AnswerScores:
        scores = np.array([float(luck(text)) for text in texts])
        return AnswerScores(scores, 100 - scores / 2)

    def roleplay(prompts: Sequence[object], texts: Sequence[str]) -> Scores:
        out = np.array([float(luck(text) % 2) for text in texts])
        return Scores(2 * out, out, np.full(len(texts), 80.0), np.zeros(len(texts)))

    for module in (own_trait, own_use, own_screen):
        monkeypatch.setattr(module, "score_answers", score)
    monkeypatch.setattr(contrast, "_judged", lambda trait, rows: score(trait, [], [row["response"] for row in rows]))
    monkeypatch.setattr(own_axis, "score_roleplay", roleplay)
    monkeypatch.setattr(__main__, "_ensure_weights", lambda: None)
    monkeypatch.setattr(models, "_pristine", {})
    for name, value in {"VENV": "off", "DTYPE": "float32", "ARTIFACTS": str(tmp_path / "artifacts")}.items():
        monkeypatch.setenv(f"PERSONALAB_{name}", value)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that nobody generates: a few words, by what was asked."""

    def generate(
        model: object, tokenizer: object, requests: Sequence[SimpleNamespace], **_: object
    ) -> list[SimpleNamespace]:
        words = ["sea", "moon", "friend", "truth", "city", "story"]
        said = ["|".join(m["content"] for m in r.messages) + str(r.seed) for r in requests]
        return [SimpleNamespace(text=" ".join(words[luck(f"{s} {i}") % 6] for i in range(4))) for s in said]

    monkeypatch.setattr(answers, "generate", generate)


def folder_of(family: str, folder: Path, n_blocks: int = 6) -> str:
    model, tokenizer = load_tiny_model(family, n_blocks=n_blocks)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def command(*arguments: object) -> str:
    """What a command prints; it must succeed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert __main__.main([str(a) for a in arguments]) == 0
    return printed.getvalue()


@pytest.mark.usefixtures("own_settings")
@pytest.mark.parametrize("family", ["qwen2", "gemma2", "llama"])
def test_the_command_line_and_python_make_the_same_vectors(family: str, tmp_path: Path) -> None:
    model, out = folder_of(family, tmp_path / "model"), tmp_path / "out"
    printed = command(
        "trait-vector", "sycophantic", "--model", model, "--folder", out, "--questions", 4, "--tests", 6, "--tokens", 6
    )
    found = own_model.trait_vector(model, "sycophantic", n_test=6, **SMALL)
    vectors, metadata = load_vectors(out / "trait_vector-sycophantic.safetensors")
    assert torch.equal(vectors["vectors"], found.vectors) and found.vectors.shape == (6, 32)
    assert (metadata["model"], metadata["block"], metadata["sign"]) == ("model", "3", "towards the trait")
    assert str(found) in printed
    loaded_before = own_model.trait_vector(load_tiny_model(family, n_blocks=6), "sycophantic", n_test=6, **SMALL)
    assert torch.equal(loaded_before.vectors, found.vectors)
    kinds = {row.kind for row in found.rows}
    assert kinds >= {"result", "baseline", "control", "difference"}
    assert {p.name for p in out.iterdir()} == {f"trait_vector-sycophantic.{s}" for s in ("html", "json", "safetensors")}
    assert not list(Path.cwd().iterdir()) and not (tmp_path / "artifacts").exists()


@pytest.mark.usefixtures("own_settings", "quick")
def test_every_command_leaves_a_page_with_controls(tmp_path: Path) -> None:
    model, out = folder_of("qwen2", tmp_path / "model"), tmp_path / "out"
    common = ("--model", model, "--folder", out)
    data = tmp_path / "data.jsonl"
    rows = [
        [{"role": "user", "content": f"What of {i}?"}, {"role": "assistant", "content": f"A {i}."}] for i in range(12)
    ]
    data.write_text("\n".join(json.dumps({"messages": m}) for m in rows), encoding="utf-8")
    command("axis", *common, "--questions", 4, "--roles", 4)
    assert "axis: " in command("cap", *common, "--prompts", 6, "--items", 4)  # that which lies there
    assert "made first" in command("steer", "evil", *common, "--questions", 4, "--coefficient", 1)
    assert "vector: " in command("monitor", "evil", *common, "--questions", 4)
    command("screen", out / "trait_vector-evil.safetensors", *common, "--data", data)
    stems = ["axis", "cap", "monitor-evil", "screen-evil", "steer-evil", "trait_vector-evil"]
    assert sorted(p.stem for p in out.glob("*.html")) == sorted(p.stem for p in out.glob("*.json")) == stems
    for stem in stems:
        text = (out / f"{stem}.html").read_text(encoding="utf-8")
        kept = json.loads((out / f"{stem}.json").read_text(encoding="utf-8"))
        assert "control" in {row["kind"] for row in kept["rows"]} and all(row["n"] > 0 for row in kept["rows"])
        assert text.count('<img src="data:image/png;base64,') == 1
        assert not re.search(r"<script|https?:|src=\"(?!data:)|<link", text)
        assert str(tmp_path) not in text
    assert len(kept := json.loads((out / "screen-evil.json").read_text())["table"]) == 12
    assert [row["difference"] for row in kept] == sorted((row["difference"] for row in kept), reverse=True)
    assert not list(Path.cwd().iterdir()) and not (tmp_path / "artifacts").exists()


def test_a_page_escapes_what_others_wrote() -> None:
    hostile = f'<script>alert(1)</script>{SHOWN}" onload="x'
    found = Outcome(
        hostile, hostile, hostile, 1, rows=[Row("result", hostile, 0.5, None, 3, hostile)], notes=[hostile],
        examples=[Example(hostile, hostile, hostile)], sizes={hostile: hostile}, model=hostile,
    )  # fmt: skip
    text = page(found, [Picture("abcd", hostile)], "1.0")
    assert "<script" not in text and SHOWN not in text and 'onload="' not in text
    assert text.count("&lt;script&gt;") > 8
    assert found.stem == "script-alert-1-script-b-shown-b-onload-x"


def test_what_cannot_be_measured_is_a_note() -> None:
    ledger = Ledger()
    ledger.add("result", "known", over(np.array([1.0, 2.0, np.nan])), 2, "answers")
    ledger.add("result", "unknown", over(np.array([np.nan, np.nan])), 0, "answers")
    assert [row.name for row in ledger.rows] == ["known"] and ledger.rows[0].value == 1.5
    assert len(ledger.notes) == 1 and ledger.notes[0].startswith("unknown: ")


@pytest.mark.usefixtures("own_settings", "quick")
def test_an_axis_of_any_length_caps_alike() -> None:
    """The papers' axes are differences of means, as long as these are; ours have unit norm."""
    model = own_model.loaded(load_tiny_model("qwen2", n_blocks=6))
    axis = own_model.axis(model, n_questions=4, n_roles=4)
    assert axis.vectors is not None
    rows, longer = (
        own_model.cap(model, replace(axis, vectors=scale * axis.vectors), n_prompts=6, n_items=4, n_tokens=512).rows
        for scale in (1, 30)
    )
    assert [row.name for row in rows] == [row.name for row in longer]
    assert np.allclose([row.value for row in rows], [row.value for row in longer], atol=1e-4)


@pytest.mark.usefixtures("own_settings", "quick")
def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    model = own_model.loaded(load_tiny_model("qwen2", n_blocks=6))
    vector = own_model.trait_vector(model, "evil", n_questions=4, n_test=6)
    axis = own_model.axis(model, n_questions=4, n_roles=4, folder=tmp_path)
    (tmp_path / "bad.safetensors").write_bytes(b"x")
    base, tokenizer = load_tiny_model("llama")
    tokenizer.chat_template = None
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: own_model.axis(str(tmp_path / "nothing")), "No model .*nothing"),
        (lambda: own_model.axis((base, tokenizer)), "tiny-llama has no chat template.*its instruct version"),
        (lambda: own_model.axis(model, block=6), "block=6 does not exist: this model has blocks 0 to 5"),
        (lambda: own_model.axis(model, n_questions=3), "n_questions=3, n_roles=None: at least 4"),
        (lambda: own_model.trait_vector(model, "eager"), "No prompts for the trait 'eager'"),
        (lambda: own_model.trait_vector(model, "evil", n_test=3), "n_test: 3 questions of the trait 'evil'"),
        (lambda: own_model.steer(model, axis), "These vectors are no trait's"),
        (lambda: own_model.steer(model, vector, coefficients=[-1]), "at least one must be above 0"),
        (lambda: own_model.monitor(model, tmp_path / "none.safetensors"), "none.safetensors is no .safetensors file"),
        (
            lambda: own_model.steer(model, "evil.pt"),
            r"""convert "evil\.pt" "evil\.safetensors" --trait NAME --block K""",
        ),
        (lambda: own_model.monitor(model, tmp_path / "bad.safetensors"), "bad.safetensors is not a readable"),
        (lambda: own_model.cap(model, axis, percentile=25), "percentile=25: a share"),
        (lambda: own_model.cap(model, axis, blocks=[7]), "block=7 does not exist"),
        (lambda: own_model.screen(model, vector, []), "0 rows of data are too few"),
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match=r"holds vectors of 6 blocks and width 32.*has 4 blocks"):
        own_model.monitor(load_tiny_model("qwen2", n_blocks=4), vector)
    earlier = replace(vector, metadata={"revision": "abc", "n_pairs": 3})
    later = own_model.monitor(model._replace(revision="def"), earlier, n_questions=4)
    assert later.notes[0] == "The vectors were made with revision abc of tiny-qwen2; this is def."
    assert later.notes[1].startswith("The vector rests on 3 effective pairs only")
    other = own_model.monitor(load_tiny_model("llama", n_blocks=6), vector, n_questions=4)
    assert "made with tiny-qwen2, not with this model" in other.notes[0]


@pytest.mark.usefixtures("own_settings", "quick")
def test_the_papers_layer_16_is_block_15(tmp_path: Path) -> None:
    """The page's lines on a Llama with as many blocks; what its authors' code leaves is made with hidden_states."""
    model, tokenizer = load_tiny_model("llama", n_blocks=32)
    pair = [chat.as_messages("", "What is the sea?", answer) for answer in ("A cold and cruel friend.", "Water.")]
    read = []
    for encoded in (chat.encode(messages, tokenizer) for messages in pair):
        (start, end), ids = encoded.spans[0], torch.tensor([encoded.ids])
        hidden = model(ids, output_hidden_states=True).hidden_states
        read.append(torch.stack([h[0, start:end].mean(dim=0) for h in hidden]))
    published = (read[0] - read[1]).detach()  # (33, d)
    torch.save(published, "evil_response_avg_diff.pt")
    ours = mean_response_activations(model, tokenizer, pair)
    apart = ours[0] - ours[1]
    assert torch.allclose(apart[:31], published[1:32], atol=1e-4) and not torch.allclose(apart[31], published[32])
    folder = folder_of("llama", tmp_path / "model", n_blocks=32)
    lines = DOCS.read_text(encoding="utf-8").partition("## Layers of the papers")[2].partition("```bash\n")[2]
    typed = lines.partition("```")[0].replace("\\\n", " ").replace("meta-llama/Llama-3.1-8B-Instruct", folder)
    for line in typed.strip().splitlines():
        command(*shlex.split(line)[3:])
    (theirs, of), (made, _) = (
        load_vectors(Path(f"{name}/trait_vector-evil.safetensors")) for name in ("theirs", "out")
    )
    assert torch.equal(theirs["vectors"][15], published[16]) and of["block"] == "15"
    assert made["vectors"].shape == theirs["vectors"].shape == (32, 32)
    steered = json.loads(Path("theirs/steer-evil.json").read_text(encoding="utf-8"))
    assert steered["block"] == 15 and not any("made with" in note for note in steered["notes"])
    ids = torch.tensor([chat.encode(pair[0], tokenizer).ids])
    with applied(model, [Steer(15, theirs["vectors"][15], 2.0)]):
        pushed = model(ids, output_hidden_states=True).hidden_states
    plain = model(ids, output_hidden_states=True).hidden_states
    assert torch.equal(pushed[15], plain[15])
    assert torch.allclose(pushed[16] - plain[16], (2 * published[16]).expand_as(plain[16]), atol=1e-4)


def test_blocks_that_lie_elsewhere_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_BLOCK_PATHS", [*models._BLOCK_PATHS])
    model = nn.Module()
    model.stack = nn.Module()
    model.stack.units = nn.ModuleList([nn.Identity()])
    with pytest.raises(ValueError, match="add_blocks_path"):
        models.decoder_blocks(model)
    models.add_blocks_path("stack.units")
    assert models.decoder_blocks(model) is model.stack.units


EXAMPLES = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)


@pytest.fixture
def families() -> Iterator[None]:
    """What an example adds is gone after it."""
    before = dict(tiny.FAMILIES)
    yield
    tiny.FAMILIES.clear()
    tiny.FAMILIES.update(before)


@pytest.mark.usefixtures("own_settings", "quick", "families")
@pytest.mark.parametrize("example", EXAMPLES, ids=["ten lines", "description", "file", "family"])
def test_the_examples_of_the_page_run(example: str, tmp_path: Path) -> None:
    model = folder_of("qwen2", tmp_path / "model")
    lines = [line for line in example.splitlines() if line.strip()]
    assert len(lines) < 30 and (example != EXAMPLES[0] or len(lines) <= 10)
    exec(compile(example.replace("Qwen/Qwen2.5-0.5B-Instruct", model), str(DOCS), "exec"), {"__name__": "example"})
    assert {p.name for p in Path.cwd().iterdir()} <= {"out", "nautical.json"}
