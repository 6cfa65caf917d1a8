"""One piece of work by one process and by two: `accelerate launch` starts this, and the two take turns with one.

Two processes, one thread each. What counts is the longer of the two processes' processor seconds: what a clock would
show where nothing else runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import utils
from benchmarks.costs.engine import MANY, texts
from benchmarks.costs.quantity import Work
from personalab.lm import chat, processes
from personalab.lm.activations import pool
from personalab.lm.generation import generate, requests_for
from personalab.lm.interventions import Steer
from personalab.lm.models import d_model
from personalab.paths import ROOT

COUNT = 2
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(COUNT), "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
BATCHES = 8  # of about equal size, four for each of two
TOKENS = 6  # of an answer


def works() -> dict[str, Work]:
    """Pooling, a sweep of nine coefficients on two prompts, and answers, in eight, six and eight batches."""
    model, tokenizer = utils.load_model("persona")
    direction = torch.randn(d_model(model), generator=torch.Generator().manual_seed(0))
    steer = [Steer(7, direction, torch.linspace(-1, 1, 9).repeat_interleave(2))]
    asked = [chat.as_messages(None, MANY.format(i)) for i in range(3 * BATCHES)]
    few = [chat.as_messages(None, MANY.format(i)) for i in range(2)] * 9
    swept = requests_for(few, TOKENS, 0.0, interventions=steer)
    encoded = texts(8 * BATCHES, 32)
    answered = requests_for(asked, TOKENS, 0.0)
    return {
        "pooling": lambda: [x.tolist() for x in pool(model, encoded, [11], batch_tokens=8 * 32)],
        "sweep": lambda: generate(model, tokenizer, swept, interventions=steer, max_batch_rows=3),
        "answers": lambda: generate(model, tokenizer, answered, max_batch_rows=3),
    }


def main(folder: Path, rounds: int) -> None:
    """Rank 0 writes what all rounds took; the round before them warms up."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name, work in works().items():
        entry: dict[str, Any] = {"one": [], "two": [], "clock_one": [], "clock_two": []}
        for i in range(rounds + 1):
            for kind in ("one", "two") if i % 2 else ("two", "one"):
                out, processor, clock = _taken(work, kind)
                if i:
                    entry[kind].append(round(processor, 3))
                    entry[f"clock_{kind}"].append(round(clock, 3))
                if kind == "two":
                    both = out
                elif processes.rank() == 0:
                    alone = out
        entry["same"] = processes.rank() > 0 or both == alone
        found[name] = entry
    if processes.rank() == 0:
        (folder / "several.json").write_text(json.dumps(found), encoding="utf-8")


def _taken(work: Work, kind: str) -> tuple[object, float, float]:
    """Result, processor seconds of the process that worked longer, and the clock's."""
    processes.agreed(None)  # both begin together
    clock, start, out = time.perf_counter(), time.process_time(), None
    if kind == "two":
        out = work()
    elif processes.rank() == 0:
        with processes.alone():
            out = work()
    spent = processes.exchanged({processes.rank(): time.process_time() - start})
    return out, max(spent.values()), time.perf_counter() - clock


def measured(rounds: int) -> dict[str, Any]:
    """Processor and clock seconds of one process and of two, by kind of work."""
    own = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *LAUNCH, "-m", "benchmarks.costs.several", folder, str(rounds)]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"accelerate launch failed with exit code {done.returncode}: {done.stderr[-2000:]}")
        found = json.loads((Path(folder) / "several.json").read_text(encoding="utf-8"))
    for name, entry in found.items():
        print(f"  {name}: one {entry['one']}, two {entry['two']} s")
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
