"""The course in a temporary copy: an answer in every stub, every command, an update, and every answer is found."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from personalab import files
from personalab.course import cells
from personalab.paths import ROOT

# Runs the commands of the command line given as JSON, one process for all of them. What needs weights or a browser is
# stubbed: the set-up, the server, and the execution of the notebooks, which fills in outputs instead.
DRIVER = """
import json, sys
from pathlib import Path
sys.modules["rfc3987_syntax"] = None  # jsonschema's check of web addresses: seconds of building grammars, not used here
import nbformat
from personalab import __main__ as cli
from personalab.setup import doctor
from personalab.records import provenance
from personalab.course import running
from personalab.course.myst import code_cells

async def executed(nb, env, folder, scratch, title):
    for number, cell in enumerate(code_cells(nb), start=1):
        cell.execution_count = number
        if "cover" in cell.metadata.get("tags", []):
            cell.outputs = [nbformat.v4.new_output("display_data", {"image/png": "eA=="})]
    provenance.save(Path(scratch, "machine.json"))
    Path(scratch, "results.json").write_text(json.dumps({f"toy/{folder.name}": {"value": 1.0, "ci": None, "n": 1}}))
    return []

def served(command, cwd):
    assert cwd == cli.ROOT / "workbook" and command[-2:] == ["jupyter", "lab"]
    return 0

doctor._gpu = lambda: (None, 0)  # it would load torch, which takes seconds
cli._ensure_weights, running.run_cells, cli.run_child = lambda: None, executed, served
for command in json.loads(sys.argv[1]):
    print("$", *command, flush=True)
    if code := cli.main(command):
        sys.exit(f"{command} failed with {code}")
"""
ALL = [
    ["notebooks", "--check"],  # what `test` does with notebooks: its step "Drift"
    ["lab"],
    ["run"],
    ["run", "--budget", "quick", "--section", "1"],
    ["record", "--section", "2"],
    ["notebooks"],
    ["setup"],
    ["lab"],
    ["notebooks", "--nbgrader", "grading"],
    ["clean"],
    ["clean", "--all"],
    ["notebooks", "--check"],
]
UPDATE = {  # of the sources: text, graders and stubs change, cells come in
    r"(?m)^(#+ Exercise)": r"A new paragraph.\n\n```{code-cell} ipython3\nnew_cell = 1\n```\n\n\1",
    r"(?m)^(:tags: \[grader.*\]\n\n)": r"\1# a better grader\n",
    r"(?m)^([ \t]*)(### BEGIN SOLUTION)": r"\1# a new hint\n\1\2",
    r"(?m)^# (.+)$": r"# \1, again",
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what the commands use."""
    root = tmp_path / "course"
    for name in ("personalab", "instructions", "exercises", "solutions", "persona_vectors", "artifacts/reference"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for path in (ROOT / "README.md", ROOT / "pyproject.toml", *ROOT.glob("*.txt")):
        shutil.copy(path, root)
    command(root, ["notebooks"])  # whatever somebody has done in ROOT/exercises
    return root


def command(root: Path, *commands: list[str]) -> str:
    """Run commands of the command line in the copy; returns what they printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PERSONALAB_") and name != "CI"}
    env |= {"PERSONALAB_VENV": "off", "PERSONALAB_CACHE": str(root.parent / "cache"), "PYTHONPATH": str(root)}
    env |= {"PERSONALAB_DTYPE": "float32"}  # not measured
    arguments = [sys.executable, "-c", DRIVER, json.dumps(commands)]
    done = subprocess.run(arguments, cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def type_answers(root: Path, folder: str) -> list[str]:
    """An answer in every stub and a cell at every end, nothing executed; returns all that was typed."""
    typed = []
    for path in sorted((root / folder).glob("section_*.ipynb")):
        nb = cells.read(path)
        for cell in nb.cells:
            if "raise NotImplementedError()" in cell.source:
                cell.source = cell.source.replace("raise NotImplementedError()", f"return 'in {folder}, {cell.id}'")
                typed.append(cell.source)
        nb.cells.append(cells.nbformat.v4.new_code_cell(f"my_own = {path.name!r}"))
        typed.append(nb.cells[-1].source)
        files.write(path, cells.dumps(nb))
    return typed


def update(root: Path) -> None:
    """The course changes, in its sources."""
    for path in (root / "instructions").glob("section_*.md"):
        text = path.read_text("utf-8")
        for old, new in UPDATE.items():
            text, count = re.subn(old, new, text)
            assert count, f"{path.name} has no {old}"
        path.write_text(text, "utf-8")


def lost(root: Path, typed: list[str]) -> list[str]:
    """What the workbook's notebooks do not hold, as a cell of its own or in one of ours that shows it."""
    found = [cell.source for path in (root / "workbook").glob("*.ipynb") for cell in cells.read(path).cells]
    return [words for words in typed if not any(words in source for source in found)]


def test_answers_in_the_workbook_survive_every_command_and_an_update(copy: Path) -> None:
    command(copy, ["lab"])
    typed = type_answers(copy, "workbook")
    assert len(typed) > 35
    command(copy, *ALL)
    assert not lost(copy, typed)
    update(copy)
    command(copy, ["notebooks"], *ALL)
    assert not lost(copy, typed)
    for path in sorted((copy / "workbook").glob("section_*.ipynb")):
        found = [cell.source for cell in cells.read(path).cells]
        graders = [cell for cell in cells.read(path).cells if cell.metadata.get("nbgrader", {}).get("grade")]
        assert graders and all(cell.source.startswith("# a better grader") for cell in graders)
        assert "new_cell = 1" in found and any(source.endswith(", again") for source in "\n".join(found).splitlines())
        answers = [cell for cell in cells.read(path).cells if cell.source in typed]
        hints = [cell.id for cell in cells.read(path).cells if "# a new hint" in cell.source]
        folds = [cell_id for cell_id in hints if cell_id.endswith("-solution")]
        assert len(hints) - len(folds) == len(folds) == len(answers) - 1  # beside each, but the added cell


@pytest.mark.parametrize("first", ["lab", "notebooks", "record --section 1", "clean --all"])
def test_answers_in_exercises_survive_every_command_and_an_update(copy: Path, first: str) -> None:
    typed = type_answers(copy, "exercises")
    printed = command(copy, ["notebooks", "--check"], first.split())
    assert "exercises/section_1_persona_space.ipynb: yours, kept: " in printed
    update(copy)
    command(copy, ["notebooks"], *(ALL if first == "lab" else [["lab"], ["notebooks", "--check"]]))
    assert not lost(copy, typed)
    assert "return 'in exercises" not in "".join(p.read_text("utf-8") for p in (copy / "exercises").iterdir())


def test_ci_refuses_them(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    type_answers(copy, "exercises")
    command(copy, ["notebooks", "--check"])
    with monkeypatch.context() as ci, pytest.raises(AssertionError, match=r"notebooks', '--check'\] failed with 1"):
        ci.setitem(globals(), "DRIVER", "import os\nos.environ['CI'] = 'true'\n" + DRIVER)
        command(copy, ["notebooks", "--check"])
