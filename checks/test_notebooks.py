"""The authoring pipeline, on a toy course in a temporary folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jupytext
import nbformat
import pytest
from nbgrader.api import Gradebook
from nbgrader.nbgraderformat import MetadataValidator
from nbgrader.preprocessors import ClearSolutions

from personalab import notebooks
from personalab.sources import UNKNOWN, code_cells, derive, read_source, stub, with_numbers, without_markers

TOY = '''\
# Toys

Halve a number.

```{code-cell} ipython3
import os
import sys

print(f"budget {os.environ['PERSONALAB_BUDGET']}")
```

## Halving

```{code-cell} ipython3
:tags: [solution, halve, hide-input]

def halve(x: float) -> float:
    """Half of `x`."""
    scale = 2
    ### BEGIN SOLUTION
    half = x / scale
    ### END SOLUTION
    return half
```

```{code-cell} ipython3
:tags: [grader, test_halve, points-2]

assert halve(3) == 1.5
```
'''
NAME = "section_9_toys"


@pytest.fixture(autouse=True)
def _plain_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PERSONALAB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PERSONALAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """The root of a course with one section."""
    return write_source(tmp_path / "course", TOY)


def write_source(root: Path, text: str) -> Path:
    (root / "instructions").mkdir(parents=True, exist_ok=True)
    (root / "instructions" / f"{NAME}.md").write_text(text, "utf-8")
    return root


def notebook(root: Path, folder: str) -> Path:
    return root / folder / f"{NAME}.ipynb"


def read(root: Path, folder: str) -> nbformat.NotebookNode:
    return nbformat.read(notebook(root, folder), as_version=4)


def give_outputs(root: Path) -> None:
    """What running the solutions in Jupyter adds to the file."""
    nb = read(root, "solutions")
    for number, cell in enumerate(code_cells(nb), start=1):
        cell.execution_count = number
        cell.outputs = [nbformat.v4.new_output("stream", text=f"output {number}\n")]
        cell.metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
    nb.metadata["language_info"]["version"] = "3.11.7"
    notebooks.write(notebook(root, "solutions"), notebooks.dumps(nb))


# Sources


@pytest.mark.parametrize("indent", ["", "    ", "        "])
def test_a_stub_replaces_the_region_and_nothing_else(indent: str) -> None:
    code = f"before\n{indent}### BEGIN SOLUTION\n{indent}if x:\n{indent}    y\n{indent}### END SOLUTION\nafter"
    assert stub(code) == f"before\n{indent}# YOUR CODE HERE\n{indent}raise NotImplementedError()\nafter"
    assert without_markers(code) == f"before\n{indent}if x:\n{indent}    y\nafter"
    assert stub("no\nregion") == without_markers("no\nregion") == "no\nregion"


def test_stubs_equal_nbgraders(course: Path) -> None:
    nb, _ = ClearSolutions().preprocess(read_source(course / "instructions" / f"{NAME}.md"), {})
    assert [cell.source for cell in nb.cells] == [
        cell.source for cell in derive(course / "instructions" / f"{NAME}.md", "exercises").cells[1:]
    ]


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
    assert "We found 7, and" in derive(source, "exercises").cells[-1].source


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
    assert "x / scale" not in notebook(course, "exercises").read_text("utf-8")
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
    assert notebooks.build(check=True, root=course) == [notebook(course, f) for f in ("exercises", "solutions")]
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


def test_a_learners_work_is_never_overwritten(course: Path) -> None:
    notebooks.build(root=course)
    nb = read(course, "exercises")
    code_cells(nb)[1].update(source="def halve(x):\n    return x / 2", execution_count=1)
    notebooks.write(notebook(course, "exercises"), notebooks.dumps(nb))
    with pytest.raises(FileExistsError, match="somebody's work"):
        notebooks.build(root=course)
    assert "return x / 2" in notebook(course, "exercises").read_text("utf-8")


# Running


def test_quick_records_nothing_and_leaves_the_solutions_alone(course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = TOY.replace("import sys\n", "import sys\n\nassert 'PERSONALAB_RECORD' not in os.environ\n")
    notebooks.build(root=write_source(course, source))
    before = notebook(course, "solutions").read_bytes()
    assert notebooks.execute(9, "quick", course) == 0
    assert notebook(course, "solutions").read_bytes() == before
    assert code_cells(read(course, "runs/quick"))[0].outputs[0].text == "budget quick\n"
    assert sorted(path.name for path in (course / "solutions").iterdir()) == [f"{NAME}.ipynb"]
    progress = capsys.readouterr().out
    assert "test_halve" in progress and "import os" in progress


RECORDING = """\
import json
import sys
from pathlib import Path

