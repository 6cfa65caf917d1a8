"""Every peer on the same work, in turns: extraction, steered generation, and a sweep of nine coefficients.

    python -m benchmarks.peers --task one --dtype float32      # or: make bench-peers, for all of it

One thread each, and seconds of the processor: what a clock would show on an idle machine, and far less disturbed where
it is not. What comes out is compared before anything is timed. Results go to `benchmarks/results/peers.json`, one part
for every task, dtype and kind of processor, and the table in `benchmarks/README.md` is drawn from them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers import table
from benchmarks.peers.environments import PEERS, interpreter
from benchmarks.peers.limits import limits
from benchmarks.peers.work import (
    BLOCK,
    COEFFICIENTS,
    N_PROMPTS,
    N_TEXTS,
    N_TOKENS,
    SWEEP_PROMPTS,
    SWEEP_TOKENS,
    model_folder,
    work,
)
from personalab.files import write
from personalab.paths import ROOT
from personalab.setup.machine import cpu_name

BATCHES = {
    "one": (N_TEXTS // 2, N_TEXTS),
    "shared": (N_TEXTS // 2, N_TEXTS),
    "all": (N_TEXTS // 2, N_TEXTS),
    "generate": (N_PROMPTS,),
    "sweep": (SWEEP_PROMPTS,),
}
N_BLOCKS = 30
SIDES = ("ours", *PEERS)
Run = tuple[str, int | None]  # a side, and its batch: None for its default


class Worker:
    """A side in a process of its own; it waits while the others work."""

    def __init__(self, side: str, folder: Path, dtype: str) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        command = [interpreter(side), "-m", "benchmarks.peers.worker", side, folder, dtype]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def do(self, job: dict[str, Any]) -> dict[str, Any]:
        """Its answer; one with "error" if it failed, or ended."""
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, ValueError):
            return {"error": f"the process ended with exit code {self.process.poll()}"}


def job_of(task: str, given: dict[str, Any], vector: list[float]) -> dict[str, Any]:
    """What is asked of every side."""
    if task in ("one", "shared", "all"):
        texts = given["shared" if task == "shared" else "unlike"]
        return {"do": "extract", "texts": texts, "blocks": list(range(N_BLOCKS)) if task == "all" else [BLOCK]}
    many, n = (N_PROMPTS, N_TOKENS) if task == "generate" else (SWEEP_PROMPTS, SWEEP_TOKENS)
    coefficients = [1.0] if task == "generate" else COEFFICIENTS
    asked = {"prompts": many, "block": BLOCK, "vector": vector, "coefficients": coefficients, "n": n}
    return {"do": "generate", **asked}


def asked_of(side: str, job: dict[str, Any], given: dict[str, Any], batch: int | None) -> dict[str, Any]:
    """The job in the side's own words: ours takes conversations, the others rendered text."""
    if job["do"] == "extract":
        return job | {"batch": batch}
    prompts = given["messages" if side == "ours" else "prompts"][: job["prompts"]]
    return job | {"prompts": prompts, "batch": batch}


def agreement(out: Any, ours: Any) -> float:
    """Of vectors the norm of the difference over that of ours, at the worst block; of texts the share of equal ones.

    Of all blocks the last is left out: some read it behind the final norm.
    """
    if isinstance(ours[0][0], str):
        same = [a == b for mine, theirs in zip(ours, out, strict=True) for a, b in zip(mine, theirs, strict=True)]
        return sum(same) / len(same)
    a, b = np.array(out), np.array(ours)
    kept = slice(None, -1) if len(b) > 1 else slice(None)
    return float((np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1))[kept].max())


