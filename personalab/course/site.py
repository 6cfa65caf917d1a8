"""The reading site: `python -m personalab site`. Sections as they were recorded, the documentation, the API; offline.

Sphinx reads a folder that is put together here: the exercise notebooks with the outputs of the solutions, pages of
`docs/`, and what stands at the top of the repository. Nothing is executed, and no page fetches anything from elsewhere.
"""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from personalab.course.cells import dumps, name, read
from personalab.course.folded import EXPECTED, TAGS
from personalab.course.myst import sections
from personalab.course.published import without_pictures
from personalab.files import write
from personalab.paths import ROOT

PAGES = {  # what stands elsewhere in the repository, and its place on the site
    "README.md": "index.md",
    "RESULTS.md": "results.md",
    "benchmarks/README.md": "judges.md",
    "personalab/judging/data/README.md": "judge-data.md",
    "persona_vectors/organism/README.md": "organism.md",
    "persona_vectors/dataset/README.md": "finetuning-data.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
}
OURS = Path("docs", "site")  # Sphinx's settings, and pages that only the site has
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#|/)([^)#\s]+)(#[^)\s]*)?\)")
_PLOTLY = "application/vnd.plotly.v1+json"


def build(folder: Path, root: Path = ROOT, api: bool = True) -> int:
    """Make the site in `folder/html`; returns Sphinx's exit code, which is not 0 if it had anything to warn of.

    Args:
        folder: `source`, `doctrees` and `html` in it are made anew; `html` is what a host needs.
        api: with the reference from docstrings, which takes most of the time.
    """
    from sphinx.cmd.build import main  # in the site's own layer of packages

    source = folder / "source"
    for made in (source, folder / "doctrees", folder / "html"):
        shutil.rmtree(made, ignore_errors=True)
    collect(source, root)
    if api:
        reference(source / "api", root / "personalab")
    return main(
        ["-q", "-W", "--keep-going", "-b", "html", "-d", str(folder / "doctrees"), str(source), str(folder / "html")]
    )


def reference(folder: Path, package: Path) -> None:
    """A page of the API for each room of the package, which Sphinx fills from the docstrings."""
    rooms = [room for room in sorted(package.iterdir()) if (room / "__init__.py").exists()]
    for room in rooms:
        names = sorted(path.stem for path in room.glob("[!_]*.py"))
        directive = f".. automodule:: personalab.{room.name}.{{0}}\n   :members:\n"
        modules = [f"{stem}\n{'-' * len(stem)}\n\n{directive.format(stem)}" for stem in names]
        title = f"{room.name}\n{'=' * len(room.name)}\n"
        write(folder / f"{room.name}.rst", "\n".join([title, *modules]))
    listed = "\n".join(f"   {room.name}" for room in rooms)
    write(folder / "index.rst", f"API\n===\n\n.. toctree::\n\n{listed}\n")


def collect(source: Path, root: Path = ROOT) -> None:
    """Put together what Sphinx reads: pages, section notebooks, pictures, and Plotly's library from its package."""
    from plotly.offline import get_plotlyjs

    shutil.copytree(root / OURS, source)
    documents = {p.relative_to(root).as_posix(): p.relative_to(root / "docs").as_posix() for p in _documents(root)}
    places = documents | PAGES
    for original, page in places.items():
        write(source / page, linked((root / original).read_text("utf-8"), root / original, root, places))
    index = source / PAGES["README.md"]
    write(index, index.read_text("utf-8") + (root / OURS / "contents.txt").read_text("utf-8"))
    notebooks = sections(root / "exercises", ".ipynb").values()
    listed = source / "sections.md"  # in the course's order: a bonus stands behind its section
    stems = "\n".join(f"sections/{path.stem}" for path in notebooks)
    write(listed, listed.read_text("utf-8").replace("SECTIONS", stems))
    for path in notebooks:
        made = section(read(path), read(root / "solutions" / path.name), source / "_static" / "figures" / path.stem)
        write(source / "sections" / path.name, dumps(made))
    for picture in (root / "solutions").glob("*.png"):
        write(source / "solutions" / picture.name, picture.read_bytes())
    for picture in (root / "benchmarks" / "results").glob("*.svg"):  # named so by a page that has moved to the top
        write(source / "results" / picture.name, picture.read_bytes())
    write(source / "_static" / "plotly.min.js", get_plotlyjs())


def _documents(root: Path) -> Iterator[Path]:
    ours = root / OURS
    return (path for path in sorted((root / "docs").rglob("*.md")) if ours not in path.parents)


def linked(text: str, original: Path, root: Path, places: Mapping[str, str]) -> str:
    """Links between files of the repository as links between pages; of what has no page the words stay."""

    def replace(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        at = (original.parent / target).resolve()
        to = places.get(at.relative_to(root.resolve()).as_posix()) if at.is_relative_to(root.resolve()) else None
        if at.suffix == ".ipynb":
            to = f"sections/{at.name}"
        return f"[{words}](/{to}{anchor})" if to else words

    return _LINK.sub(replace, text)


def section(exercises: NotebookNode, recorded: NotebookNode, pictures: Path) -> NotebookNode:
    """A section to read: the exercises with hints and solutions folded, and the outputs of the recorded run.

    Args:
        pictures: folder for the figures, which the page loads when they come into view.
    """
    outputs = {cell.id: cell.outputs for cell in recorded.cells if cell.cell_type == "code" and name(cell) is None}
    cells = []
    for cell in exercises.cells:
        tags = cell.metadata.get("tags", [])
        if TAGS[EXPECTED] in tags or "remove-cell" in tags:
            continue
        if cell.cell_type == "code":
            cell.outputs = [_shown(o, cell.id, i, pictures) for i, o in enumerate(outputs.get(cell.id, []))]
        else:
            cell.source = without_pictures(cell.source)
        cells.append(cell)
    return nbformat.v4.new_notebook(cells=cells, metadata=exercises.metadata)


def _shown(output: NotebookNode, cell_id: str, i: int, pictures: Path) -> NotebookNode:
    """An output as the page holds it: a picture as a file beside it, an interactive figure for whoever opens it."""
    data: Mapping[str, Any] = output.get("data", {})
    place, stem = f"../_static/figures/{pictures.name}", f"{cell_id}-{i}"
    if _PLOTLY in data:
        figure = json.dumps(data[_PLOTLY]).replace("</", "<\\/")
        write(pictures / f"{stem}.js", f"showFigure({json.dumps(stem)}, {figure});\n")
        return _html(
            f'<details class="interactive" data-figure="{place}/{stem}.js"><summary>The same, interactive</summary>'
            f'<div id="{stem}"></div></details>'
        )
    if "image/png" in data:
        write(pictures / f"{stem}.png", base64.b64decode(data["image/png"]))
        alt = html.escape(data.get("text/plain", ""), quote=True)
        return _html(f'<img class="figure" src="{place}/{stem}.png" alt="{alt}" loading="lazy">')
    return output


def _html(text: str) -> NotebookNode:
    return nbformat.v4.new_output("display_data", data={"text/html": text})
