"""Section 3, activations after every block."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from graders.harness import Called, Case, call_case, failing_case, fails, grader
from graders.harness.expect import check, check_mean_dtype, on_tiny_models, relative, tolerance
from graders.harness.readings import ALL_BLOCKS, Exchange, Reading, check_form, check_row, load_family, read
from graders.section_1.examples import LONG, columns, exchanges
from graders.section_1.extract_response_activations import company_case
from personalab.lm.models import d_model, n_blocks
from personalab.lm.tiny import FAMILIES, load_tiny_model


@grader
def test_extract_all_layer_activations(model: Any = None, tokenizer: Any = None) -> Iterator[Case]:
    """Means over the answer's tokens after every block: no embedding layer, no shift, whatever the family."""
    kinds: set[str] = set()
    if on_tiny_models():
        for i, family in enumerate(FAMILIES):
            tiny, tok = load_family(family, n_blocks=3 + i % 2)
            for side in ("left", "right"):
                yield _case(tiny, tok, exchanges(5), f"{family}, {n_blocks(tiny)} blocks", kinds, side=side)
        tiny, tok = load_tiny_model("qwen2")
        yield company_case(tiny, tok, exchanges(3))
        yield failing_case(tiny, tok, columns(exchanges(1)))
        half, tok = load_tiny_model("qwen2", dtype=torch.bfloat16)
        n = len(tok(LONG[-1], add_special_tokens=False)["input_ids"])
        yield _case(half, tok, [LONG], "bfloat16 model, long answer", kinds, n)
        yield from _refused_cases(tiny, tok)
    if model is not None:
        yield _case(model, tokenizer, exchanges(2), "your model", kinds)
    if kinds == {"normed"}:
        print(
            "Your last layer is hidden_states[-1], to which transformers has applied the final norm: it is on another "
            "scale than what the last block adds to, so don't steer with it. (A hook on the block gives the raw one.)"
        )
    else:
        print("Your last layer is the last block's own output, before the final norm.")


def _case(
    model: Any, tok: Any, examples: list[Exchange], what: str, kinds: set[str], n_tokens: int = 1, side: str = ""
) -> Case:
    """Every example, every block.

    Args:
        kinds: gets "raw" or "normed", whichever the last layer is.
        n_tokens: what each mean is over, where `Tolerance.over` holds.
    """

    def judge(seen: Called) -> None:
        kinds.add(_check_values(seen.found, model, read(model, tok, examples), n_tokens))

    return call_case(what, model, tok, columns(examples), judge, side=side, when="after a normal call")


def _check_values(found: Any, model: Any, readings: list[Reading], n_tokens: int) -> str:
    """Says whether the last layer is "raw" or "normed"."""
    n, blocks, width = len(readings), n_blocks(model), d_model(model)
    guesses = {
        (n, blocks + 1, width): "The embedding layer is included: hidden_states has one entry more than there are "
        "blocks, the first is the embedding. Use hidden_states[1:]",
        (n, blocks - 1, width): "A block is missing: hidden_states[1:] has one entry for each",
        (blocks, n, width): "The first two dimensions are swapped: stack the layers inside each example",
        (blocks, width): "Keep one row for each example: the mean is over an answer's tokens, not over answers",
    }
    dtype, found = getattr(found, "dtype", None), check_form(found, (n, blocks, width), guesses, "the result")
    wide = f"expected float32, found {dtype}. Convert with .float() before .mean()."
    check(dtype in (torch.float32, torch.float64), wide)
    kind, allowed = "raw", tolerance(model.dtype).over(n_tokens)
    for i, reading in enumerate(readings):
        for k in range(blocks):
            check_row(found[i, k], reading, k + 1, ALL_BLOCKS, f"example {i}, [{k}]", n_tokens)
        raw = [reading.at(blocks)[0][a:b].mean(0) for a, b in reading.spans]
        if all(relative(found[i, -1], row) > allowed.allowed(1.0) for row in raw):
            kind = "normed"
    check_mean_dtype(found, model.dtype, "the result")
    return kind


def _refused_cases(model: Any, tok: Any) -> Iterator[Case]:
    """Any error will do."""
    empty = columns([*exchanges(1), ("You are a poet.", "Who are you?", "")])
    why = "An empty answer has no tokens, and the mean of nothing is NaN: raise ValueError. The end marker is none."
    yield fails("An empty answer", lambda work: work(model, tok, *empty), why)
    why = (
        "Nobody knows which belongs to which, and zip drops the rest: raise ValueError, as zip(..., strict=True) does."
    )
    for i, name in enumerate(("system_prompts", "questions", "responses")):
        lists = columns(exchanges(3))
        lists[i].pop()
        yield fails(f"2 {name}, and 3 of the others", partial(_called, model, tok, lists), why)


def _called(model: Any, tok: Any, lists: list[list[str]], work: Any) -> Any:
    return work(model, tok, *lists)
