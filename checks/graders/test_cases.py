"""Graders as lists of cases: what the learner is told, and that a judge sees data and never their work."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import tests
from checks.bank.grading import reference_solutions
from graders.harness.cases import (
    Case,
    Foreign,
    Raised,
    attempt,
    called_with,
    check_form,
    grader,
    kind_of,
    plain,
    refused,
)
from graders.harness.distance import observations, verdict
from graders.harness.expect import check
from graders.harness.paper import dumps, loads
from graders.harness.scripted import Exchange
from personalab.lm.models import d_model, n_blocks
from personalab.lm.tiny import load_tiny_model

CONVERTED = [name for name in tests.__all__ if hasattr(getattr(tests, name), "cases")]
WITHOUT_A_MODEL = [n for n in CONVERTED if not inspect.signature(getattr(tests, n).cases).parameters]


@grader
def test_halve(times: int = 1) -> Iterator[Case]:
    for n in range(3, 3 + times):
        what = f"halve({n})"
        yield Case(
            what,
            lambda halve, n=n: halve(n),
            lambda found, n=n: check(found == n / 2, f"halve({n}): expected {n / 2}, found {found!r}."),
            "Divide by two.",
        )


grade_halve = test_halve
del test_halve  # no test of ours


def said(solution, *args) -> str:
    with pytest.raises(AssertionError) as failure:
        grade_halve(solution, *args)
    return str(failure.value)


def test_right_work_passes_and_is_told_so(capsys):
    assert grade_halve(lambda n: n / 2, 3) is None
    assert capsys.readouterr().out == "test_halve: all checks passed.\n"


def test_the_first_case_that_fails_is_the_message():
    assert said(lambda n: n // 2) == "halve(3): expected 1.5, found 1."
    assert said(lambda n: 1.5, 2) == "halve(4): expected 2.0, found 1.5."


def test_what_no_judge_foresaw_is_the_learners_to_mend():
    text = said(lambda n: torch.ones(2))
    assert text.startswith("halve(3): found tensor([1., 1.]), of which the grader can make nothing (RuntimeError")


def test_a_grader_takes_the_work_first_and_then_what_its_cases_take():
    assert list(inspect.signature(grade_halve).parameters) == ["halve", "times"]


def test_a_stub_gets_a_plain_message():
    def stub(n):
        raise NotImplementedError

    assert said(stub).startswith("Nothing to grade yet")
    with pytest.raises(NotImplementedError):
        attempt(lambda: stub(1))


def test_an_error_is_shown_with_the_learners_line_and_a_hint():
    def broken(n):
        return [][n]  # the learner's line

    first, second = said(broken).split("\n")
    assert re.fullmatch(
        r"halve\(3\): expected a result, found IndexError: list index out of range \(line \d+: .*learner's line\)",
        first,
    )
    assert second == "  Divide by two."


def test_a_learners_own_assert_is_shown_as_theirs():
    def strict(n):
        assert n > 10, "n is small"

    assert re.match(
        r"halve\(3\): expected a result, found AssertionError: n is small.* \(line \d+: assert n > 10",
        said(strict),
        re.S,
    )


def test_the_line_is_the_learners_even_where_the_error_is_raised_in_a_package():
    def wrong_shapes():
        return torch.einsum("ij,jk->ik", torch.ones(2, 3), torch.ones(2, 3))

    for work, call in ((wrong_shapes, "torch.einsum("), (lambda: json.loads("{"), "json.loads(")):
        assert re.match(r"line \d+: ", attempt(work).where) and call in attempt(work).where


def test_an_error_as_data():
    error = attempt(lambda: int("x"))
    assert error.kinds[0] == "ValueError" and str(error).startswith("ValueError: invalid literal")
    assert attempt(lambda: {}["k"]).kinds[:2] == ("KeyError", "LookupError")
    assert str(Raised(("StopIteration",), "")) == "StopIteration"
    assert attempt(lambda: 7) == 7


def test_refused_asks_for_a_value_error():
    case = refused("f('')", lambda f: f(""), "there is nothing in it.")
    case.judge(case.observe(int))
    for work, words in (
        (len, r"^f\(''\) returned 0; it must raise ValueError: there is nothing in it\.$"),
        (lambda text: text[0], r"^f\(''\) raised IndexError.*; raise ValueError: there is nothing in it\.$"),
    ):
        with pytest.raises(AssertionError, match=words):
            case.judge(case.observe(work))


class Learners(NamedTuple):
    x: Any


def test_a_form_is_asked_for_by_name():
    for found, words in (
        ((1, 2, 3), "tuple of 3"),
        ([1, 2], "list of 2"),
        (torch.ones(2), "Tensor"),
        (None, "NoneType"),
    ):
        with pytest.raises(AssertionError, match=f"^Expected a pair, found {words}\\.$"):
            check_form(found, tuple, 2, "Expected a pair")
    check_form((1, 2), tuple, 2, "Expected a pair")


def test_what_is_no_data_becomes_its_name_and_how_it_shows_itself():
    found = plain([Learners(1), {"a": (len, 2.5)}, torch.ones(2), Exchange({3}, [], [], 0)])
    assert found[0] == (1,) and type(found[0]) is tuple
    assert found[1]["a"] == (Foreign("builtin_function_or_method", "<built-in function len>"), 2.5)
    assert isinstance(found[3], Exchange)
    assert kind_of(found[1]["a"][0]) == "builtin_function_or_method" and kind_of(found[2]) == "Tensor"
    assert repr(plain(iter([]))).startswith("<list_iterator")


def test_the_work_gets_copies_and_what_became_of_them_is_seen():
    vector = torch.ones(2)
    found, (after, names) = called_with(vector, ["a"])(lambda v, names: (v.zero_(), names.append("b"))[0])
    assert vector.tolist() == [1, 1] and after.tolist() == found.tolist() == [0, 0] and names == ["a", "b"]


def test_a_grader_computes_in_one_thread_and_restores_the_number():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = []
        grade_halve(lambda n: seen.append(torch.get_num_threads()) or n / 2)
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def is_data(value: Any) -> bool:
    """Made of tensors, numbers, texts and containers, and records of the graders' own."""
    if isinstance(value, dict):
        return all(is_data(x) for pair in value.items() for x in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(is_data, value))
    if isinstance(value, Raised | Foreign | torch.Tensor | np.ndarray | np.generic | torch.dtype | torch.device):
        return True
    if type(value).__module__.startswith("graders."):
        return all(map(is_data, vars(value).values()))
    return value is None or isinstance(value, bool | int | float | complex | str | bytes)


