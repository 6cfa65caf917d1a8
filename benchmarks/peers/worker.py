"""One side in a process of its own: `python -m benchmarks.peers.worker SIDE FOLDER DTYPE`.

A job is a line of JSON on stdin, its answer one on stdout: seconds of the clock and of the processor, the most memory
that it held beyond what was there before it, and what came out.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.sides import SIDES

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main() -> None:
    name, folder, dtype = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a package prints is no answer
    torch.set_num_threads(1)
    side = SIDES[name](folder, dtype)
    for line in sys.stdin:
        try:
            answer = timed(side, json.loads(line))
        except Exception as error:  # its failure is a result; the others go on
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def timed(side: Any, job: dict[str, Any]) -> dict[str, Any]:
    """One job done, and what it took."""
    if "vector" in job:
        job["vector"] = torch.tensor(job["vector"])
    call = getattr(side, job.pop("do"))
    before = _reset_peak()
    clock, processor = time.perf_counter(), time.process_time()
    out = call(**job)
    took = {"clock": time.perf_counter() - clock, "processor": time.process_time() - processor}
    peak = None if before is None else (_memory("VmHWM") - before) / 1024
    return {**took, "peak_mb": peak, "out": out if isinstance(out, list) else out.tolist()}


def _reset_peak() -> int | None:
    """Kilobytes in use, with the record of their maximum begun anew; None where the system keeps none (not Linux)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # else what an earlier job freed counts as in use
        _RESET.write_text("5")
        return _memory("VmRSS")
    except (OSError, AttributeError, TypeError):
        return None


def _memory(name: str) -> int:
    return int(next(line for line in _STATUS.read_text().splitlines() if line.startswith(name)).split()[1])


if __name__ == "__main__":
    main()
