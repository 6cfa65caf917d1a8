"""What exercise notebooks fold away, and the links between sections."""

from __future__ import annotations

from pathlib import Path

import nbformat
from toy_course import TOY, give_outputs, notebook, read, write_source

from personalab.course import notebooks
from personalab.course.folded import folded


def test_exercises_fold_solutions_and_what_the_recorded_run_printed(course: Path, tmp_path: Path) -> None:
    notebooks.build(root=course)
    give_outputs(course)
    notebooks.build(root=course)
    cells = read(course, "exercises").cells
    shown = [(i, c.source) for i, c in enumerate(cells) if c.cell_type == "markdown" and "<details>" in c.source]
    assert [cells[i - 1].id for i, _ in shown] == ["toys-2", "test_halve"]
    assert "output 1\n```" in shown[0][1] and "    half = x / scale\n    return half" in shown[1][1]
    (released,) = notebooks.build_release(tmp_path / "cohort", root=course)
    text = released.read_text("utf-8")
    assert "x / scale" not in text and "output 1" in text
    released.write_text("changed by hand", "utf-8")
    notebooks.build_release(tmp_path / "cohort", root=course)
    assert (tmp_path / "cohort" / "kept" / released.name).read_text("utf-8") == "changed by hand"
    write_source(course, TOY.replace("halve(3)", "halve(5)"))
    notebooks.build(root=course)
    assert "output 1" not in notebook(course, "exercises").read_text("utf-8")  # of other code


def test_what_was_printed_cannot_leave_its_fence() -> None:
    printed = {"a": "```\n</details><script>alert()</script>\n````"}
    cell = nbformat.v4.new_code_cell("print()", id="a")
    assert folded([cell], {}, printed)[1].source.count("`````") == 2


def test_sections_link_to_their_neighbours(course: Path) -> None:
    for number in (8, 10):
        (course / "instructions" / f"section_{number}_more.md").write_text(f"# More {number}\n", "utf-8")
    notebooks.build(root=course)
    for folder in ("exercises", "solutions"):
        last = read(course, folder).cells[-1].source
        assert "← [More 8](section_8_more.ipynb) · [More 10](section_10_more.ipynb) →" in last
