"""Cosine similarities of named vectors: right and wrong matrices, and what a function that returns one must do."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from graders.harness.cases import Case, called_with, check_form
from graders.harness.differences import difference, same
from graders.harness.expect import check, check_close, check_tensor
from personalab.lm.tiny import drawn

NAMES = ["zebra", "default", "ant", "assistant", "moon", "bard", "helper"]  # in an order that is not alphabetical
DEFAULTS = ["default", "assistant", "helper"]

Rows = Float[Tensor, "n d"]
Matrix = Float[Tensor, "n n"]
Mistakes = dict[str, Callable[[], Tensor | list[Tensor]]]

NOT_NORMALISED = "you multiply without normalising: divide each vector by its norm"
WRONG_DIMENSION = "you normalise along the wrong dimension"
NO_SIGN = "negative similarities were lost"


def persona_vectors(seed: int, d: int = 12) -> dict[str, Float[Tensor, "d"]]:
    """Vectors of different norms around a common mean."""
    generator = torch.Generator().manual_seed(drawn(seed))
    common = 5 * torch.randn(d, generator=generator)
    return {
        name: (common + (1 + i) * torch.randn(d, generator=generator)) * (1 + 0.3 * i) for i, name in enumerate(NAMES)
    }


def unit(rows: Rows) -> Rows:
    """Each of norm 1."""
    return rows / rows.norm(dim=1, keepdim=True)


def centred(rows: Rows) -> Rows:
    """Without their mean."""
    return rows - rows.mean(0)


def products(rows: Rows) -> Matrix:
    """Dot products of all pairs."""
    return rows @ rows.T


def cosines(rows: Rows) -> Matrix:
    """Of all pairs."""
    return products(unit(rows))


def over_vectors(rows: Rows) -> Matrix:
    """What `WRONG_DIMENSION` gives."""
    return products(rows / rows.norm(dim=0, keepdim=True))


def similarity_case(
    what: str,
    vectors: dict[str, Tensor],
    right: Matrix,
    mistakes: Mistakes,
    *options: Any,
    hint: str = "",
    arrays: bool = False,
) -> Case:
    """The work, called with the vectors and other options, must give the right matrix and the names of its rows.

    Args:
        arrays: whether one of numpy's will do, since nothing but its values matters afterwards.
    """
    names = list(vectors)

    def judge(observed: Any) -> None:
        found, (after, *_) = observed
        check_form(found, tuple, 2, "expected a tuple (matrix, names)")
        matrix, found_names = found
        check(
            isinstance(found_names, list | tuple) and list(found_names) == names,
            f"the names are not in the order of the dict: {difference(names, found_names)}. Return `list(vectors)`, "
            "and don't sort: the names say which row is which.",
        )
        matrix = torch.tensor(matrix) if arrays and isinstance(matrix, np.ndarray) else matrix
        matrix = check_tensor(matrix, (len(names), len(names)), "the matrix")
        changed = "you changed the vectors you were given. Work on copies: `v / v.norm()`, no `/=` or `-=`."
        check(same(vectors, after), changed)
        check_close(matrix, [right], "the matrix", mistakes)

    return Case(what, called_with(vectors, *options), judge, hint)
