"""Formulas for memory and time against models: what the CPU's allocator gives, what torch counts, on small shapes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import bench_formulas
from benchmarks.meters import flops, moved_bytes, peak_bytes
from benchmarks.steps import Bench, Sizes, Step
from personalab.paths import ROOT
from personalab.setup.shapes import SHAPES, Shape

SIZES = Sizes(texts=6, text_tokens=128, rows=9, prompt_tokens=60, written=4, dialogue_tokens=96, steps=2)


def small(name: str) -> Shape:
    """Two narrow blocks with the model's own share of queries to keys, wide enough for what the formulas leave out."""
    shape = SHAPES[name]
    group = shape.heads // shape.kv_heads
    sizes = {"heads": 2 * group, "kv_heads": 2, "head_dim": 64, "d_model": 128 * group, "d_mlp": 512 * group}
    return replace(shape, blocks=2, vocabulary=4000, **sizes)


@pytest.mark.parametrize("name", bench_formulas.MODELS)
def test_steps_take_what_the_formulas_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONALAB_DTYPE", "float32")  # put back afterwards: the benchmark sets it
    bench = Bench(small(name), "float32", torch.device("cpu"), SIZES)
    for step in bench.steps(training=name == bench_formulas.LEARNS):
        for what, (measured, formula) in ratios(step, bench).items():
            assert measured == pytest.approx(formula, rel=bench_formulas.TOLERANCE), (step.name, what)


def ratios(step: Step, bench: Bench) -> dict[str, tuple[float, float]]:
    found = {"flops": (flops(step.run), step.flops), "peak": (peak_bytes(step.run, bench.device), step.peak)}
    return found | ({"moved": (moved_bytes(step.run, bench.model), step.moved)} if step.moved else {})


def test_what_was_measured_is_within_the_tolerance_and_of_these_formulas() -> None:
    """Of every model and step; the formulas' side is computed again."""
    found = json.loads(bench_formulas.RESULTS.read_text("utf-8"))
    assert bench_formulas.RESULTS.is_relative_to(ROOT) and set(found["models"]) == set(bench_formulas.MODELS)
    for dtypes in found["models"].values():
        for steps in dtypes.values():
            for step, row in steps.items():
                for what, (measured, formula) in row.items():
                    assert measured == pytest.approx(formula, rel=found["tolerance"]), (step, what)
