"""Notebooks on disk, and whose words a cell holds: the course's or a learner's.

Every generated cell carries the hash of its source, `metadata.personalab.hash`. A cell that differs from its own hash
is a learner's, executed or not; what running or opening a notebook adds (outputs, other metadata, ids) does not count.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection
from pathlib import Path

import nbformat
from nbformat import NotebookNode

OURS = "personalab"  # our key in a cell's metadata


def digest(source: str) -> str:
    """Short hash of a cell's source; line endings and blank ends, which editors change by themselves, don't count."""
    return hashlib.sha256(source.replace("\r\n", "\n").strip().encode()).hexdigest()[:16]


def stamp(cell: NotebookNode) -> None:
    """Write the hash of the cell's source into its metadata, in place."""
    cell.metadata[OURS] = {"hash": digest(cell.source)}


def origin(cell: NotebookNode) -> str | None:
    """Hash of the text that the course gave this cell; None for a cell that the course did not make."""
    ours = cell.metadata.get(OURS)
    return ours.get("hash") if isinstance(ours, dict) else None


def name(cell: NotebookNode) -> str | None:
    """The author's name of a stub or a grader (nbgrader's `grade_id`), else None."""
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def is_learners(cell: NotebookNode, known: Collection[str] = ()) -> bool:
    """Whether the words are a learner's. `known`: hashes of the course's texts, for a cell that has lost its own."""
    found = digest(cell.source)
    return bool(cell.source.strip()) and found not in known if origin(cell) is None else found != origin(cell)


def origins(nb: NotebookNode) -> set[str]:
    """The hashes that the cells of `nb` carry."""
    return {found for cell in nb.cells if (found := origin(cell))}


def label(cell: NotebookNode) -> str:
    """What to call a cell in a message: its name, else its id, else how it begins."""
    return name(cell) or cell.get("id") or repr(cell.source[:30])


def read_or_none(path: Path) -> NotebookNode | None:
    """The notebook at `path` (see `read`), None where there is none or it cannot be read."""
    try:
        return read(path)
    except (FileNotFoundError, ValueError):
        return None


def read(path: Path) -> NotebookNode:
    """A notebook of any 3.x or 4.x format as 4.5, with ids for cells that lack one.

    Raises:
        ValueError: if the file cannot be read as a notebook; says which and why.
        FileNotFoundError: if there is none.
    """
    content = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ids are missing or used twice: we give them
            nb = nbformat.reads(content.decode("utf-8-sig"), as_version=4)
            nb.nbformat_minor = max(nb.nbformat_minor, 5)
            _, nb = nbformat.validator.normalize(nb)
            nbformat.validate(nb)
    except Exception as error:  # a damaged file fails in many ways, all of them meaning: not a notebook
        raise ValueError(f"{path} cannot be read as a notebook: {str(error)[:200]}") from error
    return nb


def dumps(nb: NotebookNode) -> str:
    """The text to save: keys sorted, one space of indentation, a newline at the end."""
    return nbformat.writes(nb) + "\n"
