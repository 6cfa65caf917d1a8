"""What an author writes in `instructions/`, and the notebooks that follow from it.

A section is one MyST notebook, `section_N_name.md`. Two tags on code cells, kind first, mark its exercises:

- `:tags: [solution, parse_score]`: has code between `### BEGIN SOLUTION` and `### END SOLUTION`. The exercise
  gets a stub in its place and keeps everything around it.
- `:tags: [grader, test_parse_score, points-2]`: checks it. Without `points-N` it is worth 1 point.

Both become nbgrader metadata. In the text, `{{section_3/evil/layer:.0f}}` becomes a recorded number and its interval,
and `{{=...}}` the number alone: what the text says is what `solutions/results.json` says.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from personalab.course.cells import stamp
from personalab.course.folded import folded, links, printed_text
from personalab.course.published import add_to, fetches, published

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
REGION = re.compile(rf"^([ \t]*){BEGIN}.*?^[ \t]*{END}[^\n]*", re.M | re.S)
STUB = r"\1# YOUR CODE HERE\n\1raise NotImplementedError()"  # nbgrader's own stub
MARKER_LINE = re.compile(rf"^[ \t]*(?:{BEGIN}|{END})[^\n]*\n?", re.M)
NUMBER = re.compile(r"\{\{(=?)([\w/]+)(?::([^}]+))?\}\}")
UNKNOWN = "(not measured yet)"
HEADING = re.compile(r"^#{1,6} (.+)$", re.M)
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
NOTICE = {
    "exercises": "Work on your own copy, in `workbook/`: `make lab` opens it and keeps your answers when the course "
    "changes. Changes to the course belong in that file.",
    "solutions": "Do not edit: change that file instead.",
}


def sections(folder: Path, suffix: str) -> dict[str, Path]:
    """The files `section_N_name` in `folder` by N, and `section_N_bonus_name`, which comes after it, by "Nb".

    Raises ValueError for a bad name, or one whose N is used twice.
    """
    found: dict[tuple[int, str], Path] = {}
    for path in sorted(folder.glob(f"section_*{suffix}")):
        match = re.match(r"section_(\d+)_(bonus_)?", path.name)
        key = (int(match[1]), "b" if match[2] else "") if match else None
        if key is None or key in found:
            raise ValueError(f"{path}: call it section_N_name{suffix}, with a number N that no other file has.")
        found[key] = path
    return {f"{number}{bonus}": path for (number, bonus), path in sorted(found.items())}


def is_wanted(number: str, section: int | str | None) -> bool:
    """Whether `--section` means this one: "1,3" means two of them, None all."""
    return section is None or number in str(section).split(",")


def read_source(source: Path) -> NotebookNode:
    """The notebook as written, solutions and markers included, with nbgrader metadata and stable ids.

    Raises:
        ValueError: for markers or tags that do not fit together, or a name used twice; says which cell.
    """
    import jupytext  # here, because running a notebook needs nbformat only, and only authors have jupytext

    nb = jupytext.reads(source.read_text("utf-8"), fmt="md:myst")
    nb.metadata, nb.nbformat, nb.nbformat_minor = nbformat.from_dict(METADATA), 4, 5
    record = source.parent.parent / "solutions" / "results.json"
    results = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    title, count = "start", Counter[str]()
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = with_numbers(cell.source, results)
        try:
            _expand_tags(cell)
        except ValueError as error:
            raise ValueError(f"{source.name}: {error} The cell begins:\n{cell.source[:200]}") from None
        if cell.cell_type == "markdown" and (headings := HEADING.findall(cell.source)):
            title = re.sub(r"[^a-z0-9]+", "-", headings[-1].lower()).strip("-")[:48]
        count[title] += 1
        cell.id = cell.metadata.get("nbgrader", {}).get("grade_id", f"{title}-{count[title]}")
    if repeated := [name for name, times in Counter(cell.id for cell in nb.cells).items() if times > 1]:
        raise ValueError(f"{source.name}: cell name(s) used twice: {repeated}. Give each its own.")
    nbformat.validate(nb)
    return nb


def _expand_tags(cell: NotebookNode) -> None:
    """Replace the short tags by nbgrader's metadata (schema version 3)."""
    tags = cell.metadata.get("tags", [])
    kind = tags[0] if tags and tags[0] in ("solution", "grader") else None
    regions = len(REGION.findall(cell.source))
    if not regions == cell.source.count(BEGIN) == cell.source.count(END):
        raise ValueError(f"{BEGIN} and {END} do not pair up.")
    if (kind == "solution") != (regions > 0):
        raise ValueError(f"A cell tagged [solution, name] needs {BEGIN} and {END}; no other cell may have them.")
    if kind is None:
        if {"solution", "grader"} & set(tags):
            raise ValueError(f"Tags {tags}: solution or grader comes first, then the cell's name.")
        return
    if cell.cell_type != "code" or len(tags) < 2 or not re.fullmatch(r"[A-Za-z]\w{0,63}", tags[1], re.A):
        raise ValueError(f"Tags {tags}: in a code cell, kind first and name second, as in [{kind}, parse_score].")
    is_grader, points = kind == "grader", [tag for tag in tags if re.fullmatch(r"points-\d+", tag)]
    flags = {"grade": is_grader, "locked": is_grader, "solution": not is_grader, "task": False}
    cell.metadata["nbgrader"] = {"grade_id": tags[1], "schema_version": 3, **flags}
    if is_grader:
        cell.metadata["nbgrader"]["points"] = int(points[0].removeprefix("points-")) if points else 1
    cell.metadata["tags"] = [tag for tag in tags[2:] if tag not in points]
    if not cell.metadata["tags"]:
        del cell.metadata["tags"]


