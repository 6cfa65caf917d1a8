"""The workbook: filled once, then brought up to date without losing a learner's word.

Over 300 lines on purpose: every way to lose a word is tried in one place, on the same toy course.
"""

from __future__ import annotations

import random
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell
from toy_course import NAME, TOY, notebook, read, write_source

from personalab.course import cells, merging, notebooks, workbook
from personalab.course.merging import NEW, TYPED, merge, merged_order
from personalab.course.myst import code_cells

ANSWER = 'def halve(x: float) -> float:\n    """Half."""\n    return x * 0.5  # typed, not executed'
PROSE = TOY.replace("Halve a number.", "Halve any number.")
STUB = TOY.replace('"""Half of `x`."""', '"""Half of `x`, exactly."""')
GRADER = TOY.replace("halve(3) == 1.5", "halve(5) == 2.5")
ADDED = TOY.replace("## Halving\n", "## Halving\n\nA new paragraph.\n\n```{code-cell} ipython3\nnew_cell = 1\n```\n")


@pytest.fixture
def lab(course: Path) -> Path:
    """A course with its workbook filled."""
    notebooks.build(root=course)
    assert workbook.update(course) == [f"workbook/{NAME}.ipynb: new"]
    return course


def save(root: Path, folder: str, nb: NotebookNode) -> None:
    notebooks.write(notebook(root, folder), notebooks.dumps(nb))


def edit(root: Path, folder: str, old: str, new: str) -> None:
    """Replace the source of the one cell that holds `old`."""
    nb = read(root, folder)
    (cell,) = [cell for cell in nb.cells if old in cell.source]
    cell.source = new
    save(root, folder, nb)


def release(root: Path, source: str) -> list[str]:
    """The course changes, the learner pulls and starts the lab."""
    notebooks.build(root=write_source(root, source))
    return workbook.update(root)


def sources(root: Path) -> list[str]:
    return [cell.source for cell in read(root, "workbook").cells]


def named(root: Path, name: str) -> NotebookNode:
    (cell,) = [cell for cell in read(root, "workbook").cells if cells.name(cell) == name]
    return cell


# An update of the course


def test_it_is_filled_once_and_then_left_alone(lab: Path) -> None:
    assert notebook(lab, "workbook").read_bytes() == notebook(lab, "exercises").read_bytes()
    edit(lab, "workbook", "raise NotImplementedError", ANSWER)
    before = notebook(lab, "workbook").read_bytes()
    assert workbook.update(lab) == [] and notebook(lab, "workbook").read_bytes() == before


@pytest.mark.parametrize("source", [PROSE, STUB, GRADER, ADDED])
def test_without_answers_the_workbook_follows_the_course(lab: Path, source: str) -> None:
    release(lab, source)
    assert read(lab, "workbook") == read(lab, "exercises")


def test_new_text_graders_and_cells_come_in_and_answers_stay(lab: Path) -> None:
    edit(lab, "workbook", "raise NotImplementedError", ANSWER)
    nb = read(lab, "workbook")
    code_cells(nb)[0].update(execution_count=3, outputs=[nbformat.v4.new_output("stream", text="budget full\n")])
    nb.cells.insert(3, new_code_cell("my_notes = 'kept'"))
    save(lab, "workbook", nb)
    both = ADDED.replace("halve(3) == 1.5", "halve(5) == 2.5").replace("Halve a number.", "Halve any number.")
    assert release(lab, both) == [f"workbook/{NAME}.ipynb: brought up to date"]
    found = sources(lab)
    assert found.count(ANSWER) == found.count("my_notes = 'kept'") == found.count("new_cell = 1") == 1
    assert "assert halve(5) == 2.5" in found and not any("halve(3)" in source or NEW in source for source in found)
    assert "# Toys\n\nHalve any number." in found
    order = [found.index(text) for text in ("my_notes = 'kept'", "new_cell = 1", ANSWER, "assert halve(5) == 2.5")]
    assert order == sorted(order)
    assert code_cells(read(lab, "workbook"))[0].outputs[0].text == "budget full\n"
    assert named(lab, "halve").source == ANSWER
    assert workbook.update(lab) == []


