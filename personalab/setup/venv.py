"""The virtual environment: made once, filled with pinned packages, entered by every command.

Standard library only, in the syntax of Python 3.8: an old interpreter gets a message, not a traceback.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from personalab.paths import INSTALLED

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
CONSTRAINTS = "constraints.txt"
LAYERS = {"base": "requirements.txt", "dev": "requirements-dev.txt", "site": "requirements-site.txt"}
OLDEST_PYTHON = (3, 11)
NEWEST_PYTHON = (3, 14)  # the newest that the pinned packages have wheels for
OLDEST_MACOS, OLDEST_GLIBC = 14, "2.28"  # from the tags of the pinned PyTorch's wheels

_STAMP = "personalab-installed.json"  # written last: what is recorded here is completely installed
_UNFINISHED = "personalab-installing"  # there while pip works: found at the start, it means pip was cut short


class SetupError(RuntimeError):
    """The environment cannot be made; the message says what, where and how to fix it."""


def check_python() -> None:
    """Raise `SetupError` unless this interpreter is new enough."""
    if sys.version_info < OLDEST_PYTHON:
        found, wanted = (".".join(map(str, v)) for v in (sys.version_info[:3], OLDEST_PYTHON))
        raise SetupError(
            f"Python {wanted} or newer is needed; this is Python {found} at {sys.executable}.\n"
            f"Install a newer one from python.org, then name it: python{wanted} -m personalab ..., "
            f"or make PYTHON=python{wanted} ..."
        )


def check_machine() -> None:
    """Raise `SetupError` where the pinned packages have no wheels: pip would only say that it finds no version."""
    if why := _no_wheels():
        raise SetupError(
            f"The pinned packages cannot be installed here: {why}.\n"
            "With packages that you got in another way, set PERSONALAB_VENV=off."
        )


def _no_wheels() -> str | None:
    """Why this Python on this machine gets none, or None where it does. `.ci/pins.py` resolves where it does."""
    if sys.version_info[:2] > NEWEST_PYTHON:
        newest = ".".join(map(str, NEWEST_PYTHON))
        return f"they support Python up to {newest}, this is Python {sys.version_info[0]}.{sys.version_info[1]}"
    if sys.platform == "darwin":
        if platform.machine() == "x86_64":  # also an Intel Python on Apple silicon, which Rosetta translates
            return (
                "PyTorch has had no packages for Intel Macs since 2.3, and this Python is one for Intel.\n"
                "On a Mac with an M1 or newer, install Python from python.org and run this again with it"
            )
        found = platform.mac_ver()[0]
        old = int(found.partition(".")[0]) < OLDEST_MACOS
        return f"PyTorch needs macOS {OLDEST_MACOS} or newer, this is macOS {found}" if old else None
    kind = sysconfig.get_platform()  # of this Python: Windows on ARM emulates one for x64
    if kind not in ("win-amd64", "linux-x86_64", "linux-aarch64") or sys.maxsize < 2**32:
        return f"PyTorch has packages for a 64-bit Python on x64, or on Linux for aarch64, and this one is for {kind}"
    libc, version = platform.libc_ver() if sys.platform == "linux" else ("glibc", OLDEST_GLIBC)
    if libc != "glibc" or _numbers(version) < _numbers(OLDEST_GLIBC):
        return f"PyTorch needs glibc {OLDEST_GLIBC} or newer, this Linux has {libc or 'another C library'} {version}"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def ensure_env(dev: bool = False, site: bool = False) -> int | None:
    """Make `.venv` and install the pinned packages if anything is missing, then rerun this command inside it.

    Returns None when this process already runs in the right environment and may go on, else the exit code of
    the command that was run in it. `PERSONALAB_VENV=off` uses the current interpreter and installs nothing; so does an
    installed wheel.

    Raises:
        SetupError: old Python, no packages for this machine, no venv module, or a failed installation.
    """
    check_python()
    if INSTALLED or os.environ.get("PERSONALAB_VENV") == "off":
        return None
    layers = ["base", *(name for name, wanted in (("dev", dev), ("site", site)) if wanted)]
    with exclusive_lock(ROOT / ".venv.lock", waiting_for="another set-up in this folder"):
        if not is_installed(VENV, ROOT, layers):
            check_machine()
            install(VENV, ROOT, layers)
    return None if inside(VENV) else rerun(VENV)


def enter_env() -> int | None:
    """Rerun this command inside `.venv` if it is there, else go on in this interpreter; installs nothing.

    Returns None when this process may go on, else the exit code of the command that was run in `.venv`.
    """
    check_python()
    off = INSTALLED or os.environ.get("PERSONALAB_VENV") == "off"
    return None if off or inside(VENV) or not venv_python(VENV).exists() else rerun(VENV)


def venv_python(venv: Path) -> Path:
    """The interpreter of a virtual environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def inside(venv: Path) -> bool:
    """Whether this process runs in `venv`."""
    return Path(sys.prefix).resolve() == venv.resolve()


def fingerprint(root: Path, layer: str) -> str:
    """Hash of the files that fix a layer's packages."""
    return hashlib.sha256(b"\0".join((root / f).read_bytes() for f in (LAYERS[layer], CONSTRAINTS))).hexdigest()


def is_installed(venv: Path, root: Path, layers: Sequence[str]) -> bool:
    """Whether `venv` holds exactly what the requirement files of `layers` now ask for."""
    stamp = _read_stamp(venv)
    return venv_python(venv).exists() and all(stamp.get(layer) == fingerprint(root, layer) for layer in layers)


def made_by_us(venv: Path) -> bool:
    """Whether `install` made this environment, or was cut short while it did."""
    return (venv / _STAMP).exists() or (venv / _UNFINISHED).exists()


