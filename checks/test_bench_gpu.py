"""The benchmark for a GPU, shrunk on the CPU: it runs to its end, and its results become a table."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks import bench_gpu
from personalab.course import measurements

WRITING = {"answers", "sweep of nine coefficients", "capped answers"}
READING = {"reading, one block", "reading, all blocks"}
LEARNING = {"LoRA", "LoRA, checkpointing"}


@pytest.fixture(autouse=True)
def own_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONALAB_DTYPE", "float32")  # put back afterwards: the benchmark sets it


def test_every_step_of_every_model_runs(tmp_path: Path) -> None:
    out = tmp_path / "benchmarks" / "results" / "gpu.json"
    for model in reversed(bench_gpu.MODELS):  # each call keeps what those before it wrote
        assert bench_gpu.main(["--tiny", "--model", model, "--out", str(out)]) == 0
    found = json.loads(out.read_text("utf-8"))
    assert set(found["models"]) == set(bench_gpu.MODELS)
    for model, measured in found["models"].items():
        assert set(measured["steps"]) == WRITING | READING | (LEARNING if model == bench_gpu.LEARNS else set())
        assert measured["weights"] == measured["weights_by_formula"]
        for name, row in measured["steps"].items():
            assert row["bound_by"] == ("bandwidth" if name in WRITING else "flops")
            assert row["peak"] > measured["weights"] and 0 < row["share_of_measured"] < math.inf
    lines = measurements.on_gpu(tmp_path)
    assert sum(line.count("no data sheet") for line in lines) == 5 * 3 + 2


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench_gpu.main([]) == 0
    assert "no GPU" in capsys.readouterr().out


def test_what_falls_short_is_marked(tmp_path: Path) -> None:
    assert measurements.on_gpu(tmp_path) == [measurements.NO_GPU]
    row = {"peak": 81e9, "peak_by_formula": 70e9, "seconds": 1.0, "share_of_sheet": 0.55, "share_of_measured": 0.8}
    steps = {
        "fast": {**row, "bound_by": "flops"},
        "slow": {**row, "bound_by": "bandwidth", "peak": 1e9},
        "none": {"error": "out of memory", "peak_by_formula": 9e10},
    }
    card = {"card": "A", "torch": "2", "date": "d", "measured_flops": 1e12, "measured_bandwidth": 1e12}
    path = tmp_path / measurements.ON_GPU
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(card | {"models": {"m": {"steps": steps}}}), "utf-8")
    fast, slow, none = measurements.on_gpu(tmp_path)[2:5]
    assert "81.0 (over 80)" in fast and "| 55% |" in fast
    assert "| 1.0 |" in slow and "55% (below 60%)" in slow
    assert "out of memory | 90.0" in none
