"""Section 2: a class that watches a conversation, turn by turn, in one pass."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graders.harness import Called, Case, check, check_mean_dtype, check_tensor, grader
from graders.harness.calls import AFTER_ERROR, called
from graders.harness.hooked import HINT
from graders.harness.probes import returning_tuples
from graders.harness.readings import BLOCK_INDEX, Reading, check_row, read_turns
from graders.section_2.turns import CHANGED, CONVERSATIONS, MANY, check_turn_projections, check_turns, turns
from personalab.lm.tiny import FAMILIES, load_tiny_model

_LONG = "the sea and the city " * 60
_AXIS = 7 * F.normalize(torch.randn(32, generator=torch.Generator().manual_seed(1)), dim=0)


@grader
def test_conversation_analyzer_project() -> Iterator[Case]:
    """Means over each turn's own tokens, after the right block, from one pass; nothing left on the model."""
    for family in FAMILIES:
        model, tok = load_tiny_model(family)
        readings = {name: read_turns(model, tok, conversation) for name, conversation in CONVERSATIONS.items()}
        for layer in (0, 2):
            yield _case(readings, layer, f"{family}, layer={layer}", "extract_turn_activations")
            yield _case(readings, layer, f"{family}, layer={layer}", "project_onto_axis")
    model, tok = load_tiny_model("llama")
    tuples, around = {"blocks that return tuples": read_turns(model, tok, MANY)}, partial(returning_tuples, model, 1)
    yield _case(tuples, 1, "llama", "extract_turn_activations", around=around)
    yield _failing_case(model, tok)
    model, tok = load_tiny_model("llama", dtype=torch.bfloat16)
    n = len(tok(_LONG, add_special_tokens=False)["input_ids"])
    long = {"long answer": read_turns(model, tok, turns("Where is the gold?", _LONG.strip()))}
    yield _case(long, 1, "bfloat16 model", "extract_turn_activations", n)
    yield _case(long, 1, "bfloat16 model", "project_onto_axis")


def _case(
    readings: dict[str, list[Reading]],
    layer: int,
    what: str,
    method: str,
    n_tokens: int = 1,
    around: Callable[[], Any] = nullcontext,
) -> Case:
    """What one analyzer gives for each conversation; `n_tokens`: what a mean is over, as in `check_row`."""
    conversations = [each[0].conversation for each in readings.values()]
    first = next(iter(readings.values()))[0]

    def observe(make: Callable[..., Any]) -> tuple[list[Called], Tensor]:
        axis = _AXIS.clone()
        run = getattr(make(first.model, first.tok, layer, axis), method)
        return [called(first.model, run, messages, around=around) for messages in conversations], axis

    def judge(found: tuple[list[Called], Tensor]) -> None:
        check(torch.equal(found[1], _AXIS), f"the axis you were given {CHANGED}")
        for seen, (name, each) in zip(found[0], readings.items(), strict=True):
            check_turns(seen, each, name, one_pass=True)
            if method == "project_onto_axis":
                check_turn_projections(seen.found, each, layer, _AXIS, name)
            else:
                _check_activations(seen.found, each, layer, name, n_tokens)

    return Case(what, observe, judge, HINT)


def _failing_case(model: Any, tok: Any) -> Case:
    """A call that fails leaves no hook and nothing else behind."""
    readings = read_turns(model, tok, MANY)

    def observe(make: Callable[..., Any]) -> list[Called]:
        run = make(model, tok, 1, _AXIS.clone()).extract_turn_activations
        return [called(model, run, CONVERSATIONS["one turn"], fails_after=0), called(model, run, MANY)]

    def judge(found: list[Called]) -> None:
        check(not found[0].hooks, AFTER_ERROR + found[0].hooks)
        check_turns(found[1], readings, "the next call", one_pass=True)
        _check_activations(found[1].found, readings, 1, "the next call")

    return Case("llama, after an earlier call has failed", observe, judge, HINT)


def _check_activations(found: list[Any], readings: list[Reading], layer: int, what: str, n_tokens: int = 1) -> None:
    """Each turn's mean, after block `layer`, against the oracle."""
    for k, (vector, reading) in enumerate(zip(found, readings, strict=True)):
        name = f"{what}: extract_turn_activations, assistant turn {k}"
        shape = tuple(getattr(vector, "shape", (32,)))
        check(
            shape == (32,),
            f"{name}: expected shape (32,), found {shape}. A block's output is a tensor (batch, tokens, d), or in "
            "older versions a tuple that starts with it: take output[0] of a tuple only, then batch element 0, then "
            "the mean over the turn's tokens.",
        )
        value = check_tensor(vector, (32,), name)
        wide = f"{name}: expected float32, found {vector.dtype}. Convert with .float() before averaging."
        check(vector.dtype in (torch.float32, torch.float64), wide)
        check_row(value, reading, layer + 1, BLOCK_INDEX, name, n_tokens)
        check_mean_dtype(value, reading.states.dtype, name)
