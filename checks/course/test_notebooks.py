"""The authoring pipeline, on a toy course in a temporary folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbgrader.api import Gradebook
from nbgrader.nbgraderformat import MetadataValidator
from nbgrader.preprocessors import ClearSolutions
from toy_course import NAME, TOY, give_outputs, notebook, read, write_source

from personalab.course import notebooks, workbook
from personalab.course.cells import digest
from personalab.course.myst import UNKNOWN, code_cells, derive, read_source, stub, with_numbers, without_markers

# Sources


@pytest.mark.parametrize("indent", ["", "    ", "        "])
def test_a_stub_replaces_the_region_and_nothing_else(indent: str) -> None:
    code = f"before\n{indent}### BEGIN SOLUTION\n{indent}if x:\n{indent}    y\n{indent}### END SOLUTION\nafter"
    assert stub(code) == f"before\n{indent}# YOUR CODE HERE\n{indent}raise NotImplementedError()\nafter"
    assert without_markers(code) == f"before\n{indent}if x:\n{indent}    y\nafter"
    assert stub("no\nregion") == without_markers("no\nregion") == "no\nregion"


def test_stubs_equal_nbgraders(course: Path) -> None:
    nb, _ = ClearSolutions().preprocess(read_source(course / "instructions" / f"{NAME}.md"), {})
    ours = derive(course / "instructions" / f"{NAME}.md", "exercises", release=True)
    assert [cell.source for cell in nb.cells] == [cell.source for cell in ours.cells[1:-1]]


def test_tags_become_valid_nbgrader_metadata(course: Path) -> None:
    nb = read_source(course / "instructions" / f"{NAME}.md")
    solution, grader = code_cells(nb)[1:]
    common = {"schema_version": 3, "task": False}
    assert solution.metadata == {
        "tags": ["hide-input"],
        "nbgrader": {"grade_id": "halve", "grade": False, "locked": False, "solution": True} | common,
    }
    assert grader.metadata == {
        "nbgrader": {"grade_id": "test_halve", "grade": True, "locked": True, "solution": False, "points": 2} | common
    }
    assert [cell.id for cell in nb.cells] == ["toys-1", "toys-2", "halving-1", "halve", "test_halve"]
    MetadataValidator().validate_nb(nb)


def test_the_notation_survives_jupytext() -> None:
    assert jupytext.writes(jupytext.reads(TOY, fmt="md:myst"), fmt="md:myst") == TOY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("    ### END SOLUTION\n", ""), "pair up"),
        (("    half = x / scale\n", "    ### BEGIN SOLUTION\n"), "pair up"),
        (("[solution, halve, hide-input]", "[hide-input]"), "no other cell"),
        (("import sys", "### BEGIN SOLUTION\n### END SOLUTION"), "no other cell"),
        (("    ### BEGIN SOLUTION\n    half = x / scale\n    ### END SOLUTION\n", ""), "needs"),
        (("[solution, halve, hide-input]", "[solution]"), "name second"),
        (("[grader, test_halve, points-2]", "[grader, test-halve]"), "name second"),
        (("[grader, test_halve, points-2]", "[test_halve, grader]"), "comes first"),
        (("[grader, test_halve, points-2]", "[grader, halve]"), "used twice"),
    ],
)
def test_a_malformed_source_is_refused(course: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in TOY
    write_source(course, TOY.replace(*change))
    with pytest.raises(ValueError, match=message) as caught:
        notebooks.build(root=course)
    assert NAME in str(caught.value)
    assert not (course / "exercises").exists()


def test_the_text_quotes_the_record(course: Path) -> None:
    results = {"a/b": {"value": -0.125, "ci": [-0.5, 0.25]}, "a/n": {"value": 7.0, "ci": None}}
    text = "{{a/b:+.2f}} and {{=a/b:.1f}} of {{a/n:.0f}}, {{a/c}}"
    assert with_numbers(text, results) == f"−0.12 [−0.50, +0.25] and −0.1 of 7, {UNKNOWN}"
    assert with_numbers("{question} {{ x }}", results) == "{question} {{ x }}"
    source = course / "instructions" / f"{NAME}.md"
    source.write_text(source.read_text("utf-8") + "\nWe found {{=a/n:.0f}}, and `{{a/n}}` in code:\n", "utf-8")
    notebooks.write(course / "solutions" / "results.json", json.dumps(results))
    assert "We found 7, and" in derive(source, "exercises").cells[-2].source


def test_section_numbers_are_unique(course: Path) -> None:
    (course / "instructions" / "section_9_again.md").write_text("# Again\n", "utf-8")
    with pytest.raises(ValueError, match="no other file has"):
        notebooks.build(root=course)


# Building


def test_two_builds_are_byte_identical(course: Path, tmp_path: Path) -> None:
    other = write_source(tmp_path / "elsewhere", TOY)
    assert len(notebooks.build(root=course)) == len(notebooks.build(root=other)) == 2
    for folder in ("exercises", "solutions"):
        assert notebook(course, folder).read_bytes() == notebook(other, folder).read_bytes()
        assert b"\r" not in notebook(course, folder).read_bytes()
        nbformat.validate(read(course, folder))
    assert notebooks.build(root=course) == notebooks.build(check=True, root=course) == []


def test_notebooks_say_where_they_come_from_and_hold_what_they_should(course: Path) -> None:
    notebooks.build(root=course)
    for folder in ("exercises", "solutions"):
        nb = read(course, folder)
        assert f"Generated from `instructions/{NAME}.md`" in nb.cells[0].source
        assert set(nb.metadata) == {"kernelspec", "language_info"}
        assert "SOLUTION" not in notebooks.dumps(nb)
    assert "x / scale" not in "".join(cell.source for cell in code_cells(read(course, "exercises")))
    exercise = code_cells(read(course, "exercises"))[1].source
    assert all(kept in exercise for kept in ('"""Half of `x`."""', "scale = 2", "return half"))
    assert "    half = x / scale\n    return half" in code_cells(read(course, "solutions"))[1].source


def test_drift_is_found_and_a_check_writes_nothing(course: Path) -> None:
    assert len(notebooks.build(check=True, root=course)) == 2
    assert not (course / "exercises").exists()
    notebooks.build(root=course)
    for folder in ("exercises", "solutions"):
        text = notebook(course, folder).read_text("utf-8").replace("scale = 2", "scale = 3")
        notebook(course, folder).write_text(text, "utf-8")
    changed = [notebook(course, f) for f in ("exercises", "solutions")]
    assert notebooks.build(check=True, root=course, strict=True) == changed
    write_source(course, TOY.replace("scale = 2", "scale = 4"))
    assert notebooks.build(check=True, root=course) == changed
    assert "scale = 3" in notebook(course, "exercises").read_text("utf-8")


def test_outputs_are_no_drift_and_survive_a_change_of_prose(course: Path) -> None:
    notebooks.build(root=course)
    give_outputs(course)
    assert notebooks.build(check=True, root=course) == []
    write_source(course, TOY.replace("Halve a number.", "Halve any number."))
    assert len(notebooks.build(root=course)) == 2
    assert [cell.outputs[0].text for cell in code_cells(read(course, "solutions"))] == [
        "output 1\n",
        "output 2\n",
        "output 3\n",
    ]
    assert "version" not in read(course, "solutions").metadata.language_info


def test_a_change_of_code_clears_all_outputs(course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notebooks.build(root=course)
    give_outputs(course)
    write_source(course, TOY.replace("halve(3) == 1.5", "halve(5) == 2.5"))
    notebooks.build(root=course)
    assert not any(cell.outputs or cell.execution_count for cell in code_cells(read(course, "solutions")))
    assert "outputs are cleared" in capsys.readouterr().out


def answer(root: Path, folder: str, text: str = "def halve(x):\n    return x / 2") -> None:
    """Type into the stub without executing it."""
    nb = read(root, folder)
    code_cells(nb)[1].source = text
    notebooks.write(notebook(root, folder), notebooks.dumps(nb))


def test_every_generated_cell_carries_the_hash_of_its_source(course: Path) -> None:
    notebooks.build(root=course)
    for folder in ("exercises", "solutions"):
        assert all(cell.metadata.personalab.hash == digest(cell.source) for cell in read(course, folder).cells)
    assert notebooks.learners_cells(course) == {}


def test_a_learners_cells_are_no_drift_but_fail_in_ci(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebooks.build(root=course)
    answer(course, "exercises")
    answer(course, "solutions", "halve = None")
    nb = read(course, "exercises")
    nb.cells.append(nbformat.v4.new_code_cell("my_own = 1"))
    code_cells(nb)[0].update(execution_count=1, outputs=[nbformat.v4.new_output("stream", text="budget full\n")])
    notebooks.write(notebook(course, "exercises"), notebooks.dumps(nb))
    assert notebooks.build(check=True, root=course) == []
    found = notebooks.learners_cells(course)
    assert found == {
        notebook(course, "exercises"): ["halve", nb.cells[-1].id],
        notebook(course, "solutions"): ["halve"],
    }
    monkeypatch.setenv("CI", "true")
    assert notebooks.build(check=True, root=course) == [notebook(course, f) for f in ("exercises", "solutions")]


@pytest.mark.parametrize("change", [("halve(3)", "halve(5)"), ("scale = 2", "scale = 4 / 2"), ("a number", "one")])
def test_drift_under_a_learners_cells_is_found(course: Path, change: tuple[str, str]) -> None:
    notebooks.build(root=course)
    answer(course, "exercises")
    assert notebooks.build(check=True, root=course) == []
    assert change[0] in TOY
    write_source(course, TOY.replace(*change))
    assert notebook(course, "exercises") in notebooks.build(check=True, root=course)


def test_outputs_and_an_editors_metadata_in_exercises_are_nobodys_words(course: Path) -> None:
    notebooks.build(root=course)
    nb = read(course, "exercises")
    nb.metadata["vscode"], nb.nbformat_minor = {"hash": "1"}, 4
    for cell in nb.cells:
        cell.metadata["editable"] = True
        del cell["id"]
    code_cells(nb)[0].execution_count = 7
    notebooks.write(notebook(course, "exercises"), notebooks.dumps(nb))
    assert notebooks.build(check=True, root=course) == []
    assert notebooks.learners_cells(course) == {}


def test_a_learners_cells_are_in_the_workbook_before_anything_is_written(
    course: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notebooks.build(root=course)
    answer(course, "exercises")
    assert notebooks.build(root=course) == [notebook(course, "exercises")]
    assert "return x / 2" not in notebook(course, "exercises").read_text("utf-8")
    assert "return x / 2" in code_cells(read(course, "workbook"))[1].source
    assert "exercises/section_9_toys.ipynb: yours, so they are in workbook/ now: halve." in capsys.readouterr().out
    answer(course, "exercises", "def halve(x):\n    return 0.5 * x")
    notebooks.build(root=course)
    both = notebook(course, "workbook").read_text("utf-8")
    assert "return x / 2" in both and "return 0.5 * x" in both


def test_nothing_is_written_if_the_workbook_cannot_take_the_words(
    course: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> list[str]:
        raise OSError("disk full")

    notebooks.build(root=course)
    answer(course, "exercises")
    write_source(course, TOY.replace("a number", "any number"))
    before = {folder: notebook(course, folder).read_bytes() for folder in ("exercises", "solutions")}
    monkeypatch.setattr(workbook, "sync", full)
    with pytest.raises(OSError, match="disk full"):
        notebooks.build(root=course)
    assert before == {folder: notebook(course, folder).read_bytes() for folder in ("exercises", "solutions")}


@pytest.mark.parametrize(("folder", "text"), [("solutions", None), ("exercises", "<<<<<<< HEAD\n{"), ("solutions", "")])
def test_changed_solutions_and_unreadable_notebooks_are_kept_as_copies(
    course: Path, folder: str, text: str | None
) -> None:
    notebooks.build(root=course)
    if text is None:
        answer(course, folder, "halve = 'my try'")
    else:
        notebook(course, folder).write_text(text, "utf-8")
    before = notebook(course, folder).read_bytes()
    write_source(course, TOY.replace("a number", "any number"))
    notebooks.build(root=course)
    assert (course / "workbook" / folder / f"{NAME}.ipynb").read_bytes() == before
    assert notebooks.build(check=True, root=course) == []
    assert not notebook(course, "workbook").exists()


def test_the_instructors_version_keeps_what_it_replaces(course: Path, tmp_path: Path) -> None:
    _, path = notebooks.build_nbgrader(tmp_path / "grading", root=course)
    submitted = tmp_path / "grading" / "submitted" / "ada" / NAME / f"{NAME}.ipynb"
    notebooks.write(submitted, "an answer")
    path.write_text("changed by hand", "utf-8")
    assert notebooks.build_nbgrader(tmp_path / "grading", root=course)[1:] == [path]
    assert (tmp_path / "grading" / "kept" / path.name).read_text("utf-8") == "changed by hand"
    assert "BEGIN SOLUTION" in path.read_text("utf-8") and submitted.read_text("utf-8") == "an answer"
    notebooks.build_nbgrader(tmp_path / "grading", root=course)
    assert len([*(tmp_path / "grading" / "kept").iterdir()]) == 1


@pytest.mark.slow
def test_nbgrader_grades_the_instructors_version(course: Path, tmp_path: Path) -> None:
    folder = tmp_path / "grading"
    _, source = notebooks.build_nbgrader(folder, root=course)
    assert "### BEGIN SOLUTION" in source.read_text("utf-8")
    run_nbgrader(folder, "generate_assignment")
    released = (folder / "release" / NAME / f"{NAME}.ipynb").read_text("utf-8")
    assert "raise NotImplementedError()" in released and "x / scale" not in released
    for student, answer in {"ada": "half = x / scale", "bob": "half = x"}.items():
        submitted = folder / "submitted" / student / NAME / f"{NAME}.ipynb"
        notebooks.write(submitted, released.replace("raise NotImplementedError()", answer))
    run_nbgrader(folder, "autograde")
    with Gradebook(f"sqlite:///{folder}/gradebook.db") as gradebook:
        assert gradebook.find_submission(NAME, "ada").score == 2
        assert gradebook.find_submission(NAME, "bob").score == 0


@pytest.mark.slow
def test_nbgrader_grades_a_real_section_in_any_folder(tmp_path: Path) -> None:
    folder, section = tmp_path / "grading", "section_1_persona_space"
    notebooks.build_nbgrader(folder)
    source = folder / "source" / section / f"{section}.ipynb"
    nb = nbformat.read(source, as_version=4)
    first, last = (next(i for i, c in enumerate(nb.cells) if c.id == name) for name in ("judge", "test_parse_score"))
    nb.cells = [*[c for c in nb.cells[:first] if c.cell_type == "code"], nb.cells[first], nb.cells[last]]
    notebooks.write(source, notebooks.dumps(nb))
    run_nbgrader(folder, "generate_assignment", section)
    released = (folder / "release" / section / f"{section}.ipynb").read_text("utf-8")
    for student, text in {"ada": notebooks.dumps(nb), "bob": released}.items():
        notebooks.write(folder / "submitted" / student / section / f"{section}.ipynb", text)
    for command in ("autograde", "generate_feedback"):
        run_nbgrader(folder, command, section)
    with Gradebook(f"sqlite:///{folder}/gradebook.db") as gradebook:
        assert gradebook.find_submission(section, "ada").score == 1
        assert gradebook.find_submission(section, "bob").score == 0
    feedback = (folder / "feedback" / "bob" / section / f"{section}.html").read_text("utf-8")
    assert "NotImplementedError" in feedback  # of the cell as it was given


def run_nbgrader(folder: Path, command: str, name: str = NAME) -> None:
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where nbgrader finds alembic
    env = os.environ | {"PATH": scripts, "PERSONALAB_BUDGET": "quick"}
    run = [sys.executable, "-m", "nbgrader", command, name]
    done = subprocess.run(run, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
