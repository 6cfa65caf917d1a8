"""Section 2: each turn's place along a direction."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graders.harness import Called, Case, call_case, failing_case, grader, on_tiny_models
from graders.harness.probes import returning_tuples
from graders.harness.readings import Reading, read_turns
from graders.section_2.turns import CHANGED, CONVERSATIONS, MANY, check_turn_projections, check_turns
from personalab.lm.models import d_model
from personalab.lm.tiny import FAMILIES, load_tiny_model


@grader
def test_compute_turn_projections(model: Any = None, tokenizer: Any = None) -> Iterator[Case]:
    """Projection of each turn's mean on the unit direction, after the right block; nothing left on the model."""
    if on_tiny_models():
        direction = 5 * F.normalize(torch.randn(32, generator=torch.Generator().manual_seed(2)), dim=0)
        for family in FAMILIES:
            tiny, tok = load_tiny_model(family)
            for name, conversation in CONVERSATIONS.items():
                readings = read_turns(tiny, tok, conversation)
                for layer in (0, 2):
                    yield _case(readings, direction, layer, f"{family}, layer={layer}, {name}")
        tiny, tok = load_tiny_model("llama")
        what = "llama, blocks that return tuples"
        yield _case(read_turns(tiny, tok, MANY), direction, 1, what, partial(returning_tuples, tiny, 1))
        yield failing_case(tiny, tok, (MANY, direction, 1))
        half = load_tiny_model("llama", dtype=torch.bfloat16)
        yield _case(read_turns(*half, MANY), direction, 1, "bfloat16 model, float32 direction")
    if model is not None:
        own = torch.randn(d_model(model), generator=torch.Generator().manual_seed(3))
        yield _case(read_turns(model, tokenizer, MANY), own, 1, "your model")


def _case(
    readings: list[Reading], direction: Tensor, layer: int, what: str, around: Callable[[], Any] = nullcontext
) -> Case:
    def judge(seen: Called) -> None:
        check_turns(seen, readings, what)
        check_turn_projections(seen.found, readings, layer, direction, what)

    first, changes = readings[0], ["", f"the direction you were given {CHANGED}"]
    args = (first.conversation, direction, layer)
    return call_case(what, first.model, first.tok, args, judge, changes, around=around)
