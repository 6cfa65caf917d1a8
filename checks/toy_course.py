"""A course with one section, for checks that write notebooks or run them."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest

from personalab.course.cells import dumps
from personalab.course.myst import code_cells
from personalab.files import write

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


@pytest.fixture
def plain_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of this machine's: none of the course's, no CI."""
    for name in [name for name in os.environ if name.startswith("PERSONALAB_") or name == "CI"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PERSONALAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def course(tmp_path: Path, plain_environment: None) -> Path:
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
    write(notebook(root, "solutions"), dumps(nb))
