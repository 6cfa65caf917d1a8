"""Calls to a chat server: what one costs on our side, and how many go through as more are in flight.

The server is the stand-in, in a process of its own, and waits a little before every reply, as a model would.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Any
from unittest.mock import patch

from personalab.endpoint import generate_responses_parallel
from personalab.endpoint.client import make_client
from personalab.endpoint.stand_in import stand_in
from personalab.paths import ROOT

DELAY = 0.2  # seconds before each reply
WORKERS = (1, 2, 4, 8, 16, 32)
A_WORKER = 4  # calls
CALLS = 200  # for the cost of one


@contextmanager
def server(delay: float) -> Iterator[str]:
    """The address of a stand-in server in a process of its own, until the block ends."""
    command = [sys.executable, "-m", "benchmarks.costs.server", str(delay)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(timeout=30)


def measured(rounds: int) -> dict[str, Any]:
    """Calls a second by calls in flight, and milliseconds of our processor a call, with replies kept and without."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, _settings(folder)):
        with server(DELAY) as url:
            rates = [[_asked(url, w, w * A_WORKER, i)["rate"] for i in range(rounds)] for w in WORKERS]
        with server(0) as url:
            kept = [_asked(url, 8, CALLS, i)["processor"] for i in range(rounds)]
            with patch.dict(os.environ, PERSONALAB_RESPONSE_CACHE="off"):
                alone = [_asked(url, 8, CALLS, i)["processor"] for i in range(rounds)]
    found = {"delay": DELAY, "workers": list(WORKERS), "rate": rates, "kept_ms": kept, "not_kept_ms": alone}
    print(f"  calls/s: {[round(median(r)) for r in rates]}; {median(kept):.1f} ms a call, {median(alone):.1f} not kept")
    return found


def _settings(folder: str) -> Mapping[str, str]:
    return {"PERSONALAB_CACHE": folder, "OPENAI_API_KEY": "none", "PERSONALAB_RESPONSE_CACHE": "on"}


def _asked(url: str, workers: int, n: int, seed: int) -> dict[str, float]:
    """What `n` calls took: calls a second by the clock, and milliseconds of this process a call."""
    client = make_client(base_url=url)
    given = [[{"role": "user", "content": f"{workers}: how are you, {i}?"}] for i in range(n)]
    asked = {"model": "stand-in", "max_tokens": 40, "progress": False, "client": client}
    generate_responses_parallel(given, max_workers=workers, seed=-1 - seed, **asked)  # connects and warms up
    clock, processor = time.perf_counter(), time.process_time()
    generate_responses_parallel(given, max_workers=workers, seed=seed, **asked)
    rate, spent = n / (time.perf_counter() - clock), 1000 * (time.process_time() - processor) / n
    return {"rate": round(rate, 2), "processor": round(spent, 3)}


if __name__ == "__main__":
    with stand_in(float(sys.argv[1])) as opened:
        print(opened.url, flush=True)
        sys.stdin.read()  # until the other side closes it
