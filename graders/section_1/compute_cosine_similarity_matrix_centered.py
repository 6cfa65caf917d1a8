"""Section 1: how alike the personas' vectors are once their mean is taken away."""

from collections.abc import Iterator
from functools import partial

import torch

from graders.harness import Case, grader
from graders.harness import similarity as sim


@grader
def test_compute_cosine_similarity_matrix_centered() -> Iterator[Case]:
    """The mean persona is subtracted first."""
    for seed in (0, 1):
        vectors = sim.persona_vectors(seed)
        x = torch.stack(list(vectors.values())).double()
        early = sim.centred(sim.unit(x))
        mistakes: sim.Mistakes = {
            "you centre per vector: subtract the mean across personas, not each vector's own mean": partial(
                sim.cosines, x - x.mean(1, keepdim=True)
            ),
            "nothing was centred": partial(sim.cosines, x),
            "you normalise before centring and not after": partial(sim.products, early),
            "you normalise before centring: subtract the mean of the vectors as they are": partial(sim.cosines, early),
            "you multiply without normalising: divide each centred vector by its norm": partial(
                sim.products, sim.centred(x)
            ),
        }
        right = sim.cosines(sim.centred(x))
        yield sim.similarity_case(f"{len(x)} persona vectors", vectors, right, mistakes, arrays=True)
