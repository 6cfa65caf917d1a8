"""Formulas for memory and time against models: what the CPU's allocator gives, what torch counts, on small shapes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import bench_formulas
from benchmarks.meters import flops, moved_bytes, peak_bytes
from benchmarks.steps import Bench, Sizes, Step
from personalab.course import measurements
from personalab.paths import ROOT
from personalab.setup.shapes import SHAPES, Shape

SIZES = Sizes(texts=6, text_tokens=128, rows=9, prompt_tokens=60, written=4, dialogue_tokens=64, steps=2)
TOLERANCE = {"flops": 0.15, "peak": 0.15, "moved": 0.3}  # so narrow a model moves more of what no formula counts


def small(name: str) -> Shape:
    """Two narrow blocks with the model's own share of queries to keys, wide enough for what the formulas leave out."""
    shape = SHAPES[name]
    group = shape.heads // shape.kv_heads
    width = 2 * group * (head := 64 if group < 4 else 32)
    sizes = {"heads": 2 * group, "kv_heads": 2, "head_dim": head, "d_model": width, "d_mlp": 4 * width}
    return replace(shape, blocks=2, vocabulary=4000, **sizes)


@pytest.mark.parametrize("name", bench_formulas.MODELS)
def test_steps_take_what_the_formulas_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONALAB_DTYPE", "float32")  # put back afterwards: the benchmark sets it
    bench = Bench(small(name), "float32", torch.device("cpu"), SIZES)
    found = {step.name: ratios(step, bench) for step in bench.steps(training=name == bench_formulas.LEARNS)}
    assert set(found) >= {"reading, one block", "answers", "sweep of nine coefficients", "capped answers"}
    beyond = [
        f"{step}, {what}: {ratio:.2f} of the formula"
        for step, row in found.items()
        for what, ratio in row.items()
        if abs(ratio - 1) > TOLERANCE[what]
    ]
    assert not beyond


def ratios(step: Step, bench: Bench) -> dict[str, float]:
    """Measured over formula."""
    found = {"flops": flops(step.run) / step.flops, "peak": peak_bytes(step.run, bench.device) / step.peak}
    return found | ({"moved": moved_bytes(step.run, bench.model) / step.moved} if step.moved else {})


def test_what_was_measured_on_wide_models_is_within_the_tolerance() -> None:
    """Of whatever benchmarks/results holds; `test_tier_pages` holds its table to it."""
    path = bench_formulas.RESULTS
    found = json.loads(path.read_text("utf-8")) if path.exists() else {"models": {}}
    rows = [row for dtypes in found["models"].values() for steps in dtypes.values() for row in steps.values()]
    for what, (measured, formula) in (pair for row in rows for pair in row.items()):
        assert measured == pytest.approx(formula, rel=found["tolerance"]), what
    assert (measurements.formulas(ROOT) == [measurements.NO_RUN]) == (not rows)


def test_scores_of_a_long_text_are_what_eager_attention_needs_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONALAB_DTYPE", "float32")
    long = replace(SIZES, texts=1, text_tokens=1024)
    bench = Bench(small("google/gemma-2-2b-it"), "float32", torch.device("cpu"), long)
    step = next(iter(bench.steps(training=False)))
    assert step.peak == pytest.approx(peak_bytes(step.run, bench.device), rel=TOLERANCE["peak"])
    assert step.peak > 1.5 * replace(bench.shape, heads=1, kv_heads=1).peak_bytes(1024, 1, "float32", eager=True)
