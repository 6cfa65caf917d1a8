"""What maintainers run on the checkout: linters, types, imports, drift, tests; benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial

from personalab.setup.venv import ROOT, run_child

Steps = Mapping[str, Callable[[], int]]

_LINT_IMPORTS = "from importlinter.cli import lint_imports_command as run; run()"  # it has no module to run
_EVERY_CORE = ("--numprocesses", "logical", "--maxprocesses", "4", "--dist", "worksteal")
# A learner may have worked in them; what the course puts there is linted by checks/course/test_course.py.
_SKIP_NOTEBOOKS = ("--extend-exclude", "exercises,solutions,workbook")


def steps(slow: bool) -> Steps:
    """All that a change must pass, by title.

    Args:
        slow: also the checks that take more than a few seconds.
    """
    return {
        "Lint": partial(_module, "ruff", "check", *_SKIP_NOTEBOOKS),
        "Format": partial(_module, "ruff", "format", "--check", *_SKIP_NOTEBOOKS),
        "Types": partial(_module, "mypy"),
        "Imports": partial(run_child, [sys.executable, "-c", _LINT_IMPORTS], cwd=ROOT),
        "Drift": partial(_module, "personalab", "notebooks", "--check"),
        "Tests": partial(_module, "pytest", *_EVERY_CORE, *([] if slow else ["-m", "not slow"])),
    }


def benchmarks(peers: bool) -> Steps:
    """Every benchmarks/bench_*.py by name, or the comparison with other packages."""
    names = ["peers"] if peers else sorted(p.stem for p in (ROOT / "benchmarks").glob("bench_*.py"))
    return {name: partial(_module, f"benchmarks.{name}") for name in names}


def run_all(steps: Steps) -> int:
    """Run every step under its title; the first non-zero exit code, after naming the failed ones."""
    failed = {}
    for title, step in steps.items():
        print(f"\n-- {title}", flush=True)
        if code := step():
            failed[title] = code
    if failed:
        print(f"\nFailed: {', '.join(failed)}.", file=sys.stderr)
    return next(iter(failed.values()), 0)


def _module(name: str, *arguments: str) -> int:
    return run_child([sys.executable, "-m", name, *arguments], cwd=ROOT)
