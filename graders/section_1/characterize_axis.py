"""Section 1: which personas lie at which end of the Assistant Axis."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graders.harness import Case, called_with, check, check_close, difference, grader, kind_of, tolerance
from graders.harness.similarity import centred, persona_vectors

_D = 9


@grader
def test_characterize_axis() -> Iterator[Case]:
    """Cosines with the axis, least Assistant-like first."""
    vectors = persona_vectors(3, _D)
    axis = 4 * torch.randn(_D, generator=torch.Generator().manual_seed(4))
    yield Case(
        f"{len(vectors)} personas and an axis",
        lambda work: called_with(vectors, axis)(work)[0],
        partial(_check, vectors, axis.double()),
    )


def _check(vectors: dict[str, Tensor], axis: Float[Tensor, "d"], found: Any) -> None:
    check(isinstance(found, dict), f"Expected a dict of cosines by persona, found {kind_of(found)}.")
    names = difference(sorted(vectors), sorted(map(str, found)))
    check(not names, f"One cosine for each persona, by its name: {names}.")
    order = list(found.values())
    others = [kind_of(value) for value in order if not isinstance(value, float)]
    check(not others, f"The values must be Python floats, found {others[:1]}. Use .item().")
    stacked = torch.stack(list(vectors.values())).double()
    dots, norms = stacked @ axis, stacked.norm(dim=1)
    check_close(
        torch.tensor([found[name] for name in vectors], dtype=torch.float64),
        [dots / norms / axis.norm()],
        "the values",
        {
            "they are dot products: divide by both norms": lambda: dots,
            "only the vectors are normalised, not the axis": lambda: dots / norms,
            "only the axis is normalised, not the vectors": lambda: dots / axis.norm(),
            "the mean persona was subtracted: use the vectors as they are given": lambda: torch.cosine_similarity(
                centred(stacked), axis[None], dim=1
            ),
        },
        tolerance=tolerance(torch.float32, exact=1e-4),
    )
    check(
        order == sorted(order),
        "The personas must come in ascending order of cosine, the least Assistant-like first"
        + (": yours descend." if order == sorted(order, reverse=True) else "."),
    )
