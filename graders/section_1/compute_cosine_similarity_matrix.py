"""Section 1: how alike the personas' vectors are."""

from collections.abc import Iterator
from functools import partial

import torch

from graders.harness import Case, grader
from graders.harness import similarity as sim


@grader
def test_compute_cosine_similarity_matrix() -> Iterator[Case]:
    """Normalised dot products, names in the order of the dict."""
    for seed in (0, 1):
        vectors = sim.persona_vectors(seed)
        x = torch.stack(list(vectors.values())).double()
        mistakes: sim.Mistakes = {
            sim.NOT_NORMALISED: partial(sim.products, x),
            "you centred the vectors: that is the other function": partial(sim.cosines, sim.centred(x)),
            sim.WRONG_DIMENSION: partial(sim.over_vectors, x),
            sim.NO_SIGN: sim.cosines(x).abs,
        }
        yield sim.similarity_case(f"{len(x)} persona vectors", vectors, sim.cosines(x), mistakes, arrays=True)