def test_what_conflicts_stands_side_by_side_until_it_is_settled(lab: Path) -> None:
    edit(lab, "workbook", "raise NotImplementedError", ANSWER)
    release(lab, STUB)
    note, mine = read(lab, "workbook").cells[4:6]
    assert note.cell_type == "markdown" and note.source.startswith(NEW) and "exactly" in note.source
    assert mine.source == ANSWER and cells.name(mine) == mine.id == "halve"
    release(lab, STUB.replace("Halve a number.", "Halve any number."))
    assert sum(source.startswith(NEW) for source in sources(lab)) == 1
    release(lab, STUB.replace("exactly", "truly"))
    notes = [source for source in sources(lab) if source.startswith(NEW)]
    assert len(notes) == 1 and "truly" in notes[0]
    nb = read(lab, "workbook")
    nb.cells = [cell for cell in nb.cells if not cell.source.startswith(NEW)]
    save(lab, "workbook", nb)
    release(lab, STUB.replace("exactly", "truly").replace("Halve a number.", "Halve any number."))
    assert not any(source.startswith(NEW) for source in sources(lab)) and ANSWER in sources(lab)


@pytest.mark.parametrize("words", ["assert halve(3) == 1.5, 'mine'", "# Toys\n\nMy own summary."])
def test_an_edited_grader_or_text_is_kept_too(lab: Path, words: str) -> None:
    edit(lab, "workbook", "halve(3)" if "assert" in words else "# Toys", words)
    release(lab, GRADER.replace("Halve a number.", "Halve any number."))
    found = sources(lab)
    assert words in found and sum(source.startswith(NEW) for source in found) == 1
    assert any("halve(5)" in source for source in found) and any("any number" in source for source in found)


@pytest.mark.parametrize("folder", ["workbook", "exercises"])
def test_pasted_pictures_are_words_too(lab: Path, folder: str) -> None:
    if folder == "exercises":
        edit(lab, "workbook", "# Toys", "Something else.")
    nb, picture = read(lab, folder), {"image.png": {"image/png": "eA=="}}
    (cell,) = [cell for cell in nb.cells if "# Toys" in cell.source]
    cell.update(source="# Toys\n\n![image.png](attachment:image.png)", attachments=picture)
    save(lab, folder, nb)
    release(lab, PROSE)
    (kept,) = [cell for cell in read(lab, "workbook").cells if "attachment:" in cell.source]
    assert kept.attachments == picture


def test_cells_that_the_course_drops_go_unless_they_were_changed(lab: Path) -> None:
    grader = TOY[TOY.index("```{code-cell} ipython3\n:tags: [grader") :]
    release(lab, TOY.replace(grader, ""))
    assert not any("halve(3)" in source for source in sources(lab))
    release(lab, TOY)
    edit(lab, "workbook", "halve(3)", "assert halve(7) == 3.5")
    release(lab, TOY.replace(grader, ""))
    assert "assert halve(7) == 3.5" in sources(lab)


def test_what_a_learner_deleted_or_moved_stays_so(lab: Path) -> None:
    nb = read(lab, "workbook")
    nb.cells = [cell for cell in nb.cells if "# Toys" not in cell.source]
    nb.cells.append(nb.cells.pop(2))
    wanted = [cell.source for cell in nb.cells]
    save(lab, "workbook", nb)
    release(lab, GRADER)
    assert sources(lab) == [source.replace("halve(3) == 1.5", "halve(5) == 2.5") for source in wanted]


def test_shifted_ids_do_not_mix_up_cells(lab: Path) -> None:
    edit(lab, "workbook", "import os", "import os  # mine")
    release(lab, TOY.replace("Halve a number.\n", "Halve a number.\n\n+++\n\nA paragraph of its own.\n"))
    found = sources(lab)
    assert found.index("A paragraph of its own.") + 1 == found.index("import os  # mine")
    assert not any(source.startswith(NEW) for source in found)


