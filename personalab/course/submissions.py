"""What learners hand in, read against the release: which section it is, and which of its cells count."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nbformat import NotebookNode

from personalab.course.cells import digest, name, read
from personalab.course.myst import code_cells, sections

_LONGEST = 1 << 18  # characters of a cell that is read for what it defines


class NotOursError(ValueError):
    """A file that cannot be graded; says why."""


@dataclass(frozen=True)
class Exercise:
    """A grader's cell of the release.

    Attributes:
        name: the grader's.
        solution: name of the cell that it grades; it stands behind the cell `after`.
        work: the expression that it grades, `given` what it takes besides.
    """

    name: str
    solution: str
    after: str
    points: int
    work: str
    given: tuple[str, ...]


@dataclass(frozen=True)
class Release:
    """A section as it was given to learners.

    Attributes:
        setup: code of the cells before the first exercise.
        defines: by function or class, the name of the solution cell whose stub defines it.
    """

    section: str
    path: Path
    setup: tuple[str, ...]
    exercises: tuple[Exercise, ...]
    solutions: tuple[str, ...]
    defines: Mapping[str, str]

    @property
    def points(self) -> int:
        """Of the whole notebook."""
        return sum(exercise.points for exercise in self.exercises)


def releases(folder: Path) -> dict[str, Release]:
    """Every section's release in `folder`, by its key ("1", …, "4b").

    Raises:
        ValueError: there is none, or a grader's cell makes no single call of a grader.
    """
    found = {key: _release(key, path) for key, path in sections(folder, ".ipynb").items()}
    if not found:
        raise ValueError(f"{folder} holds no section_N_….ipynb: name the folder that was given to learners.")
    return found


def _release(key: str, path: Path) -> Release:
    cells = code_cells(read(path))
    solutions = [cell for cell in cells if kind_of(cell) == "solution"]
    before = cells[: cells.index(solutions[0])] if solutions else cells
    setup = tuple(cell.source for cell in before if kind_of(cell) == "other")
    defines = {defined: name(cell) or "" for cell in solutions for defined in _defined(cell.source)}
    exercises, after = list[Exercise](), ""
    for cell in cells:
        if kind_of(cell) == "solution":
            after = name(cell) or ""
        elif kind_of(cell) == "grader":
            work, *given = grader_call(cell.source, path.name)
            points = cell.metadata["nbgrader"]["points"]
            exercises.append(Exercise(name(cell) or "", defines.get(work, after), after, points, work, tuple(given)))
    names = tuple(name(cell) or "" for cell in solutions)
    return Release(key, path, setup, tuple(exercises), names, defines)


def grader_call(source: str, where: str) -> list[str]:
    """The arguments of a grader's cell, which is `tests.test_name(work, …)` and no more.

    Raises:
        ValueError: it is another kind of cell.
    """
    match ast.parse(source).body:
        case [ast.Expr(ast.Call(ast.Attribute(ast.Name("tests"), _), args, []))] if args:
            return [ast.unparse(arg) for arg in args]
    raise ValueError(f"{where}: a grader's cell must be one call, tests.test_name(work, …); it is:\n{source}")


def kind_of(cell: NotebookNode) -> str:
    """ "solution", "grader", or "other"."""
    ours = cell.metadata.get("nbgrader", {})
    return "grader" if ours.get("grade") else "solution" if ours.get("solution") else "other"


def steps(path: Path, known: Mapping[str, Release], wanted: str = "") -> tuple[Release, list[dict[str, str]]]:
    """The section of a submission, and what is done for its cells, as `graders.harness.submission.Step` has it.

    Graders' cells are the release's, whatever the submission's say; each stands where its solution is complete.

    Args:
        wanted: the section that was asked for; "" for any.

    Raises:
        NotOursError: no notebook, or none of these sections.
    """
    try:
        cells = code_cells(read(path))
        release = _section(cells, known)
        if wanted and release.section != wanted:
            raise NotOursError(f"a notebook of section {release.section}, not of {wanted}")
        return release, [*_ordered(cells, release)]
    except NotOursError:
        raise
    except Exception as error:  # what a file holds that only looks like a notebook fails in many ways
        text = f"{error}".replace(str(path), path.name)[:200]
        raise NotOursError(f"not a notebook: {text} ({type(error).__name__})") from error


def _section(cells: Iterable[NotebookNode], known: Mapping[str, Release]) -> Release:
    cells = list(cells)
    shared = {key: len({_role(cell, release) for cell in cells} - {""}) for key, release in known.items()}
    best = max(shared, key=lambda key: shared[key])
    if not shared[best]:
        raise NotOursError("not a notebook of this course: it has none of its exercises")
    return known[best]


def _role(cell: NotebookNode, release: Release) -> str:
    """The solution that a cell holds: by its name, by its id, or by what it defines; "" for any other cell."""
    if kind_of(cell) == "grader":
        return ""
    for found in (name(cell), cell.get("id")):
        if found in release.solutions:
            return found
    return next((release.defines[d] for d in _defined(cell.source) if d in release.defines), "")


def _defined(source: str) -> list[str]:
    if len(source) > _LONGEST:
        return []
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def _ordered(cells: list[NotebookNode], release: Release) -> Iterator[dict[str, str]]:
    """Cells in the submission's order, each grader behind the cells that it stands behind in the release."""
    roles = [_role(cell, release) for cell in cells]
    last = {role: i for i, role in enumerate(roles) if role}
    place = {e: max(last.get(e.solution, -1), last.get(e.after, -1)) for e in release.exercises}
    done = {digest(source) for source in release.setup}  # executed once, as the release has them
    for i, (cell, role) in enumerate(zip(cells, roles, strict=True)):
        if role:
            yield {"kind": "solution", "name": role, "source": cell.source}
            yield from (_grader(e) for e in release.exercises if place[e] == i)
        elif kind_of(cell) == "other" and digest(cell.source) not in done:
            yield {"kind": "other", "name": cell.get("id") or f"cell {i + 1}", "source": cell.source}
    yield from (_grader(e) for e in release.exercises if place[e] < 0)


def _grader(exercise: Exercise) -> dict[str, str]:
    return {"kind": "grader", "name": exercise.name, "work": exercise.work, "of": exercise.solution}
