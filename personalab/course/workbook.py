"""The learner's own notebooks, `workbook/`: filled from `exercises/`, then kept up to date without losing a word.

git ignores the folder, so that `git pull` never conflicts with an answer. `workbook/.base/` holds what `exercises/`
said the last time, for the three-way merge, and `workbook/.base/before/` each notebook before its last update.
"""

from __future__ import annotations

from pathlib import Path

from nbformat import NotebookNode

from personalab.course.cells import dumps, is_learners, label, name, origins, read, read_or_none
from personalab.files import write
from personalab.paths import ROOT

FOLDER = "workbook"


def folder(root: Path = ROOT) -> Path:
    """Where learners work."""
    return root / FOLDER


def update(root: Path = ROOT) -> list[str]:
    """Fill the workbook, or bring it up to date with `exercises/`; returns what there is to say, one line each.

    Raises:
        LostWordsError: if a merge would lose a word. That notebook stays as it is.
    """
    folder(root).mkdir(exist_ok=True)
    lines = []
    for exercise in sorted((root / "exercises").glob("*.ipynb")):
        try:
            lines += sync(exercise, root)
        except ValueError as error:
            lines.append(f"{error} Your workbook stays as it is. To have it back: git checkout exercises/.")
    return lines + _without_a_section(root)


def sync(exercise: Path, root: Path = ROOT, final: bool = False) -> list[str]:
    """Bring one notebook of the workbook up to one of `exercises/`, a learner's cells there included.

    Call it with `final` before `exercise` is overwritten: then all of its learner's words are in the workbook after it.

    Raises:
        ValueError: if `exercise` cannot be read as a notebook.
        LostWordsError: see `merging.merge`.
    """
    remote, known = read(exercise), exercise.read_bytes()
    target, local, lines = _open(folder(root) / exercise.name, root)
    base_file = folder(root) / ".base" / exercise.name
    if local is None:
        write(target, known)
        write(base_file, known)
        return [*lines, f"{_shown(target, root)}: new"]
    if base_file.exists() and base_file.read_bytes() == known and target.exists() and not final:
        return lines
    from personalab.course.merging import merge  # here, because nbdime takes a second to load

    before = dumps(local)
    merged = dumps(merge(read_or_none(base_file), local, remote, final))
    if merged != before or not target.exists():
        if target.exists():
            write(folder(root) / ".base" / "before" / target.name, target.read_bytes())
        write(target, merged)
        lines.append(f"{_shown(target, root)}: brought up to date")
    write(base_file, known)
    return lines


def learners_labels(nb: NotebookNode, given: NotebookNode) -> list[str]:
    """Labels of the cells of `nb` that hold a learner's words; `given` is what the course now has in its place."""
    known = origins(given)
    return [label(cell) for cell in nb.cells if is_learners(cell, known)]


def _open(target: Path, root: Path) -> tuple[Path, NotebookNode | None, list[str]]:
    """The file to use for a section and what it holds; one that cannot be read stays, and another name is used."""
    lines: list[str] = []
    number, wanted = 1, target
    while target.exists():
        try:
            return target, read(target), lines
        except ValueError as error:
            number += 1
            target = wanted.with_name(f"{wanted.stem}-{number}.ipynb")
            lines.append(f"{error} It stays as it is; the section is now in {_shown(target, root)}.")
    if number == 1 and (old := _renamed(wanted, root)):
        return target, read(old), [f"{_shown(wanted, root)}: with your answers of {_shown(old, root)}, which stays too"]
    return target, None, lines


def _renamed(target: Path, root: Path) -> Path | None:
    """A notebook of a section that the course no longer has under that name, but whose exercises are in `target`."""
    wanted = {name(cell) for cell in read(root / "exercises" / target.name).cells} - {None}
    for path in _gone(root):
        nb = read_or_none(path)
        if nb and wanted & {name(cell) for cell in nb.cells}:
            return path
    return None


def _gone(root: Path) -> list[Path]:
    """Notebooks that came from a section which `exercises/` no longer has."""
    filled = sorted((folder(root) / ".base").glob("*.ipynb"))
    return [
        folder(root) / path.name
        for path in filled
        if not (root / "exercises" / path.name).exists() and (folder(root) / path.name).exists()
    ]


def _without_a_section(root: Path) -> list[str]:
    return [f"{_shown(path, root)}: the course no longer has this section. It stays as it is." for path in _gone(root)]


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