# Files that other programs have written


@pytest.mark.parametrize("lost", [{"ids"}, {"ids", "hashes"}, {"ids", "hashes", "names"}])
def test_answers_stay_in_notebooks_that_lost_their_ids(lab: Path, lost: set[str]) -> None:
    edit(lab, "workbook", "raise NotImplementedError", ANSWER)
    nb = read(lab, "workbook")
    nb.nbformat_minor = 4
    for cell in nb.cells:
        del cell["id"]
        for key in ({"personalab"} if "hashes" in lost else set()) | ({"nbgrader"} if "names" in lost else set()):
            cell.metadata.pop(key, None)
        cell.metadata["id"] = "colab"
    save(lab, "workbook", nb)
    release(lab, GRADER)
    assert sources(lab).count(ANSWER) == 1 and named(lab, "halve").source == ANSWER
    assert "assert halve(5) == 2.5" in sources(lab) and len(sources(lab)) == len(read(lab, "exercises").cells)


@pytest.mark.parametrize("content", ["", "{", '<<<<<<< HEAD\n{"cells": [', "[]", '{"nbformat": 9}'])
def test_a_notebook_that_cannot_be_read_is_never_overwritten(lab: Path, content: str) -> None:
    notebook(lab, "workbook").write_text(content, "utf-8")
    for source in (TOY, GRADER):
        (line, *_) = release(lab, source)
        assert f"{NAME}.ipynb cannot be read as a notebook" in line and f"workbook/{NAME}-2.ipynb" in line
        assert notebook(lab, "workbook").read_text("utf-8") == content
        fresh = lab / "workbook" / f"{NAME}-2.ipynb"
        assert cells.read(fresh) == read(lab, "exercises")


def test_a_lost_base_costs_nothing(lab: Path) -> None:
    edit(lab, "workbook", "raise NotImplementedError", ANSWER)
    (lab / "workbook" / ".base" / f"{NAME}.ipynb").write_text("{", "utf-8")
    release(lab, GRADER)
    assert sources(lab).count(ANSWER) == 1 and "assert halve(5) == 2.5" in sources(lab)
    assert len(sources(lab)) == len(read(lab, "exercises").cells)


def test_renamed_sections_take_the_answers_along_and_removed_ones_stay(lab: Path) -> None:
    edit(lab, "workbook", "raise NotImplementedError", ANSWER)
    before = notebook(lab, "workbook").read_bytes()
    (lab / "instructions" / f"{NAME}.md").rename(lab / "instructions" / "section_3_toys.md")
    notebook(lab, "exercises").unlink()
    notebook(lab, "solutions").unlink()
    notebooks.build(root=lab)
    lines = workbook.update(lab)
    assert f"workbook/section_3_toys.ipynb: with your answers of workbook/{NAME}.ipynb, which stays too" in lines
    assert ANSWER in (code.source for code in cells.read(lab / "workbook" / "section_3_toys.ipynb").cells)
    assert notebook(lab, "workbook").read_bytes() == before
    assert workbook.update(lab) == [f"workbook/{NAME}.ipynb: the course no longer has this section. It stays as it is."]


def test_a_learners_own_and_renamed_notebooks_stay(lab: Path) -> None:
    edit(lab, "workbook", "raise NotImplementedError", ANSWER)
    own = notebook(lab, "workbook").rename(lab / "workbook" / "first_try.ipynb")
    (lab / "workbook" / "notes.ipynb").write_text("not even a notebook", "utf-8")
    before = own.read_bytes()
    assert release(lab, GRADER) == [f"workbook/{NAME}.ipynb: new"]
    assert own.read_bytes() == before and read(lab, "workbook") == read(lab, "exercises")
    assert (lab / "workbook" / "notes.ipynb").read_text("utf-8") == "not even a notebook"


# Work in exercises/


