"""What is lost, and what is paid for twice, when servers fail, processes are killed, disks are full and files damaged.

    python -m personalab faults            # some minutes on two cores; needs no weights
    python -m personalab faults --record   # and put it on record: benchmarks/results/faults.json, README lines

Everything runs on tiny models and servers on this machine, in a temporary folder, through the code that the course
uses. A request is paid for when the server sends a whole answer: what it sends to a process that is dead by then counts
as made again, not as paid twice.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from personalab.files import write_all
from personalab.paths import ROOT
from personalab.records.provenance import describe
from personalab.records.schema import DataError
from personalab.studies.faults_disk import full_disk
from personalab.studies.faults_files import hostile_files
from personalab.studies.faults_jobs import ask, replies
from personalab.studies.faults_kills import PATIENCE, Row, all_jobs, kills, last_words, launch, settings
from personalab.studies.faults_server import KINDS, ChatServer, answer_to

REQUESTS, KILLS, SHARE = 1000, 50, 0.2
RECORDED = Path("benchmarks") / "results" / "faults.json"
START, END = "<!-- faults:start -->", "<!-- faults:end -->"


def make(requests: int = REQUESTS, n_kills: int = KILLS, *, seed: int = 0, on_record: bool = False) -> None:
    """Print the table.

    Args:
        requests: to the faulty server; a tenth of them to the jobs that are killed.
        n_kills: shared out evenly among five jobs.
        seed: of the faults and the moments of the kills.
        on_record: write `benchmarks/results/faults.json`, the README's line and the table in `docs/robustness.md`.

    Raises:
        ValueError: if something was lost or paid twice, or if it is to go on record where there is no checkout.
    """
    if on_record and not (ROOT / "benchmarks").is_dir():
        raise ValueError(f"--record needs a checkout of the repository; {ROOT} has no benchmarks/.")
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as scratch:
        rows = measure(requests, n_kills, seed, Path(scratch))
    print(table(rows))
    if any(row.lost or row.twice for row in rows):
        raise ValueError("Something was lost or paid twice (see the table): that is mended, not put on record.")
    if on_record:
        seconds = time.monotonic() - start
        rows_found = [asdict(row) for row in rows]
        put_on_record({"rows": rows_found, "seed": seed, "share": SHARE, "seconds": seconds, "machine": describe()})


def measure(requests: int, n_kills: int, seed: int, folder: Path) -> list[Row]:
    """All rows; a line is printed as each begins."""
    small = max(20, requests // 10)
    rows = [_said(faulty_server(requests, seed, _new(folder, "requests")))]
    rows.append(_said(two_processes(requests // 3, seed, _new(folder, "two"))))
    place = _new(folder, "kills")
    with all_jobs(place, SHARE, small, seed) as jobs:
        for i, job in enumerate(jobs):
            share = n_kills // len(jobs) + (i < n_kills % len(jobs))
            if share:
                rows.append(_said(kills(job, share, place / job.name, seed)))
    rows += map(_said, full_disk(_new(folder, "disk"), seed, small))
    return [*rows, _said(hostile_files(_new(folder, "files")))]


def faulty_server(n: int, seed: int, folder: Path) -> Row:
    """`n` requests through one process, to a server that fails at a share of all tries."""
    texts = [f"question {i}" for i in range(n)]
    row = Row("requests", "", n=n)
    with settings(folder), ChatServer(SHARE, seed).running() as server:
        ask(folder, server.url, texts)
        ask(folder, server.url, texts)  # all of it from the cache
    row.lost, row.twice = _balance(texts, server, folder)
    row.times, row.disturbed = sum(server.faults.values()), f"faults of {len(KINDS)} kinds"
    row.notes.append(", ".join(f"{kind}: {server.faults[kind]}" for kind in KINDS))
    return row


def two_processes(n: int, seed: int, folder: Path) -> Row:
    """The same `n` requests by two processes at once, on one cache."""
    texts = [f"question {i}" for i in range(n)]
    row = Row("requests", "processes on one cache", 2, n)
    with ChatServer(SHARE, seed).running() as server:
        processes = [launch(ask, folder, (server.url, texts)) for _ in range(2)]
        for process in processes:
            process.join(PATIENCE)
    row.lost, row.twice = _balance(texts, server, folder)
    if failed := [p.exitcode for p in processes if p.exitcode != 0]:
        row.lost += len(failed)
        row.notes.append(last_words(folder))
    return row


def _balance(texts: Sequence[str], server: ChatServer, folder: Path) -> tuple[int, int]:
    """How many answers are missing or wrong, and how many were paid for once more."""
    kept = replies(folder)
    return sum(kept.get(text) != answer_to(text) for text in texts), sum(server.paid.values()) - len(kept)


def table(rows: Sequence[Row]) -> str:
    """The rows, a line each, and their sums."""
    lines = [
        "| what | disturbed by | pieces | lost | paid or made twice | cut off, made again |",
        "|---|---|---|---|---|---|",
    ]
    lines += [f"| {r.what} | {r.times} {r.disturbed} | {r.n:,} | {r.lost} | {r.twice} | {r.again} |" for r in rows]
    total = [sum(getattr(r, name) for r in rows) for name in ("n", "lost", "twice", "again")]
    return "\n".join([*lines, f"| **in all** | | {total[0]:,} | {total[1]} | {total[2]} | {total[3]} |"])


def sentence(found: dict[str, Any]) -> str:
    """The README's line, from what is on record."""
    rows = found["rows"]
    lost, twice, again, n = (sum(row[name] for row in rows) for name in ("lost", "twice", "again", "n"))
    times = Counter[str]()
    for row in rows:
        times[row["disturbed"]] += row["times"]
    return (
        "**Reliability**, [counted](docs/robustness.md#faults-counted) by `python3 -m personalab faults`: "
        f"{rows[0]['n']:,} requests at {100 * found['share']:.0f} % faults, two processes on one cache, "
        f"{times['kills']} kills, {times['full disks']} full disks, {times['damaged files']} damaged files: "
        f"{lost} results lost, {twice} paid twice once kept; {again} of {n:,}, cut off, made again."
    )


def pages(found: dict[str, Any], root: Path = ROOT) -> dict[Path, str]:
    """The README with its line and docs/robustness.md with its table, between their marks.

    Raises:
        DataError: if the marks are not there.
    """
    rows = [Row(**row) for row in found["rows"]]
    texts = {root / "README.md": sentence(found), root / "docs" / "robustness.md": table(rows)}
    return {path: _between_marks(path, text) for path, text in texts.items()}


def _between_marks(path: Path, text: str) -> str:
    whole = path.read_text("utf-8")
    if START not in whole or END not in whole:
        raise DataError(f"{path} has no {START} and {END}: put them back around what `faults --record` writes.")
    return f"{whole.partition(START)[0]}{START}\n{text}\n{END}{whole.partition(END)[2]}"


def put_on_record(found: dict[str, Any], root: Path = ROOT) -> None:
    """Write the table as JSON, the README's line and the table."""
    write_all({root / RECORDED: json.dumps(found, indent=1) + "\n", **pages(found, root)})


def _new(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def _said(row: Row) -> Row:
    print(f"{row.what}, {row.times} {row.disturbed}: {row.lost} lost, {row.twice} twice", flush=True)
    for note in row.notes if row.lost or row.twice else ():
        print(f"  {note}", flush=True)
    return row
