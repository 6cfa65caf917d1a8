"""The response cache's key: whatever can change a reply of the embedded models is in it, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from personalab import tiers
from personalab.endpoint import engine
from personalab.paths import ROOT
from personalab.setup import machine

MODEL, JUDGE = (engine.ENTRIES[name] for name in (tiers.EMBEDDED_MODEL, tiers.EMBEDDED_JUDGE))
SOURCES = sorted(path.relative_to(ROOT) for path in (ROOT / "personalab").rglob("*.py"))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's sources, and the judge's heads, to edit."""
    root = tmp_path_factory.mktemp("edited")
    for path in [*SOURCES, *(p.relative_to(ROOT) for p in (ROOT / "personalab/judging/data").glob("*.*"))]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, root / path)
    return root


def changes(root: Path, path: Path) -> set[str]:
    """The entries whose hash changes with an edit of one file."""
    before = {entry: engine.source_hash(entry, root) for entry in (MODEL, JUDGE)}
    original = (root / path).read_bytes()
    (root / path).write_bytes(original + b"\n")
    try:
        return {entry for entry in before if engine.source_hash(entry, root) != before[entry]}
    finally:
        (root / path).write_bytes(original)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_an_edit_of_any_module_that_answers_is_another_key_and_no_other_is(copy: Path, path: Path) -> None:
    expected = {entry for entry in (MODEL, JUDGE) if ROOT / path in engine.reachable(entry, ROOT)[0]}
    expected |= {MODEL, JUDGE} if path.parent.name == "endpoint" else set()
    assert changes(copy, path) == expected


def test_the_judges_weights_are_in_its_key_only(copy: Path) -> None:
    assert changes(copy, Path("personalab/judging/data/heads.safetensors")) == {JUDGE}


@pytest.mark.parametrize(
    "name",
    [
        "setup/machine",
        *(
            f"lm/{name}"
            for name in (
                "batching",
                "chat",
                "content_check",
                "content_guard",
                "generation",
                "models",
                "prefix_cache",
                "sampling",
                "seeds",
            )
        ),
    ],
)
def test_what_makes_text_is_found(name: str) -> None:
    assert ROOT / f"personalab/{name}.py" in engine.reachable(MODEL, ROOT)[0]


def test_what_draws_pictures_is_not() -> None:
    for entry in (MODEL, JUDGE):
        assert (
            not {ROOT / f"personalab/{name}.py" for name in ("figures/base", "course/notebooks")}
            & engine.reachable(entry, ROOT)[0]
        )


ANSWERS = """
import sys
from personalab.lm import tiny  # stands for the weights
from personalab.endpoint import transport, generate_response
transport._response_model = lambda: tiny.load_tiny_model("llama")
assert generate_response([{"role": "user", "content": "Hello?"}], max_tokens=4)
print(*(m.__file__ for name, m in sys.modules.items() if name.startswith("personalab") and m is not tiny))
"""


def test_no_module_that_an_answer_loads_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONALAB_RESPONSE_CACHE", "off")
    run = subprocess.run([sys.executable, "-c", ANSWERS], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = {Path(file) for file in run.stdout.split()}
    found = engine.reachable(MODEL, ROOT)[0]
    assert len(loaded & found) > 10
    assert loaded <= found | set((ROOT / "personalab/endpoint").glob("*.py"))


def test_the_key_holds_the_dtype_that_auto_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "_active", tiers.TIERS["cpu"])
    monkeypatch.setattr(machine, "cpu_dtype", lambda: "float32")
    auto = engine.engine(tiers.EMBEDDED_MODEL)
    monkeypatch.setenv("PERSONALAB_DTYPE", "float32")
    assert engine.engine(tiers.EMBEDDED_MODEL) == auto
    monkeypatch.setenv("PERSONALAB_DTYPE", "bfloat16")
    assert engine.engine(tiers.EMBEDDED_MODEL) != auto


def test_a_package_of_another_version_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = engine.source_hash(MODEL, ROOT)
    version = engine.metadata.version
    monkeypatch.setattr(engine.metadata, "version", lambda name: "0" if name == "transformers" else version(name))
    assert engine.source_hash(MODEL, ROOT) != before
