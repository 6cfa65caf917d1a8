"""A cohort that nobody taught: submissions made from a release, the course's solutions and the banks, with the grades
that they must get."""

from __future__ import annotations

import importlib
import inspect
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from personalab.course.cells import dumps, read
from personalab.course.myst import code_cells
from personalab.course.submissions import Release, kind_of, releases
from personalab.files import write
from personalab.paths import ROOT


@dataclass(frozen=True)
class Simulated:
    """A submission, and what must come of it.

    Attributes:
        text: of the file.
        fails: by exercise, words of the comment; every other exercise not in `free` must pass.
        free: exercises that may go either way, since they use what is wrong.
        remark: words of the remark of a notebook that cannot be graded.
        form: what is handed in: a "file", a "link" to the one before, a "folder" or a "pipe" of a notebook's name.
    """

    name: str
    kind: str
    text: str
    fails: dict[str, str] = field(default_factory=dict)
    free: frozenset[str] = frozenset()
    remark: str = ""
    form: str = "file"

    @property
    def student(self) -> str:
        """Who hands it in."""
        return self.name.replace(" ", "_")


class Course:
    """A section's release, and the code of its reference solutions."""

    def __init__(self, folder: Path, section: str) -> None:
        self.release: Release = releases(folder)[section]
        solved = read(ROOT / "solutions" / self.release.path.name)
        names = {c.metadata["nbgrader"]["grade_id"]: c.source for c in code_cells(solved) if kind_of(c) == "solution"}
        self.solved = {name: names[name] for name in self.release.solutions}

    def notebook(self, changed: dict[str, str]) -> str:
        """The reference with the code of some solution cells changed; "" leaves the stub."""
        nb = read(self.release.path)
        code = self.solved | changed
        for cell in code_cells(nb):
            if kind_of(cell) == "solution" and code[cell.metadata["nbgrader"]["grade_id"]]:
                cell.source = code[cell.metadata["nbgrader"]["grade_id"]]
        return dumps(nb)

    def exercise(self, name: str):
        """Of this grader."""
        return next(e for e in self.release.exercises if e.name == name)

    def users(self, solution: str) -> frozenset[str]:
        """Exercises whose solutions use what a solution cell defines, its own apart, directly or through others."""
        used, cells = {solution}, set[str]()
        while used:
            defined = {d for d, cell in self.release.defines.items() if cell in used}
            words = re.compile(rf"\b(?:{'|'.join(map(re.escape, defined)) or '$^'})\b")
            used = {c for c, code in self.solved.items() if c not in cells | used and words.search(code)}
            cells |= used
        return frozenset(e.name for e in self.release.exercises if e.solution in cells - {solution})

    def around(self, cell: str) -> frozenset[str]:
        """Exercises that a wrong solution may spoil besides its own."""
        return self.users(cell) | {e.name for e in self.release.exercises if e.solution == cell}

    def with_bank(self, grader: str, choice: random.Random, verdict: str) -> tuple[str, str, str]:
        """Code of a solution cell with an entry of the bank in place of the reference; the entry and its words."""
        exercise = self.exercise(grader)
        bank = importlib.import_module(f"checks.bank.{_folder(grader)}.{grader}")
        entries = {n: v for n, v in vars(bank).items() if getattr(v, "verdict", "") == verdict}
        entries = {n: v for n, v in entries.items() if v.__module__ == bank.__name__}
        name = choice.choice(sorted(entries))
        source = inspect.getsource(bank).replace("from checks.bank import right, wrong", _MARKS)
        code = f"_bank = {{}}\nexec({source!r}, _bank)\n{exercise.work} = _bank[{name!r}]"
        return f"{self.solved[exercise.solution]}\n\n\n{code}\n", name, entries[name].words

    def banked(self) -> list[str]:
        """Graders whose bank stands alone: it imports nothing of the checks' or the graders'."""
        return [e.name for e in self.release.exercises if _stands_alone(e.name)]


_MARKS = "right = lambda f: f\nwrong = lambda words: right"


def _folder(grader: str) -> str:
    return next((ROOT / "checks" / "bank").glob(f"section_*/{grader}.py")).parent.name


def _stands_alone(grader: str) -> bool:
    text = (ROOT / "checks" / "bank" / _folder(grader) / f"{grader}.py").read_text("utf-8")
    others = re.findall(r"^\s*(?:from|import) ((?:checks|graders|tests|utils)\S*)", text, re.M)
    return others == ["checks.bank"]


def honest(course: Course, n: int, seed: int) -> Iterator[Simulated]:
    """Right, wrong, partial and broken submissions in turn."""
    choice, graders = random.Random(seed), course.banked()
    for i in range(n):
        kind = ("right", "wrong", "partial", "broken")[i % 4]
        name = f"{kind}-{i}"
        if kind == "right":
            changed = {}
            for grader in choice.sample(graders, min(2, len(graders))):
                cell = course.exercise(grader).solution
                if cell not in changed:
                    changed[cell] = course.with_bank(grader, choice, "right")[0]
            yield Simulated(name, kind, course.notebook(changed))
        elif kind == "wrong":
            grader = choice.choice(graders)
            code, _, words = course.with_bank(grader, choice, "wrong")
            cell = course.exercise(grader).solution
            yield Simulated(name, kind, course.notebook({cell: code}), {grader: words}, course.around(cell))
        else:
            cell = choice.choice(course.release.solutions)
            code = {"partial": "", "broken": course.solved[cell] + "\nreturn (\n"}[kind]
            words = {"partial": "Nothing to grade yet", "broken": "no |SyntaxError"}[kind]
            own = {e.name: words for e in course.release.exercises if e.solution == cell}
            yield Simulated(name, kind, course.notebook({cell: code}), own, course.users(cell) - set(own))


def write_all(cohort: list[Simulated], folder: Path) -> None:
    """As learners hand them in: a folder each."""
    before = None
    for one in cohort:
        path = folder / one.student / "notebook.ipynb"
        path.parent.mkdir(parents=True)
        if one.form == "folder":
            path.mkdir()
        elif one.form == "pipe":
            os.mkfifo(path)
        elif one.form == "link":
            path.symlink_to(before)
        else:
            write(path, one.text, sync=False)
            before = path


def mistakes(cohort: list[Simulated], graded: dict[str, object]) -> list[str]:
    """What was graded otherwise than it must be; `graded` by the names that `write_all` gives."""
    found = []
    for one in cohort:
        result = graded[one.student]
        if one.remark or result.remark:
            if not (one.remark and re.search(one.remark, result.remark)) or result.reached:
                found.append(f"{one.name}: remark {result.remark!r}")
            continue
        for name, comment in result.comments.items():
            if name in one.fails:
                wrong = not comment or not re.search(one.fails[name], comment, re.S)
            else:
                wrong = bool(comment) and name not in one.free
            if wrong:
                found.append(f"{one.name}, {name}: expected {one.fails.get(name) or 'a pass'!r}, found {comment!r}")
    return found
