"""Section 1: an answer's mean activation, one conversation at a time."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from graders.harness import Called, Case, call_case, check_close, check_mean_dtype, check_tensor, grader, on_tiny_models
from graders.harness.readings import HIDDEN_STATES_INDEX, Exchange, Reading, check_row, read
from graders.section_1.examples import LONG, columns, exchanges
from personalab.lm.models import d_model as width_of
from personalab.lm.tiny import FAMILIES, load_tiny_model


@grader
def test_extract_response_activations(model: Any, tokenizer: Any, d_model: int, num_layers: int) -> Iterator[Case]:
    """Means over the answer's tokens, at the right layer, whatever the family, the batch and the dtype."""
    if on_tiny_models():
        for family in FAMILIES:
            tiny, tok = load_tiny_model(family)
            readings = read(tiny, tok, exchanges(5, family, spaces=True))
            for side in ("left", "right"):
                what = f"{family}, tokenizer.padding_side={side!r}"
                yield values_case(tiny, tok, exchanges(5, family, spaces=True), 2, what, side=side, readings=readings)
        tiny, tok = load_tiny_model("llama")
        yield values_case(tiny, tok, exchanges(2), 0, "layer 0, the embedding")
        yield company_case(tiny, tok, exchanges(5, spaces=True), layer=2)
        yield bfloat16_case()
    if model is not None:
        yield values_case(model, tokenizer, exchanges(3), max(1, num_layers * 2 // 3), "your model")


def values_case(
    model: Any,
    tok: Any,
    examples: list[Exchange],
    layer: int,
    what: str,
    n_tokens: int = 1,
    readings: list[Reading] | None = None,
    **options: Any,
) -> Case:
    """Every row against the oracle.

    Args:
        n_tokens: what a mean is over, as in `check_row`.
        readings: of the examples, if they are known.
        options: for `call_case`.
    """

    def judge(seen: Called) -> None:
        found = check_tensor(seen.found, (len(examples), width_of(model)), "the result")
        for i, reading in enumerate(readings or read(model, tok, examples)):
            check_row(found[i], reading, layer, HIDDEN_STATES_INDEX, f"example {i}", n_tokens)
        check_mean_dtype(found, model.dtype, "the result")

    return call_case(what, model, tok, columns(examples), judge, layer=layer, **options)


def bfloat16_case() -> Case:
    """So long an answer that adding up in half precision shows."""
    model, tok = load_tiny_model("llama", dtype=torch.bfloat16)
    n = len(tok(LONG[-1], add_special_tokens=False)["input_ids"])
    return values_case(model, tok, [LONG], 2, "bfloat16 model, long answer", n_tokens=n)


def company_case(model: Any, tok: Any, examples: list[Exchange], **options: Any) -> Case:
    """Each example's values on its own are those among others."""

    def observe(work: Callable[..., Any]) -> list[Tensor]:
        calls = [examples, *([example] for example in examples)]
        return [work(model, tok, *columns(lists), **options) for lists in calls]

    def judge(found: list[Tensor]) -> None:
        for i, (among, alone) in enumerate(zip(found[0].double(), found[1:], strict=True)):
            row, what = alone[0].double(), f"example {i} on its own and among others gives different values"
            check_close(row, [among], what, {"padding leaks into the mean, or rows change places": row.clone})

    return Case("one example at a time", observe, judge)
