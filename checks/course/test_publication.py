"""Where the course is published: one setting, badges and a first cell by it, and no recorded output lost over it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from toy_course import NAME, give_outputs, notebook, read

from personalab import __version__
from personalab.course import notebooks, site, submissions, workbook
from personalab.course.cells import dumps
from personalab.course.myst import code_cells
from personalab.course.published import FETCH, Published, fetches, published
from personalab.files import write
from personalab.paths import ROOT

ADDRESS, TAG = "https://github.com/someone/lab", "v0.1.0"
ROW = "| [1. Toys](exercises/section_9_toys.ipynb): halving | 1 min |\n"


def test_files_for_hosts_can_be_read() -> None:
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        jobs = yaml.safe_load(path.read_text("utf-8"))["jobs"]
        commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
        assert commands and all(job["runs-on"] for job in jobs.values()), path.name
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    assert container["image"] and container["postCreateCommand"] == "python3 -m personalab setup"


def publish(root: Path, setting: str = f"{ADDRESS}@{TAG}") -> None:
    write(root / "pyproject.toml", f'[tool.personalab]\npublished = "{setting}"\n')


def test_a_tag_is_that_of_this_version() -> None:
    """Of the course itself: notebooks of one release must not fetch another."""
    where = published(ROOT)
    assert where is None or where.tag == f"v{__version__}"


def test_nothing_published_leaves_no_trace(course: Path) -> None:
    notebooks.build(root=course)
    before = {folder: notebook(course, folder).read_bytes() for folder in notebooks.KINDS}
    publish(course, "")
    assert notebooks.build(root=course) == [] and FETCH.encode() not in b"".join(before.values())


def recorded(root: Path) -> None:
    """Outputs as a recorded run leaves them."""
    give_outputs(root)
    nb = read(root, "solutions")
    for cell in nb.cells:
        cell.metadata.pop("execution", None)
    nb.metadata.language_info.pop("version")
    write(notebook(root, "solutions"), dumps(nb))


def test_an_address_comes_and_goes_and_outputs_stay(course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(course / "README.md", ROW)
    notebooks.build(root=course)
    recorded(course)
    notebooks.build(root=course)  # the exercises now quote the outputs
    before = {folder: read(course, folder) for folder in notebooks.KINDS}
    publish(course)
    assert len(notebooks.build(root=course, check=True)) == 3
    assert len(notebooks.build(root=course)) == 3 and notebooks.build(root=course, check=True, strict=True) == []
    assert "cleared" not in capsys.readouterr().out
    for folder, old in before.items():
        nb = read(course, folder)
        (first,) = (cell for cell in nb.cells if fetches(cell))
        assert first.id == FETCH and nb.cells.index(first) < nb.cells.index(code_cells(nb)[0])
        assert f'fetch_course("{ADDRESS}", "{TAG}")' in first.source
        title = nb.cells[1].source
        assert title.startswith("# Toys\n\n[![Open in Colab]") and title.endswith("\n\nHalve a number.")
        path = f"someone/lab/blob/{TAG}/exercises/{NAME}.ipynb"
        assert f"(https://colab.research.google.com/github/{path})" in title
        assert f"(https://kaggle.com/kernels/welcome?src=https://github.com/{path})" in title
        assert [c for c in nb.cells[2:] if c is not first] == old.cells[2:]  # outputs, ids and hashes
    assert "Expected output" in dumps(read(course, "exercises"))
    assert "([Colab](https://colab" in (course / "README.md").read_text()
    nb = read(course, "solutions")
    next(cell for cell in nb.cells if fetches(cell)).execution_count = 1  # as a recorded run leaves it
    write(notebook(course, "solutions"), dumps(nb))
    assert notebooks.build(root=course, check=True, strict=True) == []
    publish(course, f"{ADDRESS}@v0.2.0")
    assert len(notebooks.build(root=course)) == 3 and code_cells(read(course, "solutions"))[0].outputs
    publish(course, "")
    notebooks.build(root=course)
    assert {folder: read(course, folder) for folder in notebooks.KINDS} == before
    assert (course / "README.md").read_text() == ROW


def test_another_host_gets_the_cell_and_a_cohort_no_badges(course: Path, tmp_path: Path) -> None:
    publish(course, "https://git.example.org/lab.git@v1")  # Colab and Kaggle open files of GitHub only
    notebooks.build(root=course)
    text = dumps(read(course, "exercises"))
    assert 'fetch_course(\\"https://git.example.org/lab.git\\", \\"v1\\")' in text and "colab-badge" not in text
    publish(course)
    (path,) = notebooks.build_release(tmp_path / "cohort", course)
    assert FETCH in path.read_text("utf-8") and "colab-badge" not in path.read_text("utf-8")


@pytest.mark.parametrize(
    "setting", ["https://github.com/a/b", "git@github.com:a/b", "https://x/y@", "@v1", 'https://a/b@v1"', "b@v1"]
)
def test_a_wrong_setting_is_named(setting: str, course: Path) -> None:
    write(course / "pyproject.toml", f"[tool.personalab]\npublished = {setting!r}\n")
    with pytest.raises(ValueError, match=r"pyproject\.toml, \[tool\.personalab\] published = .*address@tag"):
        notebooks.build(root=course)


def test_the_first_cell_is_short_and_passes_ruff(tmp_path: Path) -> None:
    code = Published(ADDRESS, TAG).first_cell().source
    assert len(code.splitlines()) <= 40
    path, after = tmp_path / "solutions" / "cell.ipynb", "import os\nimport sys\n\nprint(os.name, sys.path)"
    write(path, dumps(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in (code, after)])))
    write(tmp_path / "pyproject.toml", (ROOT / "pyproject.toml").read_bytes())
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, str(path)], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_workbook_gets_the_cell_and_keeps_its_answers(course: Path) -> None:
    notebooks.build(root=course)
    workbook.update(course)
    nb = read(course, "workbook")
    code_cells(nb)[1].source = "def halve(x):\n    return x / 2"
    write(notebook(course, "workbook"), dumps(nb))
    publish(course)
    notebooks.build(root=course)
    workbook.update(course)
    now = read(course, "workbook")
    assert [fetches(c) for c in now.cells if c.cell_type == "code"] == [True, False, False, False]
    assert "return x / 2" in code_cells(now)[1].source


def test_grading_leaves_the_cell_out_whatever_an_editor_did_to_it(course: Path) -> None:
    publish(course)
    notebooks.build(root=course)
    nb = read(course, "exercises")
    release = notebook(course, "exercises")
    graders = {cell.source for cell in code_cells(nb) if submissions.kind_of(cell) == "grader"}
    text = dumps(nb).replace(next(iter(graders)), "tests.test_halve(halve)")  # as in every section
    write(release, text)
    handed_in = read(course, "exercises")
    for cell in handed_in.cells:
        cell.metadata.pop("tags", None)
    write(course / "in.ipynb", dumps(handed_in))
    known = submissions.releases(course / "exercises")
    assert not any("fetch_course" in source for source in known["9"].setup)
    _, steps = submissions.steps(course / "in.ipynb", known)
    assert steps and not any("fetch_course" in step.get("source", "") for step in steps)


def test_the_site_has_links_instead_of_pictures_from_elsewhere(course: Path, tmp_path: Path) -> None:
    publish(course)
    notebooks.build(root=course)
    page = site.section(read(course, "exercises"), read(course, "solutions"), tmp_path)
    text = dumps(page)
    assert "fetch_course" not in text and not re.search(r"!\[[^\]]*\]\(http", text)
    assert "[Open in Colab](https://colab.research.google.com/github/someone/lab/" in text
