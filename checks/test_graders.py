"""Every grader against its bank: right solutions pass, wrong ones fail and are told why; the reference passes too."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import tests
from checks.bank import RIGHT
from personalab.models import d_model, n_blocks
from personalab.paths import ROOT
from personalab.sources import read_source
from personalab.tiny import load_tiny_model

SECTIONS = sorted(p for p in (Path(__file__).parent / "bank").glob("section_*"))
BANKS = [f"checks.bank.{p.parent.name}.{p.stem}" for s in SECTIONS for p in sorted(s.glob("test_*.py"))]


def solutions(module: ModuleType) -> Iterator[tuple[str, Callable]]:
    """The solutions a bank defines itself, not those it imports from others."""
    for name, value in vars(module).items():
        if getattr(value, "verdict", None) and value.__module__ == module.__name__:
            yield name, value


ENTRIES = [
    pytest.param(module.rpartition(".")[2], solution, id=f"{module.rpartition('.')[2][5:]}-{name}")
    for module in BANKS
    for name, solution in solutions(importlib.import_module(module))
]


def grade(grader_name: str, solution: Callable) -> None:
    """Call a grader as a notebook does, with a tiny model in the place of the notebook's."""
    model, tokenizer = load_tiny_model("qwen2", seed=7)
    notebook = {"model": model, "tokenizer": tokenizer, "d_model": d_model(model), "num_layers": n_blocks(model)}
    grader = getattr(tests, grader_name)
    _, *others = inspect.signature(grader).parameters
    grader(solution, **{name: notebook[name] for name in others})


@pytest.mark.parametrize(("grader_name", "solution"), ENTRIES)
def test_bank(grader_name, solution):
    if solution.verdict == RIGHT:
        assert grade(grader_name, solution) is None
    else:
        with pytest.raises(AssertionError) as failure:
            grade(grader_name, solution)
        assert re.search(solution.words, str(failure.value), re.S), f"the message was: {failure.value}"


def test_every_grader_has_a_bank_with_right_and_wrong():
    assert {b.rpartition(".")[2] for b in BANKS} == set(tests.__all__)
    for bank in BANKS:
        assert {s.verdict for _, s in solutions(importlib.import_module(bank))} == {"right", "wrong"}


@pytest.mark.parametrize("grader_name", tests.__all__)
def test_a_stub_gets_a_plain_message(grader_name):
    def stub(*args, **kwargs):
        raise NotImplementedError

    with pytest.raises(AssertionError, match="Nothing to grade yet"):
        grade(grader_name, stub)


@pytest.fixture(scope="module")
def reference() -> dict[str, object]:
    """What each notebook hands to each grader, after running imports and solution cells and nothing else."""
    namespace: dict[str, object] = {"__name__": "reference", "utils": importlib.import_module("utils")}
    handed = {}
    for source in sorted((ROOT / "instructions").glob("section_*.md")):
        cells = [c for c in read_source(source).cells if c.cell_type == "code"]
        imports = "\n".join(re.findall(r"^(?:import|from) .*$", cells[0].source, re.M))
        exec(imports, namespace)
        for cell in cells:
            if cell.metadata.get("nbgrader", {}).get("solution"):
                exec(compile(cell.source, f"{source.name}:{cell.id}", "exec"), namespace)
            for grader_name, argument in re.findall(r"^tests\.(test_\w+)\(\s*(\w+)", cell.source, re.M):
                handed[grader_name] = namespace[argument]
    return handed


@pytest.mark.parametrize("grader_name", tests.__all__)
def test_the_reference_solution_passes(grader_name, reference):
    assert grade(grader_name, reference[grader_name]) is None
