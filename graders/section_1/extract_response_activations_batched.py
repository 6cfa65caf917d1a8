"""Section 1: answers' mean activations, in batches."""

from collections.abc import Iterator
from typing import Any

from graders.harness import Case, grader, on_tiny_models
from graders.harness.readings import read
from graders.section_1.examples import exchanges
from graders.section_1.extract_response_activations import bfloat16_case, values_case
from personalab.lm.tiny import FAMILIES, load_tiny_model

_BATCHES = ((1, "right"), (2, "left"), (3, "right"), (4, "left"), (16, "right"))


@grader
def test_extract_response_activations_batched(
    model: Any, tokenizer: Any, d_model: int, num_layers: int
) -> Iterator[Case]:
    """The same values for every batch size and padding side, in the order asked, the last partial batch included."""
    if on_tiny_models():
        for family in FAMILIES:
            tiny, tok = load_tiny_model(family)
            examples = exchanges(5, family, spaces=True)
            readings = read(tiny, tok, examples)
            for size, side in _BATCHES:
                what = f"{family}, 5 examples, batch_size={size}, tokenizer.padding_side={side!r}"
                yield values_case(tiny, tok, examples, 2, what, side=side, readings=readings, batch_size=size)
        yield bfloat16_case()
    if model is not None:
        yield values_case(model, tokenizer, exchanges(3), max(1, num_layers * 2 // 3), "your model")
