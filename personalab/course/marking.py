"""The process that grades submissions of one section (`graders.harness.cohort`), and its copy of the course."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personalab.course.submissions import Release
from personalab.paths import ROOT, cache_dir

COURSE = ("personalab", "graders", "artifacts/reference", "assistant-axis", "persona_vectors", "utils.py", "tests.py")
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "PERSONALAB_TIER", "PERSONALAB_DTYPE", "PERSONALAB_BUDGET")


@dataclass(frozen=True)
class Settings:
    """How to grade.

    Attributes:
        folder: the release, as given to learners.
        section: grade this one only; notebooks of others are named and get nothing.
        jobs: how many notebooks at once.
        tiny: a tiny model in place of the notebook's.
        seconds, notebook_seconds: limits for one cell or exercise, of computing, and for a notebook, by the clock.
        processes, memory: limits; the latter in bytes a process.
        draw: of hidden cases; None for another one each time.
    """

    folder: Path = ROOT / "exercises"
    section: str = ""
    jobs: int = 2
    tiny: bool = False
    seconds: float = 60
    notebook_seconds: float = 900
    processes: int = 200
    memory: int = 4 << 30
    draw: int | None = None
    root: Path = ROOT


class GradingError(RuntimeError):
    """Nothing can be graded; says why."""


class Section:
    """A process that grades submissions of one section, and the copy of the course in which it works."""

    def __init__(self, release: Release, settings: Settings, hidden: Sequence[Path], draw: int) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="lab-grade-", ignore_cleanup_errors=True)
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed in `close`
        os.chmod(self._home.name, 0o755)
        self.course = Path(self._home.name, "course")
        copy_course(settings.root, self.course)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "graders.harness.cohort"],
            cwd=self.course,
            env=_environment(draw, self._home.name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
        )
        about = {
            "setup": release.setup,
            "given": {exercise.name: exercise.given for exercise in release.exercises},
            "tiny": settings.tiny,
            "hidden": [str(path) for path in hidden],
            "seconds": (settings.seconds, settings.notebook_seconds),
            "limits": (settings.processes, settings.memory),
        }
        self.protection = str(self._ask(about)["protection"])

    def grade(self, plan: list[dict[str, str]]) -> tuple[dict[str, str], float, float]:
        """What the graders say by exercise, how many seconds it took, and how many of them were computing.

        Raises:
            GradingError: the process has ended.
        """
        answer = self._ask(plan)
        return answer["found"], answer["seconds"], answer["computed"]

    def _ask(self, what: Any) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            self._log.seek(0)
            raise GradingError(f"The process that grades has ended. It said last:\n{self._log.read()[-2000:]}")
        return json.loads(line)

    def close(self) -> None:
        """End it and delete its copy of the course."""
        self._process.kill()
        self._process.communicate()
        self._log.close()
        self._home.cleanup()


def copy_course(root: Path, to: Path) -> None:
    """The part of the course that runs, without solutions, keys, and what anybody has made in it."""
    without = shutil.ignore_patterns("__pycache__", ".*")
    for name in COURSE:
        if (source := root / name).is_dir():
            shutil.copytree(source, to / name, ignore=without, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(source, to / name)


def _environment(draw: int, home: str) -> dict[str, str]:
    """No key, no proxy; one thread, since notebooks are graded side by side."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1", "MPLBACKEND": "Agg"}
    own = {"PERSONALAB_DRAW": str(draw), "PERSONALAB_CACHE": str(cache_dir()), "PERSONALAB_VENV": "off"}
    places = {"HOME": str(Path.home()), "MPLCONFIGDIR": home, "USER": "learner", "PYTHONHASHSEED": "0"}
    return {k: os.environ[k] for k in _PASSED_ON if k in os.environ} | single | offline | own | places