def measure(
    task: str, workers: dict[str, Worker], given: dict[str, Any], job: dict[str, Any], rounds: int
) -> dict[str, Any]:
    """Seconds of every side at its default and at the best of the batches, taking turns; and whether all agree."""
    first: dict[Run, dict[str, Any]] = {}
    for side, worker in workers.items():  # warms up, compares, finds the best batch, sees the memory
        # Ours twice: what a first call reads of the weights' file would count as its memory.
        for batch in (None, None) if side == "ours" else (None, *BATCHES[task]):
            first[side, batch] = worker.do(asked_of(side, job, given, batch) | {"watch": True})
    ours = first["ours", None]["out"]
    runs: list[Run] = []
    found: dict[str, Any] = {}
    for side in workers:
        worked = {run: answer for run, answer in first.items() if run[0] == side and "error" not in answer}
        found[side] = {"errors": sorted({a["error"] for r, a in first.items() if r[0] == side and "error" in a})}
        tried = {run: answer["processor"] for run, answer in worked.items() if run[1] is not None}
        runs += [run for run in worked if run[1] is None] + ([min(tried, key=tried.__getitem__)] if tried else [])
        if worked:
            found[side]["agreement"] = [agreement(answer["out"], ours) for answer in worked.values()]
    taken: dict[Run, list[dict[str, Any]]] = {run: [] for run in runs}
    for i in range(rounds):
        for side, batch in runs if i % 2 == 0 else runs[::-1]:
            answer = workers[side].do(asked_of(side, job, given, batch))
            taken[side, batch].append({key: answer[key] for key in ("processor", "clock")})
    for (side, batch), answers in taken.items():
        kind = "default" if batch is None else "best"
        numbers = {key: [round(a[key], 3) for a in answers] for key in answers[0]}
        found[side][kind] = {"batch": batch, "peak_mb": first[side, batch]["peak_mb"], **numbers}
        print(f"  {task}: {side}, {kind} {batch or ''} {statistics.median(numbers['processor']):.2f} s", flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    options.add_argument("--task", action="append", choices=list(BATCHES), help="repeatable (default: all)")
    options.add_argument("--dtype", action="append", choices=("float32", "bfloat16"), help="repeatable (default: both)")
    options.add_argument("--side", action="append", choices=SIDES[1:], help="repeatable (default: all)")
    options.add_argument("--rounds", type=int, default=3)
    args = options.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = model_folder(Path(scratch))
        given = work(folder)
        for dtype in args.dtype or ("float32", "bfloat16"):
            with ExitStack() as stack:
                sides = ["ours", *(args.side or PEERS)]
                workers = {side: stack.enter_context(Worker(side, folder, dtype)) for side in sides}
                for task in args.task or BATCHES:
                    keep(dtype, task, run_task(task, workers, given, args.rounds) | {"limits": limits(dtype)})
    table.write_table()
    return 0


def run_task(task: str, workers: dict[str, Worker], given: dict[str, Any], rounds: int) -> dict[str, Any]:
    """A task's part of the results."""
    read = {"do": "extract", "texts": given["unlike"], "blocks": [BLOCK], "batch": None}
    job = job_of(task, given, workers["ours"].do(read)["out"][0])
    found = measure(task, workers, given, job, rounds)
    amount = {"generate": N_PROMPTS * N_TOKENS, "sweep": len(COEFFICIENTS) * SWEEP_PROMPTS * SWEEP_TOKENS}
    return {
        "machine": {"cpu": cpu_name(), "threads": 1, "torch": metadata.version("torch")},
        "date": date.today().isoformat(),
        "rounds": rounds,
        "amount": amount.get(task, N_TEXTS),
        "tokens_each": round(given["lengths"]["shared" if task == "shared" else "unlike"], 1),
        "sides": found,
    }


def keep(dtype: str, task: str, part: dict[str, Any]) -> None:
    """Replace this part of the results: the task's, in this dtype, on CPUs with as wide vectors as this one."""
    kept = json.loads(table.RESULTS.read_text(encoding="utf-8")) if table.RESULTS.exists() else {}
    kept.setdefault(f"{dtype}, {torch.backends.cpu.get_cpu_capability()}", {})[task] = part
    write(table.RESULTS, json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
