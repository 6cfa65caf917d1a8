"""Section 1: which personas lie at which end of the Assistant Axis."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from graders.harness import Case, called_with, check, check_close, check_kind, difference, grader, kind_of, tolerance
from graders.harness.expect import real
from graders.harness.similarity import centred, persona_vectors

_D = 9


@grader
def test_characterize_axis() -> Iterator[Case]:
    """Cosines with the axis, least Assistant-like first."""
    vectors = persona_vectors(3, _D)
    axis = 4 * torch.randn(_D, generator=torch.Generator().manual_seed(4))
    yield _case(vectors, axis, f"{len(vectors)} personas and an axis")
    yield _case(vectors, -axis, "the other way round")  # cosines of one sign, by chance, would hide an order by size


def _case(vectors: dict[str, Tensor], axis: Tensor, what: str) -> Case:
    stacked, length = torch.stack(list(vectors.values())).double(), axis.double().norm()
    dots, norms = stacked @ axis.double(), stacked.norm(dim=1)
    mistakes = {
        "they are dot products: divide by both norms": lambda: dots,
        "only the vectors are normalised, not the axis": lambda: dots / norms,
        "only the axis is normalised, not the vectors": lambda: dots / length,
        "the mean persona was subtracted: use the vectors as they are given": lambda: torch.cosine_similarity(
            centred(stacked), axis.double()[None], dim=1
        ),
    }

    def judge(found: Any) -> None:
        check_kind(found, dict, "expected a dict of cosines by persona")
        names = difference(sorted(vectors), sorted(map(str, found)))
        check(not names, f"one cosine for each persona, by its name: {names}.")
        order = list(found.values())
        others = [kind_of(value) for value in order if not real(value)]
        check(not others, f"the values must be Python floats, found {others[:1]}. Use .item().")
        values = torch.tensor([found[name] for name in vectors], dtype=torch.float64)
        close = tolerance(torch.float32, exact=1e-4)
        check_close(values, [dots / norms / length], "the values", mistakes, close)
        check(
            order == sorted(order),
            "the personas must come in ascending order of cosine, the least Assistant-like first"
            + (": yours descend." if order == sorted(order, reverse=True) else "."),
        )

    return Case(what, lambda work: called_with(vectors, axis)(work)[0], judge)
