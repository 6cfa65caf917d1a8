"""`python -m personalab doctor`: this machine, the tier that fits it, what is missing and how to get it."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from personalab import tiers
from personalab.files import dotenv_text
from personalab.paths import INSTALLED, ROOT, cache_dir, workplace
from personalab.setup import venv, weights
from personalab.setup.machine import GEMM_SIZE, cpu_name, gemm_seconds, store, tier_dtype
from personalab.setup.shapes import SHAPES

GB = 1e9
ENDPOINT_KEYS = ("OPENROUTER_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL")  # any one of them will do

# Bytes that the system reports, at least, for memory sold as 4 GB and for GPUs sold as 80 and 16 GB.
_MEMORY_NEEDED = 3.5 * GB  # our choice: converting the weights peaks at 1.2 GB, next to a system and a browser
_GPU_NEEDED = {"a100": 75 * GB, "colab": 14 * GB}
_SETUP = "python3 -m personalab setup"


@dataclass(frozen=True)
class Machine:
    """What decides which tier fits. Memory and disk in bytes; `gpu` is None where torch sees none."""

    memory_total: float
    memory_free: float
    disk_free: float
    cores: int
    gpu: str | None = None
    gpu_memory: float = 0


@dataclass(frozen=True)
class Problem:
    """Something that keeps the current tier from running, and its remedy."""

    what: str
    fix: str


def fitting_tier(machine: Machine) -> str | None:
    """The largest tier that this machine can run, or None if its memory is too small for any."""
    for name, needed in _GPU_NEEDED.items():
        if machine.gpu_memory >= needed:
            return name
    return "cpu" if machine.memory_total >= _MEMORY_NEEDED else None


def hardware_problems(tier: str, machine: Machine) -> list[Problem]:
    """What `tier` needs and this machine lacks."""
    needed = _GPU_NEEDED.get(tier, 0)
    problems = []
    if machine.gpu_memory < needed:
        has = f"{machine.gpu} has {machine.gpu_memory / GB:.0f} GB" if machine.gpu else "torch sees none"
        fix = f"set PERSONALAB_TIER={fitting_tier(machine) or 'cpu'}, or use a larger GPU"
        problems.append(Problem(f"tier {tier} needs a GPU with {needed / GB:.0f} GB: {has}", fix))
    if machine.memory_total < _MEMORY_NEEDED:
        found, wanted = machine.memory_total / GB, _MEMORY_NEEDED / GB
        problems.append(Problem(f"{found:.1f} GB of memory, {wanted:.0f} GB are needed", "use a larger machine"))
    return problems


def wanted_packages(*files: Path) -> dict[str, str]:
    """Package name -> exact version, from `name==version` lines."""
    lines = [line.split("#")[0].strip() for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return {name: version for name, exact, version in (line.partition("==") for line in lines) if exact}


def package_problems(wanted: Mapping[str, str], fix: str) -> list[Problem]:
    """Packages that are missing or of another version; a local suffix such as `+cpu` is no difference."""
    problems = []
    for name, version in wanted.items():
        try:
            found = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            problems.append(Problem(f"{name} {version} is not installed", fix))
            continue
        if found != version:
            problems.append(Problem(f"{name} is version {found}, the course is pinned to {version}", fix))
    return problems


def weights_problems() -> list[Problem]:
    """Whether the embedded models are complete and every byte is as converted."""
    problems = []
    for model in weights.MODELS:
        if damage := weights.verify_weights(model.folder):
            fix = _SETUP if damage == weights.ABSENT else f"delete {model.folder}, then {_SETUP}"
            problems.append(Problem(f"{model.name}: {damage}", fix))
    return problems


def examine_machine() -> Machine:
    """Measure this machine."""
    total, free = _memory()
    gpu, gpu_memory = _gpu()
    disk = shutil.disk_usage(cache_dir()).free
    return Machine(total, free, disk, os.cpu_count() or 1, gpu, gpu_memory)


def _gpu() -> tuple[str | None, float]:
    try:
        import torch
    except ImportError:  # reported among the packages
        return None, 0
    if not torch.cuda.is_available():
        return None, 0
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return ", ".join(card.name for card in cards), float(sum(card.total_memory for card in cards))


def _memory() -> tuple[float, float]:
    """Bytes of memory, in all and available."""
    if sys.platform == "win32":
        return _windows_memory()
    if sys.platform == "darwin":
        ask = ["sysctl", "-n", "hw.memsize", "vm.page_free_count", "hw.pagesize"]
        total, pages, size = map(int, subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split())
        return float(total), float(pages * size)
    lines = Path("/proc/meminfo").read_text().splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return within_container(kilobytes["MemTotal"] * 1024.0, kilobytes["MemAvailable"] * 1024.0)


def within_container(total: float, free: float, folder: Path = Path("/sys/fs/cgroup")) -> tuple[float, float]:
    """Both, at most a container's limit (cgroup v2): /proc/meminfo is the host's, and who takes more is killed."""
    try:
        limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cached = int(stat.get("inactive_file", 0))  # given back when memory runs short
    except (OSError, ValueError):  # no such files, or "max": no limit
        return total, free
    return min(total, limit), min(free, max(0, limit - used + cached))


def _windows_memory() -> tuple[float, float]:
    class Status(ctypes.Structure):  # MEMORYSTATUSEX
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            ("total", ctypes.c_ulonglong),
            ("available", ctypes.c_ulonglong),
            ("rest", ctypes.c_ulonglong * 5),
        )

    status = Status(length=ctypes.sizeof(Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    return float(status.total), float(status.available)


def key_settings() -> dict[str, bool]:
    """Which keys are set, in the environment or in .env; never their values."""
    in_file = re.findall(r"^[ \t]*(?:export[ \t]+)?(\w+)[ \t]*=[ \t]*\S", dotenv_text(workplace()), re.M)
    found = {key: bool(os.environ.get(key)) or key in in_file for key in ENDPOINT_KEYS}
    return found | {"HF_TOKEN": bool(os.environ.get("HF_TOKEN"))}


def gate_problems(tier: tiers.Tier) -> list[Problem]:
    """Models of `tier` that the hub gives to those alone who accepted their terms, where nobody is logged in to it."""
    ids = dict.fromkeys((tier.persona_model, tier.capping_model, tier.trait_model))
    gated = [name for name in ids if name in SHAPES and SHAPES[name].gated and not _is_here(name)]
    if not gated or _hub_token():
        return []
    return [
        Problem(
            f"{name} is gated, and HF_TOKEN is not set",
            f"accept its terms at https://huggingface.co/{name}, make a token at "
            "https://huggingface.co/settings/tokens, and set HF_TOKEN to it",
        )
        for name in gated
    ]


def _hub_token() -> str | None:
    """The token of the environment, or of `hf auth login`."""
    from huggingface_hub import get_token  # a quarter of a second, for gated models alone

    return get_token()


def _is_here(name: str) -> bool:
    """Whether the hub's cache holds the model's configuration, so that no gate is left."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def problems_of(tier: tiers.Tier, machine: Machine) -> list[Problem]:
    """Everything that keeps `tier` from running here."""
    found = hardware_problems(tier.name, machine)
    if not INSTALLED:  # pip has seen to an installed wheel's packages
        found += package_problems(wanted_packages(ROOT / "requirements.txt"), _packages_fix())
    if tier.judged_here:
        found += weights_problems()
    found += gate_problems(tier)
    if tier.answers_here and tier.judged_here:
        return found
    keys = key_settings()
    if not any(keys[key] for key in ENDPOINT_KEYS):
        fix = "copy .env.example to .env and fill one in"
        found.append(Problem(f"none of {', '.join(ENDPOINT_KEYS)} is set: no endpoint for the judge", fix))
    return found


