"""Grading a cohort: every grade right, whatever a submission does, and the same grades twice."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from unittest import mock

import pytest

from checks import cohort, hostile
from personalab.course import grade_report, grading
from personalab.course.cells import dumps, read
from personalab.course.marking import GradingError, Settings
from personalab.course.myst import code_cells
from personalab.course.submissions import kind_of, releases, steps
from personalab.files import write
from personalab.paths import ROOT

QUICK = ("right-0", "os._exit", "a forged pass", "an empty file", "a symbolic link")
SOME = ("generate_all_responses", "characterize_axis")  # solution cells whose graders take no time
ATTACKED = "test_generate_all_responses"  # the other one comes after it


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Section 1 with a few of its exercises."""
    folder = tmp_path_factory.mktemp("release")
    nb = read(ROOT / "exercises" / "section_1_persona_space.ipynb")
    code, keep = code_cells(nb), True
    nb.cells = code[:3]  # the set-up
    for cell in code[3:]:
        if kind_of(cell) == "solution":
            keep = cell.metadata["nbgrader"]["grade_id"] in SOME
        if keep and kind_of(cell) != "other":
            nb.cells.append(cell)
    write(folder / "section_1_persona_space.ipynb", dumps(nb))
    return folder


@pytest.fixture(scope="module")
def graded(release: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list, grading.Run, Path]:
    course = cohort.Course(release, "1")
    made = [*cohort.honest(course, 4, seed=3), *hostile.hostile(course, ATTACKED)]
    folder = tmp_path_factory.mktemp("handed_in")
    cohort.write_all(made, folder)
    out = tmp_path_factory.mktemp("out") / "report.csv"
    with mock.patch.dict(os.environ, hostile.PLANTED):
        return made, grading.grade([folder], out, settings(release, section="1")), out


def settings(release: Path, **other: object) -> Settings:
    return Settings(folder=release, tiny=True, seconds=6, memory=2 << 30, **other)


def test_some_submissions_get_their_grades(release: Path, tmp_path: Path) -> None:
    """A few of the cohort below, so that the whole way is taken on every change."""
    course = cohort.Course(release, "1")
    every = [*cohort.honest(course, 4, seed=3), *hostile.hostile(course, ATTACKED)]
    made = [one for one in every if one.name in QUICK]
    cohort.write_all(made, tmp_path / "handed_in")
    run = grading.grade([tmp_path / "handed_in"], tmp_path / "report.csv", settings(release, jobs=1))
    assert cohort.mistakes(made, {one.student: one for one in run.graded}) == [] and len(run.graded) == len(QUICK)


@pytest.mark.slow  # ten minutes: dozens of submissions, some of which sleep until they are stopped
def test_every_grade_is_right(graded: tuple[list, grading.Run, Path]) -> None:
    made, run, _ = graded
    assert cohort.mistakes(made, {one.student: one for one in run.graded}) == []
    assert len(run.graded) == len(made) and len({one.kind for one in made}) == 5
    assert not hostile.MARK.exists()


@pytest.mark.slow
def test_the_report_names_what_was_done(graded: tuple[list, grading.Run, Path]) -> None:
    made, run, out = graded
    grade_report.write_csv(run, out)
    grade_report.write_html(run, out.with_suffix(".html"))
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    assert {row["student"] for row in rows} == {one.student for one in made}
    attacked = next(row for row in rows if row["student"] == "os._exit" and row["exercise"] == ATTACKED)
    assert attacked["points"] == "0" and "ends the process" in attacked["comment"]
    assert "ends the process" in out.with_suffix(".html").read_text("utf-8")
    assert not any(c in out.read_text("utf-8") for c in "\x1b\ud800")


@pytest.mark.slow
def test_what_is_graded_is_not_graded_again_and_grades_the_same_twice(
    graded: tuple[list, grading.Run, Path], release: Path, tmp_path: Path
) -> None:
    made, run, out = graded
    folder = tmp_path / "handed_in"
    cohort.write_all(made[:4], folder)
    again = grading.grade([folder], out, settings(release, section="1"))  # the same files under the same names
    assert again.graded == [one for one in run.graded if one.student in {m.name for m in made[:4]}]
    new = grading.grade([folder], tmp_path / "other.csv", settings(release, section="1", draw=run.draws["1"]))
    assert [(g.points, g.comments) for g in new.graded] == [(g.points, g.comments) for g in again.graded]


def test_a_notebook_of_another_section_is_named(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    for path in (release / "section_1_persona_space.ipynb", ROOT / "exercises" / "section_4_steering.ipynb"):
        write(folder / path.name, path.read_bytes())
    run = grading.grade([folder / "section_4_steering.ipynb"], tmp_path / "r.csv", Settings(folder=folder, section="1"))
    (one,) = run.graded
    assert one.remark == "a notebook of section 4, not of 1" and (one.reached, one.possible) == (0, 2)


def test_what_cannot_be_graded_says_why(release: Path, tmp_path: Path) -> None:
    with pytest.raises(GradingError, match="No notebook to grade"):
        grading.grade([tmp_path], tmp_path / "r.csv", settings(release))
    with pytest.raises(GradingError, match="No section 7"):
        grading.grade([tmp_path], tmp_path / "r.csv", settings(release, section="7"))


def test_cells_are_found_though_an_editor_dropped_their_names(release: Path, tmp_path: Path) -> None:
    nb = read(release / "section_1_persona_space.ipynb")
    for i, cell in enumerate(nb.cells):
        cell.metadata, cell.id = {}, f"new-{i}"
    path = tmp_path / "ada.ipynb"
    write(path, dumps(nb))
    _, plan = steps(path, releases(release))
    assert [s["name"] for s in plan if s["kind"] == "solution"] == list(SOME)
    graders = [s for s in plan if s["kind"] == "grader"]
    assert [s["name"] for s in graders] == [ATTACKED, "test_characterize_axis"]
    assert json.dumps(plan)