@pytest.mark.parametrize("first", ["lab", "notebooks"])
def test_work_in_exercises_comes_into_the_workbook(lab: Path, first: str) -> None:
    nb = read(lab, "exercises")
    code_cells(nb)[1].source = ANSWER
    nb.cells.insert(2, new_markdown_cell("A remark."))
    save(lab, "exercises", nb)
    if first == "lab":
        workbook.update(lab)
        assert ANSWER in sources(lab) and "A remark." in sources(lab)
        assert workbook.update(lab) == []
    notebooks.build(root=lab)
    release(lab, STUB)
    assert sources(lab).count(ANSWER) == sources(lab).count("A remark.") == 1
    assert sum(source.startswith(NEW) for source in sources(lab)) == 1
    assert named(lab, "halve").source == ANSWER


def test_two_answers_to_one_exercise_stand_side_by_side_once(lab: Path) -> None:
    edit(lab, "workbook", "raise NotImplementedError", ANSWER)
    edit(lab, "exercises", "raise NotImplementedError", "def halve(x): return x / 2.0")
    for _ in range(3):
        workbook.update(lab)
    notebooks.build(root=lab)
    workbook.update(lab)
    (note,) = [source for source in sources(lab) if source.startswith(TYPED)]
    assert "return x / 2.0" in note and named(lab, "halve").source == ANSWER


def test_what_the_workbook_has_dropped_comes_back_before_it_is_overwritten(lab: Path) -> None:
    edit(lab, "exercises", "raise NotImplementedError", ANSWER)
    workbook.update(lab)
    edit(lab, "workbook", "typed, not executed", "def halve(x): return x / 2.0")
    assert workbook.update(lab) == []  # it came in before, and was changed since
    notebooks.build(root=lab)
    assert any(ANSWER in source for source in sources(lab))
    assert named(lab, "halve").source == "def halve(x): return x / 2.0"


@pytest.mark.parametrize("first", ["lab", "notebooks"])
def test_a_cell_deleted_in_the_workbook_comes_back_with_words_from_exercises(lab: Path, first: str) -> None:
    nb = read(lab, "workbook")
    nb.cells = [cell for cell in nb.cells if cells.name(cell) != "halve"]
    save(lab, "workbook", nb)
    edit(lab, "exercises", "raise NotImplementedError", ANSWER)
    if first == "lab":
        workbook.update(lab)
    else:
        notebooks.build(root=lab)
    assert sources(lab).count(ANSWER) == 1


def test_an_unreadable_exercise_leaves_the_workbook_alone(lab: Path) -> None:
    before = notebook(lab, "workbook").read_bytes()
    notebook(lab, "exercises").write_text("<<<<<<<", "utf-8")
    (line,) = workbook.update(lab)
    assert "exercises" in line and "git checkout exercises/" in line
    assert notebook(lab, "workbook").read_bytes() == before


