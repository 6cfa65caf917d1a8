"""One side in a process of its own: `python -m benchmarks.peers.worker SIDE FOLDER DTYPE`.

A job is a line of JSON on stdin, its answer one on stdout: seconds of the clock and of the processor, the most memory
that it held beyond what was there before it (of a job that is watched, which the watching slows), and what came out.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.sides import SIDES

_PAGES = Path("/proc/self/statm")  # of Linux
_PAUSE = 0.002  # seconds between two looks at the memory


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
    with Watch() if job.pop("watch", False) and _PAGES.exists() else nullcontext() as watch:
        clock, processor = time.perf_counter(), time.process_time()
        out = call(**job)
        took = {"clock": time.perf_counter() - clock, "processor": time.process_time() - processor}
    return {**took, "peak_mb": watch and watch.peak_mb, "out": out if isinstance(out, list) else out.tolist()}


class Watch:
    """The most memory in use while it is open, beyond what was when it opened, in MB."""

    def __enter__(self) -> Watch:
        ctypes.CDLL(None).malloc_trim(0)  # else what an earlier job freed counts as in use
        self.peak_mb, self._done, before = 0.0, threading.Event(), self._used()
        self._thread = threading.Thread(target=self._look, args=(before,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self, before: float) -> None:
        while not self._done.wait(_PAUSE):
            self.peak_mb = max(self.peak_mb, self._used() - before)

    @staticmethod
    def _used() -> float:
        return int(_PAGES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
