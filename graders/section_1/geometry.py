"""Section 1, the geometry of persona space: similarity, PCA, the Assistant Axis."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graders.harness.expect import check, check_close, check_tensor, grader, tolerance

_NAMES = ["zebra", "default", "ant", "assistant", "moon", "bard", "helper"]
_DEFAULTS = ["default", "assistant", "helper"]


def _vectors(d: int = 12, seed: int = 0) -> dict[str, Tensor]:
    """Vectors of different norms around a common mean, in an order that is not alphabetical."""
    generator = torch.Generator().manual_seed(seed)
    common = 5 * torch.randn(d, generator=generator)
    return {
        name: (common + (1 + i) * torch.randn(d, generator=generator)) * (1 + 0.3 * i) for i, name in enumerate(_NAMES)
    }


def _unit(stacked: Tensor) -> Tensor:
    return stacked / stacked.norm(dim=1, keepdim=True)


def _check_matrix(function: Callable[..., Any], right: Callable[[Tensor], Tensor], mistakes: dict[str, Any]) -> None:
    for seed in (0, 1):
        vectors = _vectors(seed=seed)
        before = {name: v.clone() for name, v in vectors.items()}
        found = function(vectors)
        check(
            isinstance(found, tuple) and len(found) == 2,
            f"Expected (matrix, names), found {type(found).__name__}.",
        )
        matrix, names = found
        check(
            list(names) == _NAMES,
            f"Expected the names in the order of the dict, {_NAMES}, found {list(names)}. Were they sorted?",
        )
        matrix = check_tensor(matrix, (len(_NAMES), len(_NAMES)), "the matrix")
        stacked = torch.stack(list(before.values())).double()
        check_close(
            matrix,
            [right(stacked)],
            "the matrix",
            {why: partial(wrong, stacked) for why, wrong in mistakes.items()},
        )
        check(
            all(torch.equal(vectors[n], before[n]) for n in _NAMES),
            "Your function changed the vectors it was given: copy before subtracting in place.",
        )


@grader
def test_compute_cosine_similarity_matrix(compute_cosine_similarity_matrix: Callable[..., Any]) -> None:
    """Normalised dot products, names in the order of the dict."""
    _check_matrix(
        compute_cosine_similarity_matrix,
        lambda x: _unit(x) @ _unit(x).T,
        {
            "you multiply without normalising: divide each vector by its norm": lambda x: x @ x.T,
            "you centred the vectors: that is the other function": lambda x: (
                _unit(x - x.mean(0)) @ _unit(x - x.mean(0)).T
            ),
            "you normalise along the wrong dimension": lambda x: (
                (x / x.norm(dim=0, keepdim=True)) @ (x / x.norm(dim=0, keepdim=True)).T
            ),
            "negative similarities were lost": lambda x: (_unit(x) @ _unit(x).T).abs(),
        },
    )


@grader
def test_compute_cosine_similarity_matrix_centered(
    compute_cosine_similarity_matrix_centered: Callable[..., Any],
) -> None:
    """The mean persona is subtracted first."""

    def per_vector(x: Tensor) -> Tensor:
        return _unit(x - x.mean(1, keepdim=True))

    _check_matrix(
        compute_cosine_similarity_matrix_centered,
        lambda x: _unit(x - x.mean(0)) @ _unit(x - x.mean(0)).T,
        {
            "you centre per vector: subtract the mean across personas, not each vector's own mean": (
                lambda x: per_vector(x) @ per_vector(x).T
            ),
            "nothing was centred": lambda x: _unit(x) @ _unit(x).T,
            "you normalise before centring and not after": lambda x: (
                (_unit(x) - _unit(x).mean(0)) @ (_unit(x) - _unit(x).mean(0)).T
            ),
            "you normalise before centring: subtract the mean of the vectors as they are": lambda x: (
                _unit(_unit(x) - _unit(x).mean(0)) @ _unit(_unit(x) - _unit(x).mean(0)).T
            ),
            "you multiply without normalising: divide each centred vector by its norm": lambda x: (
                (x - x.mean(0)) @ (x - x.mean(0)).T
            ),
        },
    )


@grader
def test_pca_decompose_persona_vectors(pca_decompose_persona_vectors: Callable[..., Any]) -> None:
    """Axis by its definition; PCA of the stacked vectors, up to the sign of each component."""
    for seed in (0, 1):
        vectors = _vectors(d=9, seed=seed)
        found = pca_decompose_persona_vectors(dict(vectors), list(_DEFAULTS))
        check(
            isinstance(found, tuple) and len(found) == 3,
            "Expected (assistant_axis, pca_coords, pca).",
        )
        axis, coords, pca = found
        _check_axis(axis, vectors)
        _check_pca(coords, pca, torch.stack(list(vectors.values())).double())


def _check_axis(axis: Any, vectors: dict[str, Tensor]) -> None:
    axis = check_tensor(axis, (9,), "the axis")
    defaults = torch.stack([vectors[n] for n in _DEFAULTS]).double().mean(0)
    roles = torch.stack([v for n, v in vectors.items() if n not in _DEFAULTS]).double().mean(0)
    unit = (defaults - roles) / (defaults - roles).norm()
    check_close(
        axis,
        [unit],
        "the axis",
        {
            "the sign is flipped: mean(default) - mean(roles) points towards the Assistant": lambda: -unit,
            "it is not of unit norm: divide by its norm": lambda: defaults - roles,
            "the sign is flipped, and it is not of unit norm": lambda: roles - defaults,
            "it is the first default only": lambda: _first_default_axis(vectors, roles),
        },
        tolerance=tolerance(torch.float32, exact=1e-4),
    )


def _first_default_axis(vectors: dict[str, Tensor], roles: Tensor) -> Tensor:
    difference = vectors[_DEFAULTS[0]].double() - roles
    return difference / difference.norm()


def _check_pca(coords: Any, pca: Any, stacked: Tensor) -> None:
    coords = np.asarray(coords.detach() if isinstance(coords, Tensor) else coords, dtype=float)
    check(
        coords.shape == (len(_NAMES), 2),
        f"pca_coords: expected shape {(len(_NAMES), 2)}, one row a persona, found {coords.shape}. Is the matrix you "
        "fitted transposed?",
    )
    _, singular, directions = np.linalg.svd((stacked - stacked.mean(0)).numpy(), full_matrices=False)
    for k in range(2):
        expected = (stacked - stacked.mean(0)).numpy() @ directions[k]
        sign = np.sign(expected @ coords[:, k]) or 1.0
        check_close(
            torch.tensor(sign * coords[:, k]),
            [torch.tensor(expected)],
            f"pca_coords, component {k + 1} (its sign is free)",
            {
                "you fitted unit vectors: fit the vectors as they are": partial(_unit_coords, stacked, k),
                "you projected without centring": partial(_uncentred_coords, stacked, torch.tensor(directions[k])),
            },
        )
    components = np.asarray(getattr(pca, "components_", np.empty(0)), dtype=float)
    check(
        components.ndim == 2 and components.shape[0] >= 2 and components.shape[1] == stacked.shape[1],
        f"The third value must be the fitted sklearn PCA with components of length {stacked.shape[1]}, found "
        f"components of shape {components.shape}.",
    )
    share = (singular**2 / (singular**2).sum())[:2]
    check(
        np.allclose(pca.explained_variance_ratio_[:2], share, atol=1e-4),
        f"explained_variance_ratio_: expected {share.round(3)}, found {pca.explained_variance_ratio_[:2].round(3)}. "
        "Fit the PCA on all persona vectors, one row each.",
    )


def _uncentred_coords(stacked: Tensor, direction: Tensor) -> list[Tensor]:
    return [stacked @ direction, -stacked @ direction]


def _unit_coords(stacked: Tensor, k: int) -> list[Tensor]:
    x = _unit(stacked)
    _, _, directions = np.linalg.svd((x - x.mean(0)).numpy(), full_matrices=False)
    coords = (x - x.mean(0)) @ torch.tensor(directions[k])
    return [coords, -coords]


@grader
def test_characterize_axis(characterize_axis: Callable[..., dict[str, float]]) -> None:
    """Cosines with the axis, least Assistant-like first."""
    vectors = _vectors(d=9, seed=3)
    axis = 4 * torch.randn(9, generator=torch.Generator().manual_seed(4))
    found = characterize_axis(dict(vectors), axis)
    check(isinstance(found, dict), f"Expected a dict of cosines by persona, found {type(found).__name__}.")
    check(set(found) == set(vectors), f"Expected the personas {sorted(vectors)}, found {sorted(found)}.")
    stacked = torch.stack(list(vectors.values())).double()
    dots = stacked @ axis.double()
    values = torch.tensor([float(found[name]) for name in vectors], dtype=torch.float64)
    check_close(
        values,
        [dots / stacked.norm(dim=1) / axis.double().norm()],
        "the values",
        {
            "they are dot products: divide by both norms": lambda: dots,
            "only the vectors are normalised, not the axis": lambda: dots / stacked.norm(dim=1),
            "only the axis is normalised, not the vectors": lambda: dots / axis.double().norm(),
            "the mean persona was subtracted: use the vectors as they are given": lambda: torch.cosine_similarity(
                stacked - stacked.mean(0), axis.double()[None], dim=1
            ),
        },
        tolerance=tolerance(torch.float32, exact=1e-4),
    )
    check(
        all(isinstance(v, float) for v in found.values()),
        f"The values must be Python floats, found {type(next(iter(found.values()))).__name__}. Use .item().",
    )
    order = list(found.values())
    check(
        order == sorted(order),
        "The personas must come in ascending order of cosine, the least Assistant-like first"
        + (": yours descend." if order == sorted(order, reverse=True) else "."),
    )
