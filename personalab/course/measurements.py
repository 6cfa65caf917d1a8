"""Measured beside what the formulas say: tables of docs/tiers.md, from what benchmarks/results/ holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from personalab.files import read_text
from personalab.setup.gpu import BANDWIDTH_SHARE, FLOPS_SHARE

FORMULAS = Path("benchmarks/results/formulas.json")
ON_GPU = Path("benchmarks/results/gpu.json")
NO_RUN = "Not measured yet: `python -m benchmarks.bench_formulas` does it."
NO_GPU = "Not measured: no GPU. `python -m benchmarks.bench_gpu` measures it on one."
LEAST = {"flops": FLOPS_SHARE, "bandwidth": BANDWIDTH_SHARE}  # of the data sheet
CARD = 80e9  # bytes


def formulas(root: Path) -> list[str]:
    """Rows of a Markdown table, one a step and model, and what was measured on; or a line that says nothing was."""
    if not (root / FORMULAS).exists():
        return [NO_RUN]
    found = json.loads(read_text(root / FORMULAS))
    head = "| model, {} blocks of it | step | peak in float32, MB | in bfloat16, MB | GFLOP | decoding moves, MB |"
    lines = [head.format(found["blocks"]), "|---|---|---|---|---|---|"]
    for model, dtypes in found["models"].items():
        for step, row in dtypes["float32"].items():
            half = dtypes.get("bfloat16", {}).get(step)
            peaks = [_beside(row["peak"], 1e6), _beside(half["peak"], 1e6) if half else ""]
            moved = _beside(row["moved"], 1e6) if "moved" in row else ""
            lines.append(f"| {model} | {step} | {' | '.join(peaks)} | {_beside(row['flops'], 1e9)} | {moved} |")
    return [*lines, "", f"{found['machine']}, {found['date']}. In brackets: measured over formula."]


def _beside(pair: Sequence[float], unit: float) -> str:
    measured, formula = pair
    return f"{measured / unit:,.0f} ({measured / formula:.2f})"


def on_gpu(root: Path) -> list[str]:
    """Rows of a Markdown table, one a step and model; or a line that says that nothing was measured."""
    if not (root / ON_GPU).exists():
        return [NO_GPU]
    found = json.loads(read_text(root / ON_GPU))
    lines = [
        "| model | step | peak, GB | by formula | s | bound by | of the data sheet | of a plain product or copy |",
        "|---|---|---|---|---|---|---|---|",
        *_gpu_rows(found["models"]),
    ]
    rates = f"{found['measured_flops'] / 1e12:.0f} TFLOP/s, {found['measured_bandwidth'] / 1e12:.2f} TB/s"
    return [*lines, "", f"{found['card']}, torch {found['torch']}, {found['date']}. Plain product and copy: {rates}."]


def _gpu_rows(models: dict[str, Any]) -> Iterator[str]:
    for model, measured in models.items():
        for step, row in measured["steps"].items():
            if "error" in row:
                yield f"| {model} | {step} | {row['error']} | {row['peak_by_formula'] / 1e9:.1f} | | | | |"
                continue
            peak = f"{row['peak'] / 1e9:.1f}{' (over 80)' if row['peak'] > CARD else ''}"
            sheet, least = row["share_of_sheet"], LEAST[row["bound_by"]]
            of_sheet = (
                "no data sheet" if sheet is None else f"{sheet:.0%}{'' if sheet >= least else f' (below {least:.0%})'}"
            )
            cells = [model, step, peak, f"{row['peak_by_formula'] / 1e9:.1f}", f"{row['seconds']:.2f}", row["bound_by"]]
            yield f"| {' | '.join(cells)} | {of_sheet} | {row['share_of_measured']:.0%} |"
