"""Killing a job at random moments, or filling its disk, and counting what it cost."""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from personalab.studies import faults_jobs as work
from personalab.studies.faults_jobs import Job, Pieces, beside, noted
from personalab.studies.faults_server import ChatServer, package_index

PATIENCE = 300  # seconds that a job may take where nothing disturbs it


@dataclass
class Row:
    """A line of the table.

    Attributes:
        what: what was disturbed.
        disturbed: by what, `times` times.
        n: how many things could have been lost.
        lost: of them, those that are gone, changed or damaged, or were never made.
        twice: how many were made or paid for although they were there.
        again: how many were cut off before they were on disk, and had to be made again.
        notes: what was seen besides.
    """

    what: str
    disturbed: str
    times: int = 0
    n: int = 0
    lost: int = 0
    twice: int = 0
    again: int = 0
    notes: list[str] = field(default_factory=list)


@contextmanager
def all_jobs(folder: Path, share: float, n_texts: int, seed: int) -> Iterator[list[Job]]:
    """The five jobs; while open, the servers that two of them ask are running."""
    texts = [f"question {i}" for i in range(n_texts)]
    wheel = work.small_wheel(folder)
    with ChatServer(share, seed).running() as chat, package_index(wheel) as (index, fetched):
        yield [
            Job("requests", work.ask, work.replies, (chat.url, texts), chat.paid_by),
            Job("persona pipeline", work.pipeline, work.steps),
            Job("finetuning", work.finetuning, work.steps_and_adapter),
            Job(
                "fetch",
                work.fetch,
                work.fetched,
                (index, work.digest(wheel)),
                lambda process: ["wheel"] * fetched[str(process)],
            ),
            Job("record", work.results, work.recorded),
        ]


def environment(folder: Path) -> dict[str, str]:
    """Settings under which everything a job keeps lies in `folder`, and nothing of the user's plays a part."""
    return {
        "PERSONALAB_CACHE": str(folder / "cache"),
        "PERSONALAB_ARTIFACTS": str(folder / "artifacts"),
        "PERSONALAB_RESPONSE_CACHE": "on",
        "PERSONALAB_TIER": "cpu",
        "PERSONALAB_DTYPE": "float32",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


@contextmanager
def settings(folder: Path) -> Iterator[None]:
    """`environment(folder)` is in force."""
    before = dict(os.environ)
    os.environ.update(environment(folder))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def launch(
    work: Callable[..., None], folder: Path, arguments: Sequence[Any] = ()
) -> multiprocessing.process.BaseProcess:
    """Start `work(folder, *arguments)` in a process of its own; returns when it has begun."""
    folder.mkdir(parents=True, exist_ok=True)
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:  # imports torch once; every process is a fork of it
        context.set_forkserver_preload(["personalab.studies.faults_jobs"])
    ours, theirs = context.Pipe(duplex=False)
    process: multiprocessing.process.BaseProcess = context.Process(
        target=_run, args=(theirs, work, folder, arguments, environment(folder)), daemon=True
    )
    process.start()
    theirs.close()
    ours.recv_bytes()
    return process


def _run(
    begun: Connection, work: Callable[..., None], folder: Path, arguments: Sequence[Any], env: Mapping[str, str]
) -> None:
    import torch
    from tqdm.auto import tqdm

    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own outlives a killed process
    os.environ.update(env)
    output = os.open(beside(folder, "out"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    begun.send_bytes(b"begun")
    try:
        work(folder, *arguments)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def finish(job: Job, folder: Path) -> float:
    """Let a job run to its end; the seconds it took.

    Raises:
        RuntimeError: if it fails, with the end of what it wrote.
    """
    process = launch(job.work, folder, job.arguments)
    start = time.monotonic()
    process.join(PATIENCE)
    if process.exitcode != 0:
        process.kill()
        raise RuntimeError(f"{job.name}: {last_words(folder)}")
    return time.monotonic() - start


def last_words(folder: Path) -> str:
    """The end of what a job wrote."""
    text = beside(folder, "out").read_text(errors="replace").strip()
    return text[-600:] or "it ended without a word"


def kills(job: Job, n: int, folder: Path, seed: int) -> Row:
    """Kill a job `n` times, each at a moment drawn from an undisturbed run's length; it goes on where it was."""
    seconds = finish(job, folder / "undisturbed")
    expected = job.pieces(folder / "undisturbed")
    row, luck = Row(job.name, "kills", n), random.Random(f"{seed}/{job.name}")
    killed, runs, done = 0, 0, False
    while killed < n or not done:
        place = folder / f"run {runs}"
        code = _disturbed(job, place, luck.random() * seconds if killed < n else PATIENCE, expected, row)
        done, killed = code == 0, killed + (code is None)
        if done:
            runs += 1
        elif code or killed > n:  # it failed, or hung where nothing disturbed it
            row.lost += 1
            row.notes.append(last_words(place))
            break
    row.n = len(expected) * runs
    row.notes.append(f"undisturbed: {seconds:.1f} s; {runs} runs came to their end")
    return row


def _disturbed(job: Job, place: Path, wait: float, expected: Pieces, row: Row) -> int | None:
    """One launch; its exit code, None where it was killed. What it cost is added to `row`."""
    had, before = job.pieces(place), len(noted(place, "made"))
    process = launch(job.work, place, job.arguments)
    process.join(wait)
    killed = process.is_alive()
    process.kill()
    process.join()
    made = Counter([*noted(place, "made")[before:], *job.served(process.pid)])
    count(job, place, had, made, expected, row)
    if killed and process.exitcode != 0:
        return None
    if process.exitcode == 0:
        row.lost += len(expected.keys() - job.pieces(place).keys() - {"weights"})
    return process.exitcode


def count(job: Job, place: Path, had: Pieces, made: Counter[str], expected: Pieces, row: Row) -> None:
    """Add to `row` what is lost, made twice or to be made again, since the folder `had` these pieces."""
    has = job.pieces(place)
    gone = {name for name in {*had, *noted(place, "kept")} if name not in has}
    row.lost += len(gone | {name for name, content in has.items() if content != expected.get(name)})
    row.twice += sum(times - (name not in had and name in expected) for name, times in made.items())
    row.again += len(made.keys() - has.keys())
