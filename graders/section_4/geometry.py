"""Section 4, the geometry of traits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graders.harness.expect import check, check_close, check_tensor, grader
from graders.harness.hooked import running

_NAMES = ["sycophantic", "evil", "optimistic", "apathetic"]  # in an order that is not alphabetical
_BLOCKS, _WIDTH = 6, 10

Stack = Float[Tensor, "t L d"]


@grader
def test_trait_similarity_matrix(trait_similarity_matrix: Callable[..., Any]) -> None:
    """Cosines of the rows of one block, in the order of the dict."""
    for seed, layer in ((0, 2), (1, 0), (2, _BLOCKS - 1)):
        _check_matrix(trait_similarity_matrix, _vectors(_NAMES, seed), layer)
    _check_matrix(trait_similarity_matrix, _vectors(_NAMES[:1], 3), 4)
    many = _vectors([f"trait {i}" for i in range(_BLOCKS + 5)], 4)
    _check_matrix(trait_similarity_matrix, many, 3)


def _vectors(names: list[str], seed: int) -> dict[str, Float[Tensor, "L d"]]:
    """Vectors of different norms around a common mean, which grow with depth as real ones do."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(_BLOCKS, _WIDTH, generator=generator)
    depth = torch.arange(1, _BLOCKS + 1)[:, None] ** 2
    return {
        name: (common + torch.randn(_BLOCKS, _WIDTH, generator=generator)) * depth * (1 + 0.4 * i) * (-1) ** (i == 1)
        for i, name in enumerate(names)
    }


def _cosines(rows: Float[Tensor, "t d"]) -> Float[Tensor, "t t"]:
    """One pair at a time."""
    return torch.tensor([[(a @ b / (a.norm() * b.norm())).item() for b in rows] for a in rows], dtype=torch.float64)


def _check_matrix(function: Callable[..., Any], vectors: dict[str, Float[Tensor, "L d"]], layer: int) -> None:
    names, before = list(vectors), {name: v.clone() for name, v in vectors.items()}
    what = f"{len(names)} traits of {_BLOCKS} blocks, layer={layer}"
    with running(what):
        found = function(vectors, layer)
    check(
        isinstance(found, tuple) and len(found) == 2,
        f"{what}: expected a tuple (matrix, names), found {type(found).__name__}.",
    )
    matrix, found_names = found
    check(
        isinstance(found_names, list | tuple) and list(found_names) == names,
        f"{what}: expected the names in the order of the dict, {names}, found {found_names!r}. Return "
        "`list(vectors)`, and don't sort: the names say which row is which.",
    )
    matrix = check_tensor(matrix, (len(names), len(names)), f"{what}: the matrix")
    check(
        all(torch.equal(vectors[n], before[n]) for n in names) and list(vectors) == names,
        f"{what}: you changed the vectors you were given. Normalise copies: `v / v.norm()`, no `/=`.",
    )
    stacked = torch.stack(list(before.values())).double()
    check_close(matrix, [_cosines(stacked[:, layer])], f"{what}: the matrix", _mistakes(stacked, layer))


def _mistakes(stacked: Stack, layer: int) -> dict[str, Callable[[], Tensor | list[Tensor]]]:
    rows = stacked[:, layer]

    def at(block: int) -> Tensor | list[Tensor]:
        return _cosines(stacked[:, block]) if 0 <= block < stacked.shape[1] else []

    def products(normed: Tensor) -> Tensor:
        return normed @ normed.T

    return {
        "you multiply without normalising: divide each vector by its norm": partial(products, rows),
        "you take row layer + 1: off by one, since `layer` is a block index here, and so are the rows": (
            partial(at, layer + 1)
        ),
        "you take row layer - 1: off by one, since `layer` is a block index here, and the vectors have no row for the "
        "embedding": partial(at, layer - 1),
        "you ignore `layer`: you take the last block": partial(at, stacked.shape[1] - 1),
        "you ignore `layer`: you compare all blocks at once": lambda: _cosines(stacked.flatten(1)),
        "you average over blocks: take the row of one": lambda: [
            _cosines(stacked.mean(1)),
            torch.stack([_cosines(stacked[:, k]) for k in range(stacked.shape[1])]).mean(0),
        ],
        "you divide by the norm over all blocks: normalise the block's row": lambda: products(
            rows / stacked.flatten(1).norm(dim=1, keepdim=True)
        ),
        "you normalise along the wrong dimension": lambda: products(rows / rows.norm(dim=0, keepdim=True)),
        "you normalise one side only": lambda: [
            rows @ (rows / rows.norm(dim=1, keepdim=True)).T,
            rows / rows.norm(dim=1, keepdim=True) @ rows.T,
        ],
        "negative similarities were lost": lambda: _cosines(rows).abs(),
        "you centred the vectors: here they are compared as they are": lambda: [
            _cosines(rows - rows.mean(0)),
            _cosines(rows - rows.mean(1, keepdim=True)),
        ],
    }
