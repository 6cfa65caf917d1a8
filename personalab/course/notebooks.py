"""The authoring pipeline: `instructions/` -> `exercises/*.ipynb` and `solutions/*.ipynb`.

Also the instructor's version for nbgrader: see `build_nbgrader`. What executes the solutions is in `running`.
"""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from personalab.course import workbook
from personalab.course.cells import dumps, origin, read_or_none
from personalab.course.folded import EXPECTED, TAGS
from personalab.course.myst import METADATA, code_cells, derive, read_source, sections
from personalab.course.published import linked_table, published
from personalab.files import keep_copy, write
from personalab.paths import ROOT

KINDS = ("exercises", "solutions")
_NBGRADER = """# Written by `python -m personalab notebooks --nbgrader`: where the course is, how long a cell may take.
import os

os.environ["PYTHONPATH"] = {root!r}  # for the kernels: personalab and graders
c = get_config()
c.CourseDirectory.root = os.path.dirname(os.path.abspath(__file__))
c.ExecutePreprocessor.timeout = 1800
"""


def build(check: bool = False, root: Path = ROOT, strict: bool | None = None) -> list[Path]:
    """Regenerate every notebook; returns the files written or, with `check`, those that differ.

    A learner's cells in a notebook are no difference, unless `strict` (default: in CI, where `CI` is true); before the
    notebook is written, they go to the workbook, and a line says so. A solutions notebook keeps its outputs while
    all its code cells stay the same (that which fetches the course may come, change and go); else it loses them all and
    a line says so. The README's links to Colab follow the same setting.

    Raises:
        ValueError: for a malformed source. Nothing is written then.
        LostWordsError: if a learner's cell cannot be carried into the workbook. Nothing is written then.
    """
    strict = in_ci() if strict is None else strict
    drifted: dict[Path, NotebookNode] = {}
    for path, new in derived(root).items():
        old = read_or_none(path)
        same = old is not None and (_same(path, old, new) if strict or not check else _given(old) == _given(new))
        if not same:
            drifted[path] = new
    if not check:
        for path, new in drifted.items():
            save_from_loss(path, new, root)
        for path, new in drifted.items():
            if path.parent.name == "solutions" and (old := read_or_none(path)):
                keep_outputs(old, new, path.name)
            write(path, dumps(new))
    return [*drifted, *_readme(root, check)]


def _readme(root: Path, check: bool) -> list[Path]:
    """The README, if its links to Colab are not what the setting asks for; written unless `check`."""
    path = root / "README.md"
    text = path.read_text("utf-8") if path.exists() else ""
    if (new := linked_table(text, published(root))) == text:
        return []
    if not check:
        write(path, new)
    return [path]


def derived(root: Path = ROOT) -> dict[Path, NotebookNode]:
    """Every notebook that the sources give, by the path where it belongs."""
    sources = sections(root / "instructions", ".md").values()
    found = {}
    for source in sources:
        recorded = read_or_none(root / "solutions" / f"{source.stem}.ipynb")
        for kind in KINDS:
            found[root / kind / f"{source.stem}.ipynb"] = derive(source, kind, recorded)
    return found


def build_release(folder: Path, root: Path = ROOT) -> list[Path]:
    """Write the exercise notebooks without their folded solutions to `folder`, for a cohort; returns the files.

    A file there that differs is kept in `folder/kept/`.
    """
    written = []
    for source in sections(root / "instructions", ".md").values():
        nb = derive(source, "exercises", read_or_none(root / "solutions" / f"{source.stem}.ipynb"), release=True)
        written.append(_replace(folder / f"{source.stem}.ipynb", dumps(nb), folder))
    return written


def _replace(path: Path, text: str, folder: Path) -> Path:
    """Write `text` to `path`; what differs there goes to `folder/kept/` first, and a line says so."""
    if path.exists() and path.read_bytes() != text.encode():
        print(f"{path} was another version: it is kept as {keep_copy(path, folder / 'kept')}")
    write(path, text)
    return path


