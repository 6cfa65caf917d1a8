"""A disk that is full: every job of `faults` with room for ever more, until it gets to its end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from personalab.paths import ROOT
from personalab.studies.faults_jobs import Job, noted
from personalab.studies.faults_kills import PATIENCE, Row, all_jobs, count, finish, last_words, launch

DISK = 48  # MiB; the largest job needs some 10
ROOM = (0, 16, 64, 256, 1024, 4096, 16384)  # KiB that are left, one try each; the last is enough for every job
_PROGRAM = "import sys; from personalab.studies.faults_disk import main; main(*sys.argv[1:])"


def full_disk(folder: Path, seed: int, n_texts: int) -> list[Row]:
    """One row a job, in a mount namespace of our own with a small file system in memory; none where that is impossible.

    Raises:
        RuntimeError: if it fails for another reason.
    """
    if not _possible():
        return []
    program = [*_namespace(), sys.executable, "-c", _PROGRAM, str(folder), str(seed), str(n_texts)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"The full disk could not be tried: {done.stderr[-600:]}")
    return [Row(**row) for row in json.loads((folder / "rows.json").read_text())]


def main(folder: str, seed: str, n_texts: str) -> None:
    """In the namespace: try all jobs and leave the rows in `rows.json`."""
    place = Path(folder)
    with all_jobs(place, 0.0, int(n_texts), int(seed)) as jobs:
        rows = [_row(job, place) for job in jobs]
    (place / "rows.json").write_text(json.dumps([asdict(row) for row in rows]))


def _row(job: Job, folder: Path) -> Row:
    finish(job, folder / f"{job.name}, undisturbed")
    expected = job.pieces(folder / f"{job.name}, undisturbed")
    disk = folder / f"{job.name}, disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "none", str(disk)], check=True)
    row, unclear = Row(job.name, "full disks", n=len(expected)), set[str]()
    for room in ROOM:
        _leave(room * 1024, disk)
        had, before = job.pieces(disk), len(noted(disk, "made"))
        process = launch(job.work, disk, job.arguments)
        process.join(PATIENCE)
        made = Counter([*noted(disk, "made")[before:], *job.served(process.pid)])
        count(job, disk, had, made, expected, row)
        if process.exitcode == 0 and not expected.keys() - job.pieces(disk).keys() - {"weights"}:
            break
        row.times += 1
        error = last_words(disk)
        if process.exitcode and "space" not in error:
            unclear.add(error.splitlines()[-1])
    else:
        row.lost += len(expected)
        row.notes.append(last_words(disk))
    row.notes += sorted(unclear)
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
    return row


def _leave(free: int, disk: Path) -> None:
    """Fill the disk up, so that so many bytes are left."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    with filler.open("wb") as handle:
        os.posix_fallocate(handle.fileno(), 0, max(1, shutil.disk_usage(disk).free - free))


def _namespace() -> list[str]:
    return ["unshare", "--map-root-user", "--mount"]


def _possible() -> bool:
    """Whether this system lets us mount in a namespace of our own."""
    if not (shutil.which("unshare") and shutil.which("mount")):
        return False
    trial = "mount -t tmpfs -o size=1m none /mnt"
    return subprocess.run([*_namespace(), "sh", "-c", trial], capture_output=True).returncode == 0
