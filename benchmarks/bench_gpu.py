"""Full-size models with random weights on a GPU: the course's steps, their peak memory and share of what the card can.

    python -m benchmarks.bench_gpu           # writes benchmarks/results/gpu.json and the table of docs/tiers.md
    python -m benchmarks.bench_gpu --tiny    # the same shrunk, on the CPU: seconds; writes nothing

No network, no weights; three minutes a model at most. Without a GPU it says so and ends, as in `make bench`.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.meters import peak_bytes, rates, seconds
from benchmarks.shaped import shrunk
from benchmarks.steps import Bench, Sizes, Step
from personalab.course import tier_pages
from personalab.files import write
from personalab.paths import ROOT
from personalab.setup.shapes import SHAPES

RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
MODELS = ("Qwen/Qwen2.5-7B-Instruct", "google/gemma-2-27b-it", "Qwen/Qwen3-32B")
LEARNS = MODELS[0]  # the course finetunes no other
# By the makers' data sheets: FLOP/s of dense products in bfloat16, bytes/s of memory. The first name that fits counts.
CARDS = {
    "H200": (989e12, 4.8e12),
    "H100 80GB HBM3": (989e12, 3.35e12),
    "A100-SXM4-80GB": (312e12, 2.039e12),
}
FULL = Sizes(texts=192, text_tokens=128, rows=64, prompt_tokens=66, written=128, dialogue_tokens=512, steps=9)
TINY = Sizes(texts=3, text_tokens=32, rows=9, prompt_tokens=44, written=3, dialogue_tokens=40, steps=2)


def main(arguments: Sequence[str] = ()) -> int:
    """Returns 0, also where there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="shrunk models on the CPU: does it all run?")
    parser.add_argument("--model", choices=MODELS, action="append", help="only this one (may be repeated)")
    parser.add_argument(
        "--out", type=Path, default=None, help="default: benchmarks/results/gpu.json, and with --tiny nowhere"
    )
    chosen = parser.parse_args(arguments)
    if not chosen.tiny and not torch.cuda.is_available():
        print("Not measured: no GPU. (python -m benchmarks.bench_gpu --tiny runs it shrunk on the CPU.)")
        return 0
    device = torch.device("cpu" if chosen.tiny else "cuda")
    out = chosen.out or (None if chosen.tiny else RESULTS)
    found = measured(chosen.model or MODELS, device, TINY if chosen.tiny else FULL, out)
    if chosen.tiny:
        print(json.dumps(found, indent=1))
    elif out == RESULTS:
        tier_pages.build()
    return 0


def measured(names: Sequence[str], device: torch.device, sizes: Sizes, out: Path | None) -> dict[str, Any]:
    """All of some models; written after each, so that what is measured is not lost. Others' results stay."""
    found = _card(device)
    if out and out.exists() and (old := json.loads(out.read_text("utf-8")))["card"] == found["card"]:
        found["models"] = old["models"]
    for name in names:
        print(f"{name}:", flush=True)
        found["models"][name] = _model(name, device, sizes, found)
        if out:
            write(out, json.dumps(found, indent=1) + "\n")
    return found


def _card(device: torch.device) -> dict[str, Any]:
    """What the device is said to do, and what plain products and copies reach on it."""
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else "CPU"
    flops, bandwidth = next((limits for part, limits in CARDS.items() if part in name), (None, None))
    products, copies = rates(getattr(torch, _dtype(device)), device, 8192 if on_gpu else 128)
    return {
        "card": name,
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "sheet_flops": flops,
        "sheet_bandwidth": bandwidth,
        "measured_flops": products,
        "measured_bandwidth": copies,
        "models": {},
    }


def _model(name: str, device: torch.device, sizes: Sizes, card: dict[str, Any]) -> dict[str, Any]:
    shape, start = SHAPES[name], time.perf_counter()
    if device.type != "cuda":
        shape = shrunk(shape)
    bench = Bench(shape, _dtype(device), device, sizes)
    weights = sum(p.nbytes for p in bench.model.parameters())
    steps = {}
    for step in bench.steps(training=name == LEARNS):
        steps[step.name] = _step(step, device, weights, card)
        print(f"  {step.name}: {steps[step.name]}", flush=True)
    del bench
    _empty(device)
    took = time.perf_counter() - start
    expected = shape.weight_bytes(_dtype(device))
    return {"weights": weights, "weights_by_formula": expected, "seconds": took, "steps": steps}


def _step(step: Step, device: torch.device, weights: int, card: dict[str, Any]) -> dict[str, Any]:
    """Once to warm up, with its peak; once for its time. Shares are of the formula's work over the time."""
    try:
        peak = weights + peak_bytes(step.run, device)
        took = seconds(step.run, device)
        if step.begun is not None:
            took -= seconds(step.begun.run, device)
    except torch.cuda.OutOfMemoryError:
        _empty(device)
        return {"error": "out of memory", "peak_by_formula": weights + step.peak}
    done, kind = (step.moved, "bandwidth") if step.moved else (step.flops, "flops")
    if step.begun is not None:
        done -= step.begun.flops
    rate = done / max(took, 1e-9)
    sheet = card[f"sheet_{kind}"]
    return {
        "peak": peak,
        "peak_by_formula": weights + step.peak,
        "seconds": took,
        "bound_by": kind,
        "rate": rate,
        "share_of_sheet": rate / sheet if sheet else None,
        "share_of_measured": rate / card[f"measured_{kind}"],
    }


def _dtype(device: torch.device) -> str:
    """bfloat16, but on a CPU float32: some compute the other fifty times as slowly."""
    return "bfloat16" if device.type == "cuda" else "float32"


def _empty(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    import sys

    raise SystemExit(main(sys.argv[1:]))
