"""The tiers' formulas for memory and time against what models of the same classes take on the CPU.

    python -m benchmarks.bench_formulas    # writes benchmarks/results/formulas.json and the table of docs/tiers.md

Two blocks of each of the `colab` tier's models, with their own heads, widths and vocabulary, and random weights. One
thread; minutes. What a ratio may be at most stands in `TOLERANCE`; the run ends with 1 where one is beyond it.
"""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from datetime import date
from typing import Any

import torch

from benchmarks.meters import flops, moved_bytes, peak_bytes
from benchmarks.steps import Bench, Sizes, Step
from personalab.course import tier_pages
from personalab.files import write
from personalab.paths import ROOT
from personalab.setup.machine import cpu_name
from personalab.setup.shapes import SHAPES

RESULTS = ROOT / "benchmarks" / "results" / "formulas.json"
MODELS = ("Qwen/Qwen2.5-1.5B-Instruct", "google/gemma-2-2b-it", "Qwen/Qwen3-1.7B")
LEARNS = MODELS[0]  # the course finetunes no other
BLOCKS = 2
SIZES = Sizes(texts=4, text_tokens=96, rows=9, prompt_tokens=44, written=5, dialogue_tokens=80, steps=2)
TOLERANCE = 0.15  # of a ratio's distance from 1; our choice: cards come in steps of 1.5


def main() -> int:
    """Returns 1 where a formula is further from a measurement than `TOLERANCE`."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "machine": f"{cpu_name()}, 1 thread, torch {torch.__version__}",
        "date": date.today().isoformat(),
        "tolerance": TOLERANCE,
        "blocks": BLOCKS,
        "sizes": vars(SIZES),
        "models": {},
    }
    for name in MODELS:
        for dtype in ("float32", "bfloat16"):
            found["models"].setdefault(name, {})[dtype] = compared(name, dtype)
            gc.collect()
            write(RESULTS, json.dumps(found, indent=1) + "\n")  # a run that is stopped keeps what it has
            tier_pages.build()
    beyond = [
        f"{name}, {dtype}, {step}: {what} {a / b:.2f} of the formula"
        for name, dtypes in found["models"].items()
        for dtype, steps in dtypes.items()
        for step, row in steps.items()
        for what, (a, b) in row.items()
        if b and abs(a / b - 1) > TOLERANCE
    ]
    print(*(beyond or ["Every formula is within its tolerance."]), sep="\n")
    return int(bool(beyond))


def compared(name: str, dtype: str) -> dict[str, Any]:
    """Every step of one model: what was measured, and what the formula says, of peak, FLOPs and bytes moved."""
    bench = Bench(replace(SHAPES[name], blocks=BLOCKS), dtype, torch.device("cpu"), SIZES)
    print(f"{name}, {dtype}, {sum(p.numel() for p in bench.model.parameters()) / 1e6:.0f} M parameters", flush=True)
    # In bfloat16 a CPU's way back copies the LM head in float32, and takes minutes.
    training = name == LEARNS and dtype == "float32"
    return {step.name: _row(step, bench) for step in bench.steps(training=training)}


def _row(step: Step, bench: Bench) -> dict[str, tuple[float, float]]:
    row = {"peak": (peak_bytes(step.run, bench.device), step.peak)}
    if bench.dtype == "float32":  # FLOPs are the same in the other, and bytes moved are half as many
        row["flops"] = (flops(step.run), step.flops)
        if step.moved:
            row["moved"] = (moved_bytes(step.run, bench.model), step.moved)
    print(f"  {step.name}: " + ", ".join(f"{what} {a / b:.2f}" for what, (a, b) in row.items()), flush=True)
    return row


if __name__ == "__main__":
    raise SystemExit(main())
