"""Grading a cohort: `python -m personalab grade`, one notebook after the other, out of each other's reach.

Every section gets processes of its own (`marking.Section`) in a copy of the course; what is guaranteed where stands in
`docs/instructors.md`. What is graded already is not graded again: results are kept beside the report.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from personalab.course.handed_in import handed_in
from personalab.course.marking import GradingError, Section, Settings
from personalab.course.submissions import NotOursError, Release, releases, steps
from personalab.files import write

UNFINISHED = "could not be graded to its end"  # such a notebook is graded again the next time
DRAWS = 5  # how many draws of hidden cases are tried until the course's own solutions pass
Plan = list[dict[str, str]]


@dataclass(frozen=True)
class Graded:
    """One submission.

    Attributes:
        path: the file, as it is named in the report.
        digest: of its content.
        comments: what the grader says, by exercise; "" where all is well.
        points: reached and possible, by exercise.
        remark: why it could not be graded; "" if it could.
        seconds, computed: by the clock, and of processor time.
    """

    path: str
    student: str
    section: str
    digest: str
    comments: dict[str, str] = field(default_factory=dict)
    points: dict[str, tuple[int, int]] = field(default_factory=dict)
    remark: str = ""
    seconds: float = 0.0
    computed: float = 0.0

    @property
    def reached(self) -> int:
        """Points."""
        return sum(points for points, _ in self.points.values())

    @property
    def possible(self) -> int:
        """Points that the notebook is worth."""
        return sum(of for _, of in self.points.values())


@dataclass(frozen=True)
class Run:
    """A whole grading: what was graded, the draws of its hidden cases by section, what confined the submissions."""

    graded: list[Graded]
    draws: dict[str, int]
    protection: str
    seconds: float


def grade(paths: Iterable[Path], report: Path, settings: Settings) -> Run:
    """Grade notebooks, and those in folders; results are kept in `report` with the suffix `.state.json` at once.

    Raises:
        GradingError: on another system than Linux; no notebook; the course's own solutions fail.
        ValueError: of the release.
    """
    if sys.platform != "linux":
        raise GradingError(
            "Submissions are other people's code, and only Linux can confine it: run this on Linux, under WSL, or in a "
            "container. nbgrader's own autograde runs anywhere, and confines nothing."
        )
    started, known = time.monotonic(), releases(settings.folder)
    if settings.section and settings.section not in known:
        raise GradingError(f"No section {settings.section} in {settings.folder}: it has {', '.join(known)}.")
    files = handed_in(paths)
    state = State(report.with_suffix(".state.json"), settings, known)
    work: dict[str, list[tuple[Graded, list[dict[str, str]]]]] = {}
    for one in files:
        new = Graded(one.label, one.student, settings.section, "")
        try:
            new = replace(new, digest=hashlib.sha256(one.content()).hexdigest())
            if state.has(one.label, new.digest):
                continue
            release, plan = steps(one.path, known, settings.section)
            work.setdefault(release.section, []).append((replace(new, section=release.section), plan))
        except NotOursError as error:
            of = known[settings.section] if settings.section else None
            state.add(_nothing(replace(new, remark=str(error)), of))
    hidden = [settings.root, report.parent, *{one.path.parent for one in files}]
    for section, tasks in work.items():
        _grade_section(known[section], tasks, settings, hidden, state)
    return Run(state.of(one.label for one in files), state.draws, state.protection, time.monotonic() - started)


class State:
    """What is graded so far, on disk after each notebook; another release, grader or setting begins anew."""

    def __init__(self, path: Path, settings: Settings, known: Mapping[str, Release]) -> None:
        self._path, self._lock, self.protection = path, threading.Lock(), ""
        self._key = _fingerprint(settings, known)
        self.draws: dict[str, int] = {}
        self._graded: dict[str, Graded] = {}
        if path.exists():
            try:
                saved = json.loads(path.read_text("utf-8"))
                if saved["key"] == self._key:
                    self.draws, self.protection = saved["draws"], saved["protection"]
                    self._graded = {row["path"]: _restored(row) for row in saved["graded"]}
            except (ValueError, KeyError, TypeError) as error:
                raise GradingError(f"{path} is no state of a grading ({error}): move it away.") from error

    def has(self, label: str, digest: str) -> bool:
        """Whether this very file is graded."""
        before = self._graded.get(label)
        return before is not None and before.digest == digest and not before.remark.startswith(UNFINISHED)

    def of(self, labels: Iterable[str]) -> list[Graded]:
        """In this order."""
        return [self._graded[label] for label in labels]

    def add(self, graded: Graded) -> None:
        """Keep it."""
        with self._lock:
            self._graded[graded.path] = graded
            self._save()

    def begin(self, section: str, draw: int, protection: str) -> None:
        """The draw with which a section is graded."""
        with self._lock:
            self.draws[section], self.protection = draw, protection
            self._save()

    def _save(self) -> None:
        rows = [asdict(graded) for graded in self._graded.values()]
        about = {"key": self._key, "draws": self.draws, "protection": self.protection, "graded": rows}
        write(self._path, json.dumps(about, indent=1) + "\n", sync=False)


def _restored(row: dict[str, Any]) -> Graded:
    """As it was before it became JSON, which has no tuples."""
    return Graded(**row | {"points": {name: (got, of) for name, (got, of) in row["points"].items()}})


def _fingerprint(settings: Settings, known: Mapping[str, Release]) -> str:
    """Of everything but the submissions that grades depend on."""
    files = [release.path for release in known.values()]
    for folder in ("graders", "personalab"):
        files += sorted((settings.root / folder).rglob("*.py"))
    about = (settings.section, settings.tiny, settings.draw, settings.seconds, settings.notebook_seconds)
    found = hashlib.sha256(repr(about).encode())
    for path in files:
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:16]


def _grade_section(
    release: Release, tasks: Sequence[tuple[Graded, Plan]], settings: Settings, hidden: Sequence[Path], state: State
) -> None:
    """Side by side, `jobs` at once, each in a process that has passed the course's own solutions or is like one."""
    first = _begun(release, settings, hidden, state)
    draw = state.draws[release.section]
    queue: SimpleQueue[tuple[Graded, Plan]] = SimpleQueue()
    for task in tasks:
        queue.put(task)

    def work(section: Section | None) -> None:
        section = section or Section(release, settings, hidden, draw)
        try:
            while True:
                try:
                    new, plan = queue.get_nowait()
                except Empty:
                    return
                try:
                    found, seconds, computed = section.grade(plan)
                except GradingError as error:  # nobody else's grade may hang on what this one did
                    state.add(_nothing(replace(new, remark=f"{UNFINISHED}: {error}"), release))
                    section.close()
                    section = Section(release, settings, hidden, draw)
                    continue
                points = {e.name: (e.points * (found[e.name] == ""), e.points) for e in release.exercises}
                new = replace(new, comments=found, points=points, seconds=seconds, computed=computed)
                state.add(new)
                print(f"{new.path}: {new.reached} of {release.points}, {seconds:.1f} s", flush=True)
        finally:
            section.close()

    jobs = max(1, min(settings.jobs, len(tasks)))
    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(work, first if i == 0 else None) for i in range(jobs)]:
            future.result()


