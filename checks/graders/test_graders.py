"""Every grader against its bank: right solutions pass, wrong ones fail and are told why; the reference passes too."""

from __future__ import annotations

import importlib
import re
import threading
import zlib
from collections.abc import Callable
from functools import cache

import pytest
import torch

import tests
from checks.bank import RIGHT
from checks.bank.grading import BANKS, OF_YOURS, UNUSED, as_yours, grade, reference_solutions, solutions
from graders.harness.readings import load_family
from personalab.lm.models import load_model
from personalab.lm.tiny import FAMILIES

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

ENTRIES = [
    pytest.param(module.rpartition(".")[2], solution, id=f"{module.rpartition('.')[2][5:]}-{name}")
    for module in BANKS
    for name, solution in solutions(importlib.import_module(module))
]


# Thousands of runs: annotations are checked where each grader meets its reference solution, and nowhere else here.
UNCHECKED = pytest.mark.usefixtures("unchecked")


@UNCHECKED
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
    return reference_solutions()


@pytest.mark.parametrize("grader_name", tests.__all__)
def test_the_reference_solution_passes(grader_name, reference):
    before = set(threading.enumerate())
    assert grade(grader_name, reference[grader_name]) is None
    # a thread started while grading would compute in one thread for good (see `graders.harness.cases.grader`)
    assert not any(t.name == "embedded-endpoint" for t in set(threading.enumerate()) - before)


# What follows repeats, in every dtype and family, the part of a grader that looks at the notebook's model. The other
# part never sees that model, so that the tests above have said all about it; graders without such a part have no more
# to say here.
def on_tiny(grader_name: str, solution: Callable, family: str, dtype: str) -> str:
    """What the grader says of a solution where the notebook's model is a tiny one; "" where all is well."""
    # a tokenizer as the course's models have: it adds no BOS of its own
    return as_yours(grader_name, solution, *load_family(family, seed=7, dtype=DTYPES[dtype]))


def of_yours(verdict: str) -> list:
    return [p for p in ENTRIES if p.values[0] in OF_YOURS and p.values[1].verdict == verdict]


@UNCHECKED
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("grader_name", "solution"), of_yours(RIGHT))
def test_right_in_every_dtype_and_family(grader_name, solution, dtype):
    assert {family: on_tiny(grader_name, solution, family, dtype) for family in FAMILIES} == dict.fromkeys(FAMILIES, "")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grader_name", OF_YOURS)
def test_the_reference_passes_in_every_dtype_and_family(grader_name, reference, dtype):
    found = {family: on_tiny(grader_name, reference[grader_name], family, dtype) for family in FAMILIES}
    assert found == dict.fromkeys(FAMILIES, "")


@pytest.mark.parametrize("grader_name", UNUSED)
def test_some_graders_leave_the_model_alone(grader_name, reference):
    assert getattr(tests, grader_name)(reference[grader_name], object(), object()) is None


@cache
def in_float32(grader_name: str, solution: Callable, family: str) -> str:
    return on_tiny(grader_name, solution, family, "float32")


# Off by 2 % on some family, which bfloat16's rounding hides there; the grader's own models, in float32, show them.
TOO_FINE = {"NormRestored", "StrictlyPositiveOnly"}


def rotating() -> list:
    """Wrong solutions, each with a family of its own (by its name, so that it keeps it)."""
    families = list(FAMILIES)
    return [
        pytest.param(*p.values, families[zlib.crc32(p.id.encode()) % len(families)], id=p.id)
        for p in of_yours("wrong")
        if p.values[1].__name__ not in TOO_FINE
    ]


@UNCHECKED
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("grader_name", "solution", "family"), rotating())
def test_half_precision_hides_no_mistake(grader_name, solution, family, dtype):
    """What the notebook's model shows in float32, it shows in half precision, with the same words."""
    before, found = in_float32(grader_name, solution, family), on_tiny(grader_name, solution, family, dtype)
    if before:
        assert found, f"on {family}, float32 says: {before}"
        assert re.search(solution.words, found, re.S) or not re.search(solution.words, before, re.S), found


@pytest.fixture(scope="module")
def embedded():
    """The embedded model by dtype: what the notebooks hand to graders on most machines."""

    def load(dtype: str):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PERSONALAB_DTYPE", dtype)
            return load_model("persona")

    return load


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grader_name", OF_YOURS)
def test_the_reference_passes_on_the_embedded_model(grader_name, reference, embedded, dtype):
    assert as_yours(grader_name, reference[grader_name], *embedded(dtype)) == ""


@UNCHECKED
@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("grader_name", "solution"), of_yours(RIGHT))
def test_right_on_the_embedded_model(grader_name, solution, embedded, dtype):
    assert as_yours(grader_name, solution, *embedded(dtype)) == ""
