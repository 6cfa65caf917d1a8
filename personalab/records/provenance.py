"""On what machine numbers were made: written beside them, without names of hosts, users or folders."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from personalab.files import write
from personalab.records import phases
from personalab.setup.doctor import examine_machine
from personalab.setup.machine import cpu_name, tier_dtype

PACKAGES = ("torch", "transformers", "tokenizers", "peft", "numpy", "scikit-learn")


def describe() -> dict[str, Any]:
    """This process and its machine: date, CPU, cores, memory (GiB), system, Python, dtype, threads, versions.

    `dtype` and `threads` are those that the engine uses in this process, `cpu_capability` is torch's word for the CPU's
    widest vectors ("AVX2", "AVX512"); each None where it has not loaded torch. `tokens` are those that went through its
    models (`personalab.lm.counting`), `seconds` what its kinds of work took.
    """
    settings = _torch_settings()  # first, because what examines the machine loads torch
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "memory_gib": round(examine_machine().memory_total / 2**30, 1),
        **settings,
        "tokens": _tokens(),
        "seconds": phases.seconds(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def save(path: str | Path) -> None:
    """Write `describe()` as JSON."""
    write(Path(path), json.dumps(describe(), indent=2) + "\n")


def one_line(machine: dict[str, dict[str, Any]]) -> str:
    """For RESULTS.md: the machines of all sections, each named once, with the sections run on it."""
    groups: dict[str, list[str]] = {}
    for family, m in sorted(machine.items()):
        versions = ", ".join(f"{name} {m['versions'][name]}" for name in ("torch", "transformers"))
        text = f"{cpu(m)}, {m['cores']} cores, torch threads: {m['threads']}, {m['dtype']}, {versions}, {m['date']}"
        groups.setdefault(text, []).append(family)
    return "; ".join(f"{', '.join(families)}: {text}" for text, families in groups.items())


def cpu(machine: dict[str, Any]) -> str:
    """Its name and, where that is on record, its vectors: a virtual CPU may be called "AMD EPYC" and no more."""
    return ", ".join(filter(None, (machine["cpu"], machine.get("cpu_capability"))))


def _torch_settings() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None:
        return dict.fromkeys(("dtype", "threads", "cpu_capability"))
    capability = torch.backends.cpu.get_cpu_capability()
    return {"dtype": tier_dtype(), "threads": torch.get_num_threads(), "cpu_capability": capability}


def _tokens() -> dict[str, dict[str, int]]:
    counting = sys.modules.get("personalab.lm.counting")  # loaded with the engine, which this room lies below
    return counting.counts() if counting else {}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
