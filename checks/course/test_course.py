"""The course in this repository: files match their sources, solutions are executed, graders exist."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from personalab.course import notebooks
from personalab.course.cells import is_learners
from personalab.course.folded import SOLUTION, TAGS
from personalab.course.myst import BEGIN, UNKNOWN, code_cells, read_source, sections
from personalab.paths import ROOT

SOURCES = [pytest.param(path, id=path.stem) for path in sections(ROOT / "instructions", ".md").values()]


def test_generated_notebooks_match_their_sources() -> None:
    assert notebooks.build(check=True) == []


@pytest.mark.parametrize("source", SOURCES)
def test_committed_solutions_are_executed(source: Path) -> None:
    nb = nbformat.read(ROOT / "solutions" / f"{source.stem}.ipynb", as_version=4)
    nb.cells = [cell for cell in nb.cells if not is_learners(cell)]  # reported by `make test`, and CI fails on them
    missing = [cell.id for cell in code_cells(nb) if cell.execution_count is None]
    assert not missing, f"Run `python -m personalab record`: cells without a run are {missing}"
    assert not [o for cell in code_cells(nb) for o in cell.outputs if o.output_type == "error"]


@pytest.mark.parametrize("source", SOURCES)
def test_every_number_in_the_text_is_on_record(source: Path) -> None:
    assert not [
        cell.id for cell in read_source(source).cells if cell.cell_type == "markdown" and UNKNOWN in cell.source
    ]


@pytest.mark.parametrize("source", SOURCES)
def test_every_exercise_has_a_grader(source: Path) -> None:
    graders = importlib.import_module("tests")
    waiting = None
    for cell in code_cells(read_source(source)):
        meta = cell.metadata.get("nbgrader")
        if meta and meta.solution:
            assert waiting is None, f"{waiting} has no grader cell before {cell.id}"
            waiting = cell.id
        elif meta:
            names = re.findall(r"\btests\.(test_\w+)\(", cell.source)
            assert names, f"{cell.id} calls no tests.test_…"
            missing = [name for name in names if not hasattr(graders, name)]
            assert not missing, f"{cell.id}: tests.py has no {missing}"
            waiting = None
    assert waiting is None, f"{waiting} has no grader cell"


@pytest.mark.parametrize("source", SOURCES)
def test_every_exercise_has_a_folded_solution(source: Path) -> None:
    cells = notebooks.derived()[ROOT / "exercises" / f"{source.stem}.ipynb"].cells
    folds = {cell.id for cell in cells if TAGS[SOLUTION] in cell.metadata.get("tags", [])}
    assert folds == {f"{cell.id}-solution" for cell in code_cells(read_source(source)) if BEGIN in cell.source}


@pytest.mark.parametrize("source", SOURCES)
def test_every_discussion_question_has_an_answer(source: Path) -> None:
    text = source.read_text("utf-8")
    (discussion,) = re.findall(r"^## Discussion\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    questions = re.split(r"^\* \*\*", discussion, flags=re.M)[1:]
    assert questions
    unanswered = [q[:40] for q in questions if not re.search(r"<summary>An answer</summary>\s+\S.{80}", q, re.S)]
    assert not unanswered


@pytest.mark.parametrize("source", SOURCES)
def test_a_section_says_how_long_it_takes(source: Path) -> None:
    text = source.read_text("utf-8")
    cards = [int(minutes) for minutes in re.findall(r"^> \*\*Difficulty\*\*.*?(\d+) minutes$", text, re.M)]
    (line,) = re.findall(r"^\*\*Time:\*\* .*$", text, re.M)
    assert f"{sum(cards)} minutes" in line, f"the cards add up to {sum(cards)} minutes"


@pytest.mark.parametrize("source", SOURCES)
def test_what_it_shows_is_short(source: Path) -> None:
    (shows,) = re.findall(r"^## What it shows\n(.*?)(?=^## )", source.read_text("utf-8"), re.M | re.S)
    assert len(re.sub(r"<details>.*?</details>", "", shows, flags=re.S).split()) <= 500


@pytest.mark.parametrize("source", SOURCES)
def test_every_image_is_described(source: Path) -> None:
    nb = nbformat.read(ROOT / "solutions" / f"{source.stem}.ipynb", as_version=4)
    pictures = [out for cell in code_cells(nb) for out in cell.outputs if "image/png" in out.get("data", {})]
    assert pictures
    for picture in pictures:
        assert picture.metadata["image/png"]["alt"] == picture.data["text/plain"]
        assert len(picture.data["text/plain"]) > 40


def test_notebooks_pass_ruff(tmp_path: Path) -> None:
    """As generated: a learner may have worked on those in the repository."""
    assert SOURCES
    for name in ("pyproject.toml", "tests.py", "utils.py"):  # the rules, and which modules are ours
        shutil.copy(ROOT / name, tmp_path)
    for path, nb in notebooks.derived().items():
        notebooks.write(tmp_path / path.relative_to(ROOT), notebooks.dumps(nb))
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "exercises", "solutions"]
        done = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
