"""The graders' own assertions: what they allow, what they say, and the threads they compute in."""

from __future__ import annotations

import threading

import pytest
import torch

from graders.harness.cases import Case, grader
from graders.harness.expect import (
    apart,
    check_close,
    check_mean_dtype,
    on_tiny_models,
    tolerance,
    yours_only,
)
from personalab.setup.machine import one_thread


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_tolerance_is_of_the_coarsest_dtype():
    assert tolerance(torch.float32).allowed(1.0) == 1e-3
    assert tolerance(torch.float32, torch.float64, exact=1e-4).allowed(2.0) == 2e-4
    assert tolerance(torch.bfloat16).allowed(1.0) == 8 * 2**-8
    assert tolerance(torch.float32, torch.float16).allowed(1.0) == 16 * 2**-11
    assert tolerance(torch.float16, torch.bfloat16).name == "bfloat16"


def test_what_was_rounded_counts_in_half_precision_only():
    """A difference of two large means is as uncertain as they are; in float32 that is nothing."""
    assert tolerance(torch.bfloat16).allowed(1.0, rounded=10.0) == 10 * 8 * 2**-8
    assert tolerance(torch.float32).allowed(1.0, rounded=10.0) == 1e-3


def test_a_projection_sees_little_of_an_error():
    """A share of 1/√width, twice for safety; never more than the whole, and float32 as strict as ever."""
    torch.manual_seed(0)
    errors, unit = torch.randn(2000, 576), torch.nn.functional.normalize(torch.randn(576), dim=0)
    allowed = torch.tensor([tolerance(torch.bfloat16).along(e.norm().item(), 576) for e in errors])
    seen = (errors @ unit).abs() * 8 * 2**-8
    assert (seen <= allowed).float().mean() > 0.9
    assert tolerance(torch.bfloat16).along(1.0, 4) == 8 * 2**-8
    assert tolerance(torch.float32, exact=1e-4).along(1.0, 576) == 1e-4


def message(found, right, **options) -> str:
    with pytest.raises(AssertionError) as failure:
        check_close(found, right, "the values", **options)
    return str(failure.value)


def test_the_nearest_value_and_the_first_difference_are_shown():
    """0.4 % beside 0.1 % allowed, the second of three right values, at [1, 2], with digits that tell them apart."""
    near = torch.ones(2, 5)
    found = near.clone()
    found[1, 2] = 1.01265  # off by 0.4 % of the norm
    text = message(found, [torch.zeros(2, 5), near, 7 * near])
    assert "off by 0.4 %; 0.1 % is allowed in float32" in text
    assert "first difference at [1, 2]: expected 1, found 1.013" in text


def test_values_have_a_name_and_a_hint_where_no_mistake_is_known():
    text = message(torch.zeros(2), [torch.ones(2)], name="scores", otherwise="Count by hand.")
    assert "the values: wrong scores, off by" in text and text.endswith("Count by hand.")


def test_two_lists_never_look_equal():
    right = torch.tensor([1000.0, 2000.0, 3000.0], dtype=torch.float64)
    text = message(right + torch.tensor([0, 0.001, 0]), [right], tolerance=tolerance(torch.float64, exact=1e-8))
    expected, found = (line.split(":")[1] for line in text.splitlines()[2:4])
    assert expected != found and "2000.001" in found
    assert apart(0.12345678, 0.12345679) == "expected 0.12345678, found 0.12345679"


def test_nan_and_other_shapes_get_a_message():
    assert "nan" in message(torch.tensor([1.0, torch.nan]), [torch.ones(2)])
    assert "expected shape (2,), found (3,)" in message(torch.ones(3), [torch.ones(2)])


def test_a_mistake_must_be_nearer_than_what_is_right():
    right, found = torch.ones(4), 1.05 * torch.ones(4)
    further, nearer = 1.079 * torch.ones(4), 1.048 * torch.ones(4)
    options = {"tolerance": tolerance(torch.bfloat16)}
    named = message(found, [right], mistakes={"this is further": lambda: further}, **options)
    assert "this is further" in named  # 3.1 % are allowed, and the right value is 5 % away
    both = {"this is further": lambda: further, "this is nearer": lambda: nearer}
    assert "this is nearer" in message(found, [right], mistakes=both, **options)
    farther = {"it is as far as the right value": lambda: 1.11 * torch.ones(4)}
    assert "no mistake we know" in message(found, [right], mistakes=farther, **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_means_in_half_precision_are_known_by_their_values(dtype):
    states = torch.randn(2, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    check_mean_dtype(states.float().mean(0), dtype, "two tokens")
    check_mean_dtype(states.mean(0).float(), torch.float32, "a float32 model")
    with pytest.raises(AssertionError, match=f"average in {str(dtype)[6:]}"):
        check_mean_dtype(states.mean(0).float(), dtype, "two tokens")


def test_a_grader_computes_in_one_thread_and_restores_the_number(two_threads):
    seen = []

    def run(solution):
        seen.append(torch.get_num_threads())
        solution()

    @grader
    def inner():
        yield Case("inner", run, lambda found: None)

    @grader
    def outer():
        yield Case("outer", inner, lambda found: seen.append(torch.get_num_threads()))

    outer(lambda: None)
    assert seen == [1, 1] and torch.get_num_threads() == 2
    for error in (ValueError, NotImplementedError, KeyboardInterrupt):

        def fails(error=error):
            raise error

        with pytest.raises((AssertionError, ValueError, KeyboardInterrupt)):
            outer(fails)
        assert torch.get_num_threads() == 2


def test_threads_that_run_already_keep_their_number(two_threads):
    """The number belongs to a thread: the endpoint's worker, which runs for the whole session, is left alone."""
    seen, begun, go = [], threading.Event(), threading.Event()

    def work():
        torch.ones(300, 300).add(1)
        seen.append(torch.get_num_threads())  # settled when a thread first computes
        begun.set()
        go.wait()
        seen.append(torch.get_num_threads())

    worker = threading.Thread(target=work)
    worker.start()
    begun.wait()
    with one_thread():
        go.set()
        worker.join()
    assert seen == [2, 2]


def test_the_part_on_tiny_models_is_left_out_only_inside():
    assert on_tiny_models()
    with yours_only():
        assert not on_tiny_models()
    assert on_tiny_models()