def learners_cells(root: Path = ROOT) -> dict[Path, list[str]]:
    """Labels of the cells that a learner has changed or added in generated notebooks, by notebook."""
    found = {
        path: workbook.learners_labels(old, new) for path, new in derived(root).items() if (old := read_or_none(path))
    }
    return {path: labels for path, labels in found.items() if labels}


def in_ci() -> bool:
    """Whether this is a CI machine, where nobody learns: there a learner's cells in `exercises/` were committed."""
    return os.environ.get("CI", "").lower() in ("1", "true")


def _same(path: Path, old: NotebookNode, new: NotebookNode) -> bool:
    """Exercises byte for byte, solutions without what executing them adds."""
    return bare(old) == new if path.parent.name == "solutions" else path.read_bytes() == dumps(new).encode()


def _given(nb: NotebookNode) -> list[tuple[object, ...]]:
    """What the course gave in `nb`: cells that a learner changed count as they were, those that they added don't.

    Nor does what a run printed: a learner may have run the solutions.
    """
    return [
        (cell.cell_type, origin(cell), cell.metadata.get("nbgrader"), tags)
        for cell in nb.cells
        if origin(cell) and TAGS[EXPECTED] not in (tags := cell.metadata.get("tags", []))
    ]


def save_from_loss(path: Path, new: NotebookNode, root: Path) -> None:
    """Before `path` is overwritten, carry what a learner did there into the workbook."""
    if not path.exists():
        return
    shown, old = path.relative_to(root).as_posix(), read_or_none(path)
    if old is None or (path.parent.name == "solutions" and workbook.learners_labels(old, new)):
        copy = keep_copy(path, workbook.folder(root) / path.parent.name)
        print(f"{shown}: somebody has changed it, so a copy is in {copy.relative_to(root).as_posix()}.")
    elif labels := workbook.learners_labels(old, new):
        print(f"{shown}: yours, so they are in workbook/ now: {', '.join(labels)}.")
        for line in workbook.sync(path, root, final=True):
            print(line)


def keep_outputs(old: NotebookNode, new: NotebookNode, name: str) -> None:
    """Give the cells of `new` the outputs of `old` if all code is the same, in place; else say that they are gone."""
    was, now = code_cells(old), code_cells(new)
    if [cell.source for cell in was] == [cell.source for cell in now]:
        for before, after in zip(was, now, strict=True):
            after.outputs, after.execution_count = before.outputs, before.execution_count
    elif any(cell.outputs for cell in was):
        print(f"{name}: its code changed, so its outputs are cleared. `python -m personalab record` makes new ones.")


def bare(nb: NotebookNode) -> NotebookNode:
    """A copy without what executing or opening a notebook adds."""
    nb = deepcopy(nb)
    nb.metadata = nbformat.from_dict(METADATA)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.metadata.pop("execution", None)
    return nb


def build_nbgrader(folder: Path, root: Path = ROOT) -> list[Path]:
    """Write nbgrader's instructor version, markers kept, to `folder/source/<section>/`; returns the files.

    In `folder`, wherever it lies, `nbgrader generate_assignment section_1_persona_space`, `autograde` and
    `generate_feedback` then work: a configuration names the course and gives cells time, and what notebooks import
    stands beside it. A file there that differs goes to `folder/kept/` first; nothing else in `folder` is touched.
    """
    written = [_replace(folder / "nbgrader_config.py", _NBGRADER.format(root=str(root.resolve())), folder)]
    for name in ("utils.py", "tests.py", "benchmarks/judge_validity.json"):  # what notebooks find beside or above them
        if (root / name).exists():
            written.append(_replace(folder / name, (root / name).read_text("utf-8"), folder))
    for source in sections(root / "instructions", ".md").values():
        path = folder / "source" / source.stem / f"{source.stem}.ipynb"
        written.append(_replace(path, dumps(read_source(source)), folder))
    return written
