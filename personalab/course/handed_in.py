"""The files that a cohort hands in: which there are, whose they are, and whether they are files at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from personalab.course.marking import GradingError
from personalab.course.submissions import NotOursError

MAX_BYTES = 50 << 20  # our choice: ten times what the largest solved notebook has with all its figures


@dataclass(frozen=True)
class HandedIn:
    """One submission: how to call it in the report, and whose it is."""

    path: Path
    label: str
    student: str

    def content(self) -> bytes:
        """Of the file.

        Raises:
            NotOursError: it is a link, a folder or anything else than a file of sensible size, or nobody can read it.
        """
        try:
            about = self.path.lstat()
            if stat.S_ISLNK(about.st_mode):
                raise NotOursError("a symbolic link, not a notebook: hand in the file itself")
            if not stat.S_ISREG(about.st_mode):
                raise NotOursError("not a file")
            if about.st_size > MAX_BYTES:
                raise NotOursError(f"larger than {MAX_BYTES >> 20} MiB")
            return self.path.read_bytes()
        except OSError as error:
            raise NotOursError(f"cannot be read: {error.strerror}") from error


def handed_in(paths: Iterable[Path]) -> list[HandedIn]:
    """Each submission; in a folder, that of the student is the first one below (`submitted/ada/section_1/…`), or the
    file's own name.

    Raises:
        GradingError: a path does not exist, or there is no notebook.
    """
    found = []
    for path in paths:
        if not path.exists():
            raise GradingError(f"{path}: there is no such file or folder.")
        if not path.is_dir():
            found.append(HandedIn(path.resolve(), _shown(path.name), _shown(path.stem)))
            continue
        for entry in sorted(_below(path)):
            label = entry.relative_to(path)
            student = label.parts[0] if len(label.parts) > 1 else label.stem
            found.append(HandedIn(entry, _shown(label.as_posix()), _shown(student)))
    if not found:
        raise GradingError("No notebook to grade: name .ipynb files, or folders that hold them.")
    labels = [one.label for one in found]
    if repeated := sorted({label for label in labels if labels.count(label) > 1}):
        raise GradingError(f"Two submissions are called {repeated[0]}: put them into one folder, and name that.")
    return found


def _below(folder: Path) -> Iterator[Path]:
    """Notebooks, by their names, and links to folders: nobody's work is followed elsewhere."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != ".ipynb_checkpoints"]
        for name in folders:
            if name.endswith(".ipynb") or Path(place, name).is_symlink():
                yield Path(place, name)
        yield from (Path(place, name) for name in files if name.endswith(".ipynb"))


def _shown(name: str) -> str:
    """A name that can be written and printed anywhere, another one for each: file names may hold any byte."""
    return "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in name)
