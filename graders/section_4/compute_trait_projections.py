"""Section 4: how much of a trait is in an answer; and what all that monitors a trait must do."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from graders.harness import Called, Case, call_case, failing_case, grader, on_tiny_models
from graders.harness import readings as rd
from graders.harness.calls import LISTS
from graders.harness.expect import listed
from graders.harness.projected import check_list, check_projections
from graders.section_1.examples import LONG, columns, exchanges
from personalab.lm.models import n_blocks
from personalab.lm.tiny import FAMILIES

Read = Callable[[Any, Any, Sequence[Any]], list[list[rd.Reading]]]  # for each example, its right renderings


@grader
def test_compute_trait_projections(model: Any = None, tokenizer: Any = None) -> Iterator[Case]:
    """Projection of each answer's mean on the unit trait vector, at `hidden_states[layer]`."""
    tables = [rd.HIDDEN_STATES_INDEX, rd.POOLING]

    def answers(model: Any, tok: Any, exchanges: Sequence[rd.Exchange]) -> list[list[rd.Reading]]:
        return [[reading] for reading in rd.read(model, tok, exchanges)]

    yield from projection_cases(answers, 3, [LONG], rd.HEADER, tables, model, tokenizer)


def projection_cases(
    read: Read, n_texts: int, long: Sequence[Any], subtle: str, tables: Sequence[rd.Table], model: Any, tokenizer: Any
) -> Iterator[Case]:
    """A function of `n_texts` lists of texts, on every family, in bfloat16 on `long` ones, on the notebook's model.

    Args:
        subtle: the mistake that changes least. On the notebook's model, in half precision, it shows along the vector
            in which it differs, where along another rounding may hide it.
    """

    def case(what: str, layer: int, model: Any, tok: Any, texts: Sequence[Any], vector: Tensor, side: str = "") -> Case:
        def judge(seen: Called) -> None:
            found = listed(seen.found)
            check_list(found, len(texts), what, "values, one an example")
            check_projections(found, read(model, tok, texts), layer, vector, f"{what}, example", *tables)

        changes = [*LISTS[:n_texts], "the trait vector was changed in place. Normalise a copy."]
        return call_case(what, model, tok, [*columns(texts), vector, layer], judge, changes, side=side)

    if on_tiny_models():
        for family in FAMILIES:
            texts = [e[:n_texts] for e in exchanges(5, family)]
            for layer, side in ((1, "left"), (3, "right")):
                what = f"{family}, layer={layer}, tokenizer.padding_side={side!r}"
                yield case(what, layer, *rd.load_family(family), texts, _vector(32), side)
        tiny, tok = rd.load_family("llama")
        yield failing_case(tiny, tok, [*columns(exchanges(2))[:n_texts], _vector(32), 2])
        half = rd.load_family("llama", dtype=torch.bfloat16)
        yield case("bfloat16 model, float32 vector", 2, *half, long, _vector(32))
    if model is not None:
        layer, texts = n_blocks(model) // 2, [e[:n_texts] for e in exchanges(5)[2:]]  # the shortest of them first
        [[first, *_]], subtly = read(model, tokenizer, texts[:1]), {k: v for t in tables for k, v in t.items()}[subtle]
        telling = 3 * F.normalize(subtly(first, layer)[0] - rd.right(first, layer)[0], dim=0).float()
        yield case("your model", layer, model, tokenizer, texts, telling)


def _vector(width: int) -> Float[Tensor, "d"]:
    """Of norm 3, so that a forgotten division, and one too many, both show."""
    return 3 * F.normalize(torch.randn(width, generator=torch.Generator().manual_seed(4)), dim=0)