def at_a_distance(name: str, work: Any) -> str:
    """What the grader says where judges never meet the work: they belong to cases that only it has not observed."""
    model, tokenizer = load_tiny_model("qwen2", seed=7)
    notebook = {"model": model, "tokenizer": tokenizer, "d_model": d_model(model), "num_layers": n_blocks(model)}
    list_of = getattr(tests, name).cases
    given = {k: notebook[k] for k in inspect.signature(list_of).parameters}
    seen = observations(list_of(**given), work)
    assert is_data(seen), seen
    return verdict(list_of(**given), loads(dumps(seen)))


@pytest.fixture(scope="module")
def reference() -> dict[str, object]:
    return reference_solutions()


@pytest.mark.parametrize("name", CONVERTED)
def test_judges_see_data_and_never_the_work(name, reference):
    assert at_a_distance(name, reference[name]) == ""


def wrong_solutions() -> list:
    """Of graders that take no model: those are quick."""
    found = []
    for name in WITHOUT_A_MODEL:
        path = next((Path(__file__).parents[1] / "bank").glob(f"section_*/{name}.py"))
        bank = importlib.import_module(f"checks.bank.{path.parent.name}.{name}")
        found += [
            pytest.param(name, value, id=f"{name[5:]}-{key}")
            for key, value in vars(bank).items()
            if getattr(value, "verdict", None) == "wrong" and value.__module__ == bank.__name__
        ]
    return found


@pytest.mark.parametrize(("name", "solution"), wrong_solutions())
def test_a_mistake_is_seen_from_data_alone(name, solution):
    assert re.search(solution.words, at_a_distance(name, solution), re.S)


ODD = [None, 5, "text", [], {}, object(), (None, None), ([None], [None]), [{}], [()], torch.ones(3), iter([])]


@pytest.mark.parametrize("name", WITHOUT_A_MODEL)
def test_an_odd_result_gets_a_message(name):
    for odd in ODD:
        with pytest.raises(AssertionError, match=r"\w"):
            getattr(tests, name)(lambda *args, odd=odd, **kwargs: odd)