def _packages_fix() -> str:
    if os.environ.get("PERSONALAB_VENV") == "off":
        return "pip install -r requirements.txt -c constraints.txt"
    # A package that was changed by hand leaves the stamp as it was, so set-up alone would see nothing to do.
    stamped = venv.is_installed(venv.VENV, ROOT, ["base"])
    return f"python3 -m personalab clean, then {_SETUP}" if stamped else _SETUP


def _report(tier: tiers.Tier, machine: Machine) -> dict[str, str]:
    where = "in" if venv.inside(venv.VENV) else "outside of"
    return {
        "Python": f"{sys.version.split()[0]} at {sys.executable}, {where} this folder's .venv",
        "Memory": f"{machine.memory_total / GB:.1f} GB, {machine.memory_free / GB:.1f} GB available",
        "CPU": f"{cpu_name()}, {machine.cores} cores",
        "GPU": f"{machine.gpu}, {machine.gpu_memory / GB:.0f} GB" if machine.gpu else "none that torch sees",
        "Disk": f"{machine.disk_free / GB:.1f} GB free for {cache_dir()}",
        "Speed": _speed(),
        "Computes in": _dtype(tier),
        "Keys": ", ".join(f"{key} {'yes' if there else 'no'}" for key, there in key_settings().items()),
        "Network": "not tested; needed once for set-up" if tier.in_process else "not tested; needed",
        "Largest tier": fitting_tier(machine) or "none: too little memory",
        "Current tier": f"{tier.name} ({tier.machine})",
    }


def _speed() -> str:
    try:
        import torch  # noqa: F401
    except ImportError:  # reported among the packages
        return "not measured: torch is missing"
    times = gemm_seconds()
    gflops, ratio = 2 * GEMM_SIZE**3 / times["float32"] / 1e9, times["float32"] / times["bfloat16"]
    return f"float32 {gflops:.0f} GFLOP/s a core; bfloat16 {ratio:.2g} times that on the CPU"


def _dtype(tier: tiers.Tier) -> str:
    """What models are loaded in, and who says so."""
    try:
        name = tier_dtype()
    except ImportError:  # torch, or its metadata; reported among the packages
        return "not decided: torch is missing"
    if os.environ.get("PERSONALAB_DTYPE"):
        return f"{name}, by PERSONALAB_DTYPE"
    if tier.dtype != "auto":
        return f"{name}, by the tier"
    return f"{name}, measured once and kept in {store()}" if tier.embedded else f"{name}, by machine and model"


def main() -> int:
    """Print the report. Returns 0 if the current tier can run, else 1 after naming each fix."""
    try:
        tier = tiers.current_tier()
    except ValueError as error:
        raise venv.SetupError(str(error)) from error
    machine = examine_machine()
    for label, value in _report(tier, machine).items():
        print(f"{label:<14}{value}")
    problems = problems_of(tier, machine)
    for fix in dict.fromkeys(problem.fix for problem in problems):
        print("\nNot ready:", *(problem.what for problem in problems if problem.fix == fix), sep="\n  ")
        print(f"Fix: {fix}")
    if not problems:
        print(f"\nTier {tier.name} can run here.")
    return 1 if problems else 0