def stub(code: str) -> str:
    """The learner's version: a stub in place of each solution region, indented like it."""
    return REGION.sub(STUB, code)


def without_markers(code: str) -> str:
    """The version to read and run: the solution without the lines that mark it."""
    return MARKER_LINE.sub("", code).rstrip("\n")


def with_numbers(text: str, results: Mapping[str, Any]) -> str:
    """`{{key:.2f}}` becomes the recorded value and its interval, `{{=key:.2f}}` the value alone."""

    def number(found: re.Match[str]) -> str:
        alone, key, spec = found.groups()
        if key not in results:
            return UNKNOWN
        value, ci = results[key]["value"], results[key]["ci"]
        shown = [format(x, spec or ".2f").replace("-", "−").replace("%", " %") for x in (value, *(ci or ()))]
        return shown[0] if alone or not ci else f"{shown[0]} [{shown[1]}, {shown[2]}]"

    return NUMBER.sub(number, text)


def derive(source: Path, kind: str, recorded: NotebookNode | None = None, release: bool = False) -> NotebookNode:
    """The notebook that belongs under `exercises` or `solutions` (the `kind`), unexecuted; each cell with its hash.

    Args:
        recorded: the executed solutions: exercises quote what they printed, if their code is that of the source.
        release: leave the folded solutions out of exercises.
    """
    nb = read_source(source)
    solved = {cell.id: without_markers(cell.source) for cell in code_cells(nb)}
    if kind == "exercises":
        printed = printed_text(recorded) if recorded and _codes(recorded) == [*solved.values()] else {}
        exercises = {} if release else {c.id: solved[c.id] for c in code_cells(nb) if BEGIN in c.source}
        for cell in code_cells(nb):
            cell.source = stub(cell.source)
        nb.cells = folded(nb.cells, exercises, printed)
    else:
        for cell in code_cells(nb):
            cell.source = solved[cell.id]
    if where := published(source.parent.parent):
        add_to(nb.cells, where, source.stem, badges=not release)
    nb.cells.append(links(source, sections(source.parent, ".md").values()))
    notice = f"*Generated from `instructions/{source.name}` by `make notebooks`. {NOTICE[kind]}*"
    hidden = {"tags": ["remove-cell"]}  # on the site, where nothing can be edited
    nb.cells.insert(0, nbformat.v4.new_markdown_cell(notice, id="generated", metadata=hidden))
    for cell in nb.cells:
        stamp(cell)
    return nb


def _codes(nb: NotebookNode) -> list[str]:
    return [cell.source for cell in code_cells(nb)]


def code_cells(nb: NotebookNode) -> list[NotebookNode]:
    """The code cells of `nb`, in order, but for the one that only fetches the course."""
    return [cell for cell in nb.cells if cell.cell_type == "code" and not fetches(cell)]
