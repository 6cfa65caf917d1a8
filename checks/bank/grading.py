"""How the checks and the benchmark call graders: as a notebook does, with every kind of model in its place."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import tests
from graders.harness.expect import yours_only
from personalab.lm.models import d_model, n_blocks
from personalab.lm.tiny import load_tiny_model
from personalab.paths import ROOT

UNUSED = [  # they take a model and leave it alone
    "test_compute_capping_thresholds",
    "test_finetuning_shift",
    "test_projection_difference",
    "test_run_trait_pipeline",
]
# Graders with a part that looks at the notebook's model.
OF_YOURS = [
    name
    for name in tests.__all__
    if "model" in inspect.signature(getattr(tests, name)).parameters and name not in UNUSED
]

FOLDERS = sorted(Path(__file__).parent.glob("section_*"))
BANKS = [f"checks.bank.{folder.name}.{path.stem}" for folder in FOLDERS for path in sorted(folder.glob("test_*.py"))]


def solutions(module: ModuleType) -> Iterator[tuple[str, Callable]]:
    """The solutions a bank defines itself, not those it imports from others."""
    for name, value in vars(module).items():
        if getattr(value, "verdict", None) and value.__module__ == module.__name__:
            yield name, value


def grade(grader_name: str, solution: object, model: Any = None, tokenizer: Any = None) -> None:
    """Call a grader as a notebook does; without a model, a tiny one stands in the place of the notebook's."""
    if model is None:
        model, tokenizer = load_tiny_model("qwen2", seed=7)
    notebook = {"model": model, "tokenizer": tokenizer, "d_model": d_model(model), "num_layers": n_blocks(model)}
    grader: Callable[..., None] = getattr(tests, grader_name)
    _, *others = inspect.signature(grader).parameters
    grader(solution, **{name: notebook[name] for name in others})


def as_yours(grader_name: str, solution: object, model: Any, tokenizer: Any) -> str:
    """What the grader says of a solution on the notebook's model alone; "" where all is well."""
    with yours_only():
        try:
            grade(grader_name, solution, model, tokenizer)
        except AssertionError as error:
            return str(error)
    return ""


def reference_solutions() -> dict[str, object]:
    """What each notebook hands to each grader, after running imports and solution cells and nothing else."""
    sources = importlib.import_module("personalab.course.myst")
    namespace: dict[str, object] = {"__name__": "reference", "utils": importlib.import_module("utils")}
    handed = {}
    for source in sorted((ROOT / "instructions").glob("section_*.md")):
        cells = [c for c in sources.read_source(source).cells if c.cell_type == "code"]
        imports = "\n".join(re.findall(r"^(?:import|from) .*$", cells[0].source, re.M))
        exec(imports, namespace)
        for cell in cells:
            if cell.metadata.get("nbgrader", {}).get("solution"):
                exec(compile(cell.source, f"{source.name}:{cell.id}", "exec"), namespace)
            for grader_name, argument in re.findall(r"^tests\.(test_\w+)\(\s*(\w+)", cell.source, re.M):
                handed[grader_name] = namespace[argument]
    return handed
