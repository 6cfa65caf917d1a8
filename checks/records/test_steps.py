"""A pipeline's steps: made once, read whole or not at all, made again on demand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from personalab import tiers
from personalab.paths import ROOT
from personalab.records import steps
from personalab.records.steps import load_or_generate


def counting(*values):
    """A step that returns one value after the other, and counts."""
    queue = list(values)

    def generate():
        generate.calls += 1
        return queue.pop(0)

    generate.calls = 0
    return generate


def same(found, expected) -> bool:
    if isinstance(expected, dict) and any(isinstance(v, torch.Tensor) for v in expected.values()):
        return found.keys() == expected.keys() and all(same(found[key], v) for key, v in expected.items())
    if isinstance(expected, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected) and not found.requires_grad
    return found == expected


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", [{"question": "Où ?", "score": None, "coefficient": -1.5}]),
        ("a.json", {}),
        ("a.safetensors", torch.randn(4, 8)[:, ::2].T),
        ("a.safetensors", {"evil": torch.randn(3), "b": torch.ones(2, dtype=torch.bfloat16)}),
        ("a.safetensors", {"tensor": torch.ones(1)}),
        ("a.safetensors", torch.tensor(2.5, requires_grad=True)),
    ],
)
def test_a_second_call_reads_what_the_first_returned(tmp_path, name, content):
    generate = counting(content)
    first = load_or_generate(tmp_path / "deep" / name, generate, "a step")
    second = load_or_generate(str(tmp_path / "deep" / name), generate, "a step")
    assert generate.calls == 1
    assert same(first, content) and same(second, content)
    assert names(tmp_path / "deep") == [name]


def test_the_first_call_returns_what_a_reader_gets(tmp_path):
    made = load_or_generate(tmp_path / "a.json", lambda: {1: (2, 3)}, "a step")
    assert made == load_or_generate(tmp_path / "a.json", counting(), "a step") == {"1": [2, 3]}


def test_a_falsy_result_is_a_result(tmp_path):
    generate = counting([], ["again"])
    assert [load_or_generate(tmp_path / "a.json", generate, "a step") for _ in range(2)] == [[], []]


def test_it_says_what_it_does(tmp_path, capsys):
    for override in (False, False, True):
        load_or_generate(tmp_path / "a.json", lambda: 1, "Responses", override=override)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" a.json")[0] for line in lines] == [
        "Responses: made and written to",
        "Responses: read from",
        "Responses: made and written to",
    ]
    assert str(tmp_path) not in "".join(lines)


def test_override_makes_it_again_and_later_calls_read_the_new_one(tmp_path):
    generate = counting("old", "new")
    load_or_generate(tmp_path / "a.json", generate, "a step")
    assert load_or_generate(tmp_path / "a.json", generate, "a step", override=True) == "new"
    assert load_or_generate(tmp_path / "a.json", generate, "a step") == "new"
    assert generate.calls == 2


def test_an_override_that_fails_leaves_the_old_file(tmp_path):
    load_or_generate(tmp_path / "a.json", lambda: "old", "a step")
    with pytest.raises(KeyError):
        load_or_generate(tmp_path / "a.json", lambda: {}["missing"], "a step", override=True)
    assert load_or_generate(tmp_path / "a.json", counting(), "a step") == "old"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("name", ["a.json", "a.safetensors"])
def test_every_truncation_of_a_file_is_made_again(tmp_path, name):
    content = [{"question": "Où ?", "score": 3}] if name == "a.json" else torch.arange(3.0)
    path = tmp_path / name
    load_or_generate(path, lambda: content, "a step")
    whole = path.read_bytes()
    for length in range(len(whole.rstrip())):  # the line break at the end adds nothing
        path.write_bytes(whole[:length])
        generate = counting(content)
        found = load_or_generate(path, generate, "a step")
        assert same(found, content) and generate.calls == 1 and path.read_bytes() == whole


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def full(number):
        raise OSError(28, "No space left on device")

    load_or_generate(tmp_path / "old.json", lambda: "old", "a step")
    monkeypatch.setattr(os, "fsync", full)
    for name, override in (("new.json", False), ("old.json", True)):
        with pytest.raises(OSError, match="No space"):
            load_or_generate(tmp_path / name, lambda: "new", "a step", override=override)
    assert names(tmp_path) == ["old.json"]
    assert json.loads((tmp_path / "old.json").read_text()) == "old"


def test_a_file_that_is_deeper_than_the_parser_goes_is_made_again(tmp_path):
    (tmp_path / "a.json").write_bytes(b"[" * 100_000)
    assert load_or_generate(tmp_path / "a.json", lambda: ["made"], "a step") == ["made"]


@pytest.mark.parametrize("content", [float("nan"), [float("inf")]])
def test_what_a_cache_would_keep_for_ever_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match=r"a\.json"):
        load_or_generate(tmp_path / "a.json", lambda: content, "a step")
    with pytest.raises(ValueError, match="NaN or infinity"):
        load_or_generate(tmp_path / "a.safetensors", lambda: torch.tensor(content), "a step")
    assert names(tmp_path) == []


def test_what_a_format_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="safetensors"):
        load_or_generate(tmp_path / "a.json", lambda: torch.ones(2), "a step")
    with pytest.raises(TypeError, match="not list"):
        load_or_generate(tmp_path / "a.safetensors", lambda: [1.0], "a step")
    generate = counting()
    with pytest.raises(ValueError, match=r"'\.pt'"):
        load_or_generate(tmp_path / "a.pt", generate, "a step")
    assert generate.calls == 0 and names(tmp_path) == []


_KILLED_EVERYWHERE = """
    import os, signal, sys
    from personalab.records.steps import load_or_generate

    old, new = "old", "new"

    def run(moment):
        events = 0

        def count(frame, event, argument):
            nonlocal events
            events += event.endswith("call")
            if events == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        def generate():
            sys.setprofile(count)  # from here on, before every call, those of functions written in C included
            return new

        load_or_generate(sys.argv[1], generate, "a step", override=True)
        os._exit(0)

    def never():
        raise SystemExit(f"killed at moment {moment}: the file is not whole")

    for moment in range(1, 10_000):
        if moment == 1 or found == new:
            load_or_generate(sys.argv[1], lambda: old, "a step", override=True)
        child = os.fork() or run(moment)
        status = os.waitpid(child, 0)[1]
        found = load_or_generate(sys.argv[1], never, "a step")
        assert found in (old, new), found
        if status == 0:
            break
    print("moments", moment)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path):
    program = [sys.executable, "-c", textwrap.dedent(_KILLED_EVERYWHERE), str(tmp_path / "a.json")]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert int(done.stdout.split()[-1]) > 30


def test_the_folder_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "artifacts_dir", lambda tier: tmp_path / tier)
    tiers.use_tier("cpu")
    assert steps.steps_dir("evil") == tmp_path / "cpu" / "steps" / "evil"
    with steps.steps_in(tmp_path / "elsewhere"):
        assert steps.steps_dir("evil") == tmp_path / "elsewhere" / "evil"
        assert steps.steps_dir("evil").is_dir()
    assert steps.steps_dir("evil") == tmp_path / "cpu" / "steps" / "evil"