def _begun(release: Release, settings: Settings, hidden: Sequence[Path], state: State) -> Section:
    """A process for the section, whose hidden cases are such that the course's own solutions pass.

    Raises:
        GradingError: they pass with no draw: something here is not as it should be.
    """
    solutions = settings.root / "solutions" / release.path.name
    draw = state.draws.get(release.section, settings.draw)
    draws = [draw] if draw is not None else [1 + secrets.randbelow(10**6) for _ in range(DRAWS)]
    for number in draws:
        section = Section(release, settings, hidden, number)
        found, seconds, _ = section.grade(steps(solutions, {release.section: release})[1])
        wrong = {name: text for name, text in found.items() if text}
        if not wrong:
            print(f"section {release.section}, draw {number}: the course's solutions pass, {seconds:.1f} s", flush=True)
            state.begin(release.section, number, section.protection)
            return section
        print(f"section {release.section}, draw {number}: the course's solutions fail {wrong}", flush=True)
        section.close()
    raise GradingError(
        f"Section {release.section}: the course's own solutions fail, so nobody is graded. {next(iter(wrong.items()))}"
    )


def _nothing(graded: Graded, release: Release | None) -> Graded:
    """A notebook that could not be graded gets nothing, of what it should have been worth where that is known."""
    return replace(graded, points={e.name: (0, e.points) for e in release.exercises} if release else {})
