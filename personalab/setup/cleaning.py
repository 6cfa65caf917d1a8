"""The command `clean`: what the course made in its folder, and can make again, goes; results of other tiers never.

Standard library only: it runs outside of the environment that it removes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from personalab.setup import venv
from personalab.tiers import current_tier, run_name

CACHES = (".pytest_cache", ".ruff_cache", ".mypy_cache", ".import_linter_cache", ".venv.lock")
OURS = ("personalab", "graders", "checks", "benchmarks", "exercises", "solutions", "instructions")  # folders of code
LEFT_IN_THEM = ("__pycache__", ".ipynb_checkpoints")


def clean(root: Path, everything: bool = False) -> list[str]:
    """Remove the environment, caches, and the current tier's runs in `root`; returns a line for each thing.

    What stays, always: other tiers' runs and artifacts, your own finetuned models, `workbook/`, the user's cache, and
    an environment that this course did not make.

    Args:
        everything: also what the current tier's sections left in `artifacts/`.

    Raises:
        ValueError: for an unknown tier.
    """
    doomed = [root / name for name in CACHES]
    doomed += [root / "runs" / name for name in (run_name("full"), run_name("quick"), "failed")]
    if everything:
        doomed.append(root / "artifacts" / current_tier().name)
    doomed += [root / name for name in LEFT_IN_THEM]
    doomed += [path for name in LEFT_IN_THEM for folder in OURS for path in (root / folder).rglob(name)]
    said = []
    environment = root / venv.VENV.name
    if venv.made_by_us(environment):
        doomed.insert(0, environment)
    elif environment.exists():
        said.append(f"keeping {environment.name}: this course did not make it")
    for path in filter(_exists, doomed):
        said.append(f"removing {path.relative_to(root).as_posix()}")
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    said += [f"keeping {p.relative_to(root).as_posix()}" for p in _kept(root, everything)]
    return said


def _exists(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _kept(root: Path, everything: bool) -> list[Path]:
    """Results that stay, to be named; empty `runs/` goes."""
    runs = sorted((root / "runs").glob("*"))
    if not runs and (root / "runs").is_dir():
        (root / "runs").rmdir()
    return runs + ([p for p in sorted((root / "artifacts").glob("*")) if p.name != "reference"] if everything else [])
