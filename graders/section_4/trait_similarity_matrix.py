"""Section 4: how alike the traits' vectors are at one block."""

from collections.abc import Iterator
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from graders.harness import similarity as sim
from graders.harness.cases import Case, grader
from personalab.lm.tiny import drawn

_NAMES = ["sycophantic", "evil", "optimistic", "apathetic"]  # in an order that is not alphabetical
_BLOCKS, _WIDTH = 6, 10

Stack = Float[Tensor, "t L d"]


@grader
def test_trait_similarity_matrix() -> Iterator[Case]:
    """Cosines of the rows of one block, in the order of the dict."""
    yield from (_case(_NAMES, seed, layer) for seed, layer in ((0, 2), (1, 0), (2, _BLOCKS - 1)))
    yield _case(_NAMES[:1], 3, 4)
    yield _case([f"trait {i}" for i in range(_BLOCKS + 5)], 4, 3)


def _case(names: list[str], seed: int, layer: int) -> Case:
    vectors = _vectors(names, seed)
    stacked = torch.stack(list(vectors.values())).double()
    what = f"{len(names)} traits of {_BLOCKS} blocks, layer={layer}"
    return sim.similarity_case(what, vectors, sim.cosines(stacked[:, layer]), _mistakes(stacked, layer), layer)


def _vectors(names: list[str], seed: int) -> dict[str, Float[Tensor, "L d"]]:
    """Vectors of different norms around a common mean, which grow with depth as real ones do."""
    generator = torch.Generator().manual_seed(drawn(seed))
    common = torch.randn(_BLOCKS, _WIDTH, generator=generator)
    depth = torch.arange(1, _BLOCKS + 1)[:, None] ** 2
    return {
        name: (common + torch.randn(_BLOCKS, _WIDTH, generator=generator)) * depth * (1 + 0.4 * i) * (-1) ** (i == 1)
        for i, name in enumerate(names)
    }


def _mistakes(stacked: Stack, layer: int) -> sim.Mistakes:
    rows = stacked[:, layer]

    def at(block: int) -> Tensor | list[Tensor]:
        return sim.cosines(stacked[:, block]) if 0 <= block < _BLOCKS else []

    return {
        sim.NOT_NORMALISED: partial(sim.products, rows),
        "you take row layer + 1: off by one, since `layer` is a block index here, and so are the rows": (
            partial(at, layer + 1)
        ),
        "you take row layer - 1: off by one, since `layer` is a block index here, and the vectors have no row for the "
        "embedding": partial(at, layer - 1),
        "you ignore `layer`: you take the last block": partial(at, _BLOCKS - 1),
        "you ignore `layer`: you compare all blocks at once": lambda: sim.cosines(stacked.flatten(1)),
        "you average over blocks: take the row of one": lambda: [
            sim.cosines(stacked.mean(1)),
            torch.stack([sim.cosines(stacked[:, k]) for k in range(_BLOCKS)]).mean(0),
        ],
        "you divide by the norm over all blocks: normalise the block's row": lambda: sim.products(
            rows / stacked.flatten(1).norm(dim=1, keepdim=True)
        ),
        sim.WRONG_DIMENSION: partial(sim.over_vectors, rows),
        "you normalise one side only": lambda: [rows @ sim.unit(rows).T, sim.unit(rows) @ rows.T],
        sim.NO_SIGN: lambda: sim.cosines(rows).abs(),
        "you centred the vectors: here they are compared as they are": lambda: [
            sim.cosines(sim.centred(rows)),
            sim.cosines(rows - rows.mean(1, keepdim=True)),
        ],
    }