# Kills, and anything that may happen


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_kill_at_any_write_loses_nothing(lab: Path, writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(lab, "workbook", "raise NotImplementedError", ANSWER)
    notebooks.build(root=write_source(lab, ADDED.replace("halve(3) == 1.5", "halve(5) == 2.5")))
    with monkeypatch.context() as killed:
        real, left = Path.replace, iter(range(writes))

        def replace(draft: Path, path: Path) -> Path:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real(draft, path)

        killed.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            workbook.update(lab)
        assert ANSWER in sources(lab)
    workbook.update(lab)
    found = sources(lab)
    assert found.count(ANSWER) == found.count("new_cell = 1") == found.count("assert halve(5) == 2.5") == 1
    assert not any("halve(3)" in source for source in found)
    assert not [*lab.rglob("*.tmp")]


def test_a_merge_that_would_lose_a_word_writes_nothing(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(lab, "workbook", "raise NotImplementedError", ANSWER)
    before = notebook(lab, "workbook").read_bytes()
    monkeypatch.setattr(merging, "merged_order", lambda base, local, remote: [key for key in remote if "3" not in key])
    notebooks.build(root=write_source(lab, GRADER))
    monkeypatch.setattr(merging._Merger, "settle", lambda self, key: [self.remote[key]])
    with pytest.raises(merging.LostWordsError, match="typed, not executed"):
        workbook.update(lab)
    assert notebook(lab, "workbook").read_bytes() == before


def test_orders_are_merged() -> None:
    def merged(base: str, local: str, remote: str) -> str:
        return "".join(merged_order([*base], [*local], [*remote]))

    assert merged("abcd", "aXbcd", "abcYd") == "aXbcYd"
    assert merged("abcd", "aXbcd", "aYbcd") == "aXYbcd"
    assert merged("abcd", "acd", "abd") == "ad"
    assert merged("abcd", "bcda", "abcYd") == "bcYda"
    assert merged("", "", "") == "" and merged("", "X", "Y") == "XY"


WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")


class History:
    """A course and a learner that both change things at random."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.said: list[str] = []  # by the learner
        self.course = [self._cell(f"c{i}") for i in range(self.rng.randint(1, 9))]

    def _cell(self, name: str) -> NotebookNode:
        cell = self.rng.choice([new_code_cell, new_markdown_cell])(f"{name} {self._words()}")
        if cell.cell_type == "code" and self.rng.random() < 0.4:
            cell.metadata["nbgrader"] = {"grade_id": name}
        return cell

    def _words(self) -> str:
        return " ".join(self.rng.choices(WORDS, k=self.rng.randint(2, 12)))

    def released(self) -> NotebookNode:
        nb = nbformat.v4.new_notebook(cells=deepcopy(self.course))
        for i, cell in enumerate(nb.cells):
            cell.id = cells.name(cell) or f"p-{i}"  # positional, as in the course
            cells.stamp(cell)
        return nb

    def develop(self, step: int) -> None:
        self.course = [cell for cell in self.course if self.rng.random() > 0.1] or self.course
        for cell in self.course:
            if self.rng.random() < 0.2:
                cell.source = self.rng.choice([f"{cell.source} more", f"other {self._words()}"])
        for i in range(self.rng.randint(0, 2)):
            self.course.insert(self.rng.randint(0, len(self.course)), self._cell(f"k{step}{i}"))

    def work(self, nb: NotebookNode) -> NotebookNode:
        nb = deepcopy(nb)
        free = [cell for cell in nb.cells if not any(words in cell.source for words in self.said)]
        for cell in self.rng.sample(free, min(len(free), self.rng.randint(0, 2))):
            number = f"answer {len(self.said)}"
            cell.source = self.rng.choice([f"{cell.source}\n{number}", f"{number} {self._words()}"])
            self.said.append(cell.source)
        if self.rng.random() < 0.4:
            self.said.append(f"added {len(self.said)} {self._words()}")
            nb.cells.insert(self.rng.randint(0, len(nb.cells)), new_code_cell(self.said[-1]))
        if self.rng.random() < 0.2:
            nb.cells.append(nb.cells.pop(self.rng.randrange(len(nb.cells))))
        for cell in nb.cells if self.rng.random() < 0.1 else ():
            cell.id = new_code_cell().id
        for cell in nb.cells if self.rng.random() < 0.05 else ():
            cell.metadata = nbformat.from_dict({})
        return nb


@pytest.mark.parametrize("seed", range(40))
def test_no_history_loses_a_word(seed: int) -> None:
    history = History(seed)
    base = older = local = history.released()
    for step in range(4):
        local = history.work(local)
        history.develop(step)
        final, remote = history.rng.random() < 0.5, history.released()
        if history.rng.random() < 0.3:
            remote = history.work(remote)
        known = history.rng.choices([base, older, None], [8, 1, 1])[0]
        local, older, base = merge(known, local, remote, final), base, remote
        whole = [cell.source for cell in local.cells]
        assert not [words for words in history.said if not any(words in source for source in whole)]
        ids = [cell.id for cell in local.cells]
        assert len(ids) == len(set(ids))
        nbformat.validate(local)