def _read_stamp(venv: Path) -> dict[str, str]:
    try:
        return json.loads((venv / _STAMP).read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # absent or cut short: nothing counts as installed
        return {}


def install(venv: Path, root: Path, layers: Sequence[str]) -> None:
    """Create `venv` if needed and install `layers`; the stamp comes last, so a broken try is repeated."""
    start = time.monotonic()
    unfinished = venv / _UNFINISHED
    if unfinished.exists() or (venv.exists() and not _runs(venv)):
        _remove_broken(venv)
    if not venv.exists():
        _create(venv)
    stamp = {layer: mark for layer, mark in _read_stamp(venv).items() if mark == fingerprint(root, layer)}
    files = [LAYERS[layer] for layer in layers]
    print(f"Installing {' and '.join(files)} into {venv} (some minutes the first time) ...", flush=True)
    _hint_cpu_build(venv)
    unfinished.touch()
    (venv / _STAMP).unlink(missing_ok=True)
    _pip_install(venv, root, files)
    _put_on_path(venv, root)
    unfinished.unlink()
    stamp.update({layer: fingerprint(root, layer) for layer in layers})
    (venv / _STAMP).write_text(json.dumps(stamp, indent=1))
    print(f"Environment ready after {time.monotonic() - start:.0f} s.", flush=True)


def _runs(venv: Path) -> bool:
    """Whether its interpreter starts (not once its base Python is gone), is new enough and has pip."""
    probe = f"import pip, sys; sys.exit(sys.version_info < {OLDEST_PYTHON})"
    try:
        return subprocess.run([venv_python(venv), "-c", probe], capture_output=True).returncode == 0
    except OSError:
        return False


def _remove_broken(venv: Path) -> None:
    if inside(venv):
        raise SetupError(
            f"The last installation into {venv} was cut short. Leave it (deactivate), then run this again."
        )
    print(f"{venv} is incomplete: making it anew.", flush=True)
    shutil.rmtree(venv)


def _create(venv: Path) -> None:
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        raise SetupError(
            f"{sys.executable} has no venv module, so no virtual environment can be made.\n"
            "On Debian and Ubuntu: sudo apt install python3-venv. Or use an environment of your own: in it,\n"
            f"pip install -r {LAYERS['base']} -c {CONSTRAINTS}, and set PERSONALAB_VENV=off."
        )
    made = subprocess.run([sys.executable, "-m", "venv", str(venv)], stdout=subprocess.PIPE, text=True)
    if made.returncode:
        shutil.rmtree(venv, ignore_errors=True)
        raise SetupError(
            f"Could not make a virtual environment at {venv}:\n{made.stdout.strip()}\n"
            "On Debian and Ubuntu, sudo apt install python3-venv mends the usual cause."
        )


def _pip_install(venv: Path, root: Path, files: Sequence[str]) -> None:
    wanted = [part for file in files for part in ("-r", file)]
    pip = [str(venv_python(venv)), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    code = run_child([*pip, *wanted, "-c", CONSTRAINTS], cwd=root)
    if code:
        raise SetupError(
            f"pip stopped with exit code {code}; its message is above. Check the network and the free space\n"
            f"for {venv}, then run the same command again: it makes that folder anew."
        )


def _put_on_path(venv: Path, root: Path) -> None:
    """Let this environment's kernels import `utils`, `tests` and `personalab` from whatever folder."""
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = subprocess.run([venv_python(venv), "-c", ask], capture_output=True, text=True, check=True)
    # A statement, because `!a` keeps it ASCII: Python < 3.13 reads .pth files in the locale's encoding.
    line = f"import sys; sys.path.append({str(root)!a})\n"
    Path(found.stdout.strip(), "personalab.pth").write_text(line, encoding="ascii")


def _hint_cpu_build(venv: Path) -> None:
    """On Linux without an NVIDIA driver, say how to avoid the CUDA libraries of the default PyTorch wheel."""
    redirected = any(os.environ.get(f"PIP_{name}") for name in ("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS"))
    if sys.platform != "linux" or shutil.which("nvidia-smi") or redirected or list(venv.glob("lib/*/*/torch")):
        return
    print(
        "Hint: there is no NVIDIA driver here, and on Linux PyPI's PyTorch brings GBs of CUDA libraries.\n"
        "      For the small CPU build: press Ctrl-C, choose Linux, Pip and CPU on\n"
        "      https://pytorch.org/get-started/locally, set PIP_EXTRA_INDEX_URL to the index named there,\n"
        "      and run the same command again.",
        flush=True,
    )


def rerun(venv: Path) -> int:
    """Run `python -m personalab` with this process's arguments inside `venv`; returns its exit code."""
    return run_child([str(venv_python(venv)), "-m", "personalab", *sys.argv[1:]], cwd=ROOT)


def run_child(command: Sequence[str], cwd: Path) -> int:
    """Run a command to its end and return its exit code (128 + n when signal n ended it).

    Ctrl-C reaches the child as well: it decides how to stop, this process waits for it and then stops too.
    """
    child = subprocess.Popen(command, cwd=str(cwd))
    interrupted = False
    while True:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            interrupted = True
            continue
        if interrupted and code:
            raise KeyboardInterrupt
        return code if code >= 0 else 128 - code


@contextmanager
def exclusive_lock(path: Path, waiting_for: str) -> Iterator[None]:
    """Hold a lock on `path` that the operating system drops when this process ends, however it ends."""
    with open(path, "a+b") as handle:
        if not _try_lock(handle.fileno()):
            print(f"Waiting for {waiting_for} ...", flush=True)
            while not _try_lock(handle.fileno()):
                time.sleep(0.2)
        yield  # closing the file releases the lock


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # held elsewhere: the first on POSIX, the second on Windows
        return False
    return True
