"""Two processes on one piece of work give what one gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from personalab.lm import processes
from personalab.paths import ROOT

SCRIPT = Path(__file__).with_name("several_processes.py")
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]  # also CPUs
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def run(launcher: list[str], folder: Path, url: str) -> tuple[list[dict], str]:
    """What each process found, by rank, and what they printed."""
    folder.mkdir()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OPENAI_BASE_URL": url, "PERSONALAB_CACHE": str(folder / "cache")}
    env |= {
        "ACCELERATE_USE_CPU": "true",
        "OPENAI_API_KEY": "none",
        "OMP_NUM_THREADS": "1",
        "PERSONALAB_DTYPE": "float32",
    }
    done = subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), str(folder)], env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[:3000] + done.stderr[-3000:]
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*-of-*.json"))], done.stderr


def test_two_processes_find_what_one_finds(server, tmp_path):
    (one,), _ = run([], tmp_path / "one", server.url)
    assert len(server.bodies) == 21
    two, printed = run(LAUNCH, tmp_path / "two", server.url)
    assert len(server.bodies) == 42, "the two shared the questions; nothing was asked twice"
    assert [found.pop("count") for found in (one, *two)] == [1, 2, 2]
    assert two[0] == two[1]
    for name in ("answers", "swept", "words"):
        assert two[0][name] == one[name]
    for name in ("pooled", "adapter"):
        assert _flat(two[0][name]) == pytest.approx(_flat(one[name]), abs=1e-6)
    assert printed.count("generating:   0%") == 1, "one bar for both"


def _flat(nested: list) -> list[float]:
    return [x for item in nested for x in (_flat(item) if isinstance(item, list) else [item])]


def test_every_piece_has_one_process(monkeypatch):
    shares = []
    for rank in range(3):
        monkeypatch.setenv("WORLD_SIZE", "3")
        monkeypatch.setenv("RANK", str(rank))
        shares.append(list(processes.mine(range(10))))
        with processes.alone():
            assert list(processes.mine(range(10))) == list(range(10))
    assert sorted(i for share in shares for i in share) == list(range(10))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("shown", "own"), [(None, "1"), ("4,7", "7"), ("5", "5")])
def test_going_alone_leaves_nothing_that_libraries_would_join(monkeypatch, shown, own):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"})
    if shown is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = shown
    processes.go_alone()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == own
    assert processes.count() == 1
    assert processes.rank() == 0
    assert "LOCAL_RANK" not in os.environ