import helper

json.dump({"section_9/x": {"value": helper.X}}, open(os.environ["PERSONALAB_RECORD"], "w"))
print("careful", file=sys.stderr)
print(Path.cwd())
"""


def test_full_saves_the_solutions_the_results_and_the_readme(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    updated: list[Path] = []
    monkeypatch.setitem(sys.modules, "personalab.results", SimpleNamespace(update_readme=updated.append))
    (course / "helper.py").write_text("X = 1.5\n", "utf-8")
    notebooks.build(root=write_source(course, TOY.replace("import sys\n", f"{RECORDING}\n")))
    old = {"section_9/old": {"value": 0}, "section_8/x": {"value": 8}}
    notebooks.write(course / "solutions" / "results.json", json.dumps(old))
    assert notebooks.execute(None, "full", course) == 0
    results = json.loads((course / "solutions" / "results.json").read_text("utf-8"))
    assert list(results) == ["section_8/x", "section_9/seconds", "section_9/x"]
    assert results["section_9/x"] == {"value": 1.5}
    assert set(results["section_9/seconds"]) == {"value", "n", "ci", "section", "tier", "model", "seed"}
    saved = read(course, "solutions")
    texts = [output.text for output in code_cells(saved)[0].outputs]
    assert texts == ["./solutions\nbudget full\n", "careful\n"]
    assert [cell.execution_count for cell in code_cells(saved)] == [1, 2, 3]
    assert not any("execution" in cell.metadata for cell in saved.cells)
    assert notebooks.build(check=True, root=course) == notebooks.build(root=course) == []
    assert updated == [course]


def test_a_failing_cell_is_reported_and_overwrites_nothing(course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notebooks.build(root=write_source(course, TOY.replace("halve(3) == 1.5", "halve(3) == 2")))
    before = notebook(course, "solutions").read_bytes()
    assert notebooks.execute(9, "full", course) == 1
    assert notebook(course, "solutions").read_bytes() == before
    assert not (course / "solutions" / "results.json").exists()
    assert code_cells(read(course, "runs/failed"))[2].outputs[0].ename == "AssertionError"
    printed = capsys.readouterr().out
    assert "assert halve(3) == 2" in printed and "AssertionError" in printed and "\x1b" not in printed


def test_a_dead_kernel_is_reported_with_its_cell(course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notebooks.build(root=write_source(course, TOY.replace("import sys\n", "os._exit(3)\n")))
    assert notebooks.execute(9, "quick", course) == 1
    assert "Cell 'import os': Kernel died" in capsys.readouterr().out


def test_a_key_or_too_big_a_notebook_fails(
    course: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOY_API_KEY", "sk-toy-12345")
    monkeypatch.setattr(notebooks, "MAX_BYTES", 1_000)
    notebooks.build(root=write_source(course, TOY.replace("import sys", 'print(os.environ["TOY_API_KEY"])')))
    assert notebooks.execute(9, "full", course) == 1
    printed = capsys.readouterr().out
    assert "value of TOY_API_KEY" in printed and "over 1,000" in printed
    assert "sk-toy" not in printed + notebook(course, "runs/failed").read_text("utf-8")


def test_an_unknown_section_is_refused(course: Path) -> None:
    notebooks.build(root=course)
    with pytest.raises(ValueError, match=r"no section 4: it has \[9\]"):
        notebooks.execute(4, "quick", course)


@pytest.mark.slow
def test_nbgrader_grades_the_instructors_version(course: Path, tmp_path: Path) -> None:
    folder = tmp_path / "grading"
    (source,) = notebooks.build_nbgrader(folder, root=course)
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


def run_nbgrader(folder: Path, command: str) -> None:
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where nbgrader finds alembic
    env = os.environ | {"PATH": scripts, "PERSONALAB_BUDGET": "quick"}
    run = [sys.executable, "-m", "nbgrader", command, NAME]
    done = subprocess.run(run, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
