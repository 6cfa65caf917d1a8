"""What an exercise notebook folds away (solutions, what the recorded run printed), and the links between sections."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from personalab.course.cells import name

SOLUTION, EXPECTED = "A solution", "Expected output (of the recorded run)"
TAGS = {SOLUTION: "solution-fold", EXPECTED: "expected-output"}
HELP = (
    "Stuck? Open the hints, then *A solution* under the grader; what a grader says names the difference. "
    "Questions and faults: the issue tracker of the repository (`README.md`, *Questions*)."
)
_TITLE = re.compile(r"^# (.+)$", re.M)


def folded(cells: Iterable[NotebookNode], solved: Mapping[str, str], printed: Mapping[str, str]) -> list[NotebookNode]:
    """The cells with a folded solution after each exercise's graders, and expected outputs after the cells that print.

    Args:
        solved: code by the name of the solution cell; {} leaves solutions out.
        printed: text by the id of the code cell.
    """
    found, waiting = [], list[NotebookNode]()
    for cell in cells:
        grader = cell.metadata.get("nbgrader", {}).get("grade", False)
        if not grader:
            found += waiting
            waiting = []
        found.append(cell)
        if (text := solved.get(name(cell) or "")) is not None and not grader:
            waiting.append(_block(f"{cell.id}-solution", SOLUTION, text, "python"))
        elif text := printed.get(cell.id):
            found.append(_block(f"{cell.id}-expected", EXPECTED, text))
    return found + waiting


def _block(cell_id: str, summary: str, text: str, language: str = "text") -> NotebookNode:
    """A markdown cell that shows `text` as it is, when opened: inside a fence that it cannot close."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    source = f"<details>\n<summary>{summary}</summary>\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n\n</details>"
    return nbformat.v4.new_markdown_cell(source, id=cell_id, metadata={"tags": [TAGS[summary]]})


def folded_id(cell: NotebookNode) -> str | None:
    """The id of a cell that we folded away, after that of the cell it belongs to; None for any other cell."""
    return cell.get("id") if set(TAGS.values()) & set(cell.metadata.get("tags", [])) else None


def printed_text(recorded: NotebookNode) -> dict[str, str]:
    """What each ungraded code cell of an executed notebook printed, by cell id; of a figure its description."""
    return {
        cell.id: "".join(_texts(cell.outputs))
        for cell in recorded.cells
        if cell.cell_type == "code" and name(cell) is None
    }


def _texts(outputs: Iterable[NotebookNode]) -> Iterator[str]:
    for output in outputs:
        data = output.get("data", {})
        if output.get("name") == "stdout":
            yield output.text
        elif is_interactive(data):
            continue  # it repeats the picture above it
        elif "image/png" in data:
            yield f"[figure] {data.get('text/plain', '')}\n"
        elif "text/plain" in data:
            yield f"{data['text/plain']}\n"


def is_interactive(data: Mapping[str, object]) -> bool:
    """Whether an output is the interactive twin of a picture; its own picture only says so."""
    return any("plotly" in kind for kind in data)


def links(source: Path, sources: Iterable[Path]) -> NotebookNode:
    """The last cell: the sections before and after, and where to find help."""
    ordered = list(sources)
    place = ordered.index(source)
    before, after = ordered[max(place - 1, 0) : place], ordered[place + 1 : place + 2]
    shown = [f"← [{_title(path)}]({path.stem}.ipynb)" for path in before]
    shown += [f"[{_title(path)}]({path.stem}.ipynb) →" for path in after]
    text = " · ".join(shown)
    return nbformat.v4.new_markdown_cell(f"---\n\n{text}\n\n{HELP}" if text else f"---\n\n{HELP}", id="links")


def _title(path: Path) -> str:
    found = _TITLE.search(path.read_text("utf-8"))
    return found[1] if found else path.stem
