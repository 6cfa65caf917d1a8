"""Section 1: the Assistant Axis, and the two directions along which personas differ most."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from graders.harness import Case, called_with, check, check_close, check_tensor, grader, tolerance
from graders.harness.cases import check_form
from graders.harness.similarity import DEFAULTS, NAMES, centred, persona_vectors, unit

_D = 9


@grader
def test_pca_decompose_persona_vectors() -> Iterator[Case]:
    """Axis by its definition; PCA of the stacked vectors, up to the sign of each component."""
    for seed in (0, 1):
        vectors = persona_vectors(seed, _D)
        yield Case(f"{len(vectors)} persona vectors", partial(_decomposed, vectors), partial(_check, vectors))


def _decomposed(vectors: dict[str, Tensor], work: Any) -> Any:
    """Axis, coordinates as an array, and what the PCA has learnt."""
    found, _ = called_with(vectors, DEFAULTS)(work)
    if not isinstance(found, tuple) or len(found) != 3:
        return found
    axis, coords, pca = found
    coords = np.asarray(coords.detach() if isinstance(coords, Tensor) else coords, dtype=float)
    learnt = [getattr(pca, name, []) for name in ("components_", "explained_variance_ratio_")]
    return axis, coords, [np.asarray(values, dtype=float) for values in learnt]


def _check(vectors: dict[str, Tensor], found: Any) -> None:
    check_form(found, tuple, 3, "expected a tuple (assistant_axis, pca_coords, pca)")
    axis, coords, (components, ratio) = found
    defaults = torch.stack([vectors[n] for n in DEFAULTS]).double()
    roles = torch.stack([v for n, v in vectors.items() if n not in DEFAULTS]).double().mean(0)
    right, first = defaults.mean(0) - roles, defaults[0] - roles
    towards_assistant = right / right.norm()
    mistakes = {
        "the sign is flipped: mean(default) - mean(roles) points towards the Assistant": towards_assistant.neg,
        "it is not of unit norm: divide by its norm": lambda: right,
        "the sign is flipped, and it is not of unit norm": lambda: -right,
        "it is the first default only": lambda: first / first.norm(),
    }
    exact, axis = tolerance(torch.float32, exact=1e-4), check_tensor(axis, (_D,), "the axis")
    check_close(axis, [towards_assistant], "the axis", mistakes, exact)
    _check_pca(coords, components, ratio, torch.stack(list(vectors.values())).double())


def _check_pca(
    coords: np.ndarray, components: np.ndarray, ratio: np.ndarray, stacked: Float[Tensor, "personas d"]
) -> None:
    form = (len(NAMES), 2)
    check(
        coords.shape == form,
        f"pca_coords: expected shape {form}, one row a persona, found {coords.shape}. Is the matrix you fitted "
        "transposed?",
    )
    directions, share = _pca(stacked)
    for k in range(2):
        right, uncentred = centred(stacked) @ directions[k], stacked @ directions[k]
        units = centred(unit(stacked)) @ _pca(unit(stacked))[0][k]
        column = torch.tensor(coords[:, k])
        mistakes = {
            "you fitted unit vectors: fit the vectors as they are": lambda a=units: [a, -a],
            "you projected without centring": lambda a=uncentred: [a, -a],
        }
        positive = column * (torch.sign(right @ column).item() or 1.0)
        check_close(positive, [right], f"pca_coords, component {k + 1} (its sign is free)", mistakes)
    check(
        components.ndim == 2 and components.shape[0] >= 2 and components.shape[1] == _D,
        f"the third value must be the fitted sklearn PCA with components of length {_D}, found components of shape "
        f"{components.shape}.",
    )
    check(
        np.allclose(ratio[:2], share[:2], atol=1e-4),
        f"explained_variance_ratio_: expected {share[:2].round(4)}, found {ratio[:2].round(4)}. Fit the PCA on all "
        "persona vectors, one row each.",
    )


def _pca(rows: Float[Tensor, "personas d"]) -> tuple[Float[Tensor, "k d"], np.ndarray]:
    """Directions, the one of the largest variance first, and their shares of it."""
    _, singular, directions = np.linalg.svd(centred(rows).numpy(), full_matrices=False)
    return torch.tensor(directions), singular**2 / (singular**2).sum()
