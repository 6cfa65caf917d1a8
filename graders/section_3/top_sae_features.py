"""Section 3: what a sparse autoencoder's features say about a vector."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from graders.harness import Case, called_with, check, check_close, grader, kind_of, same, tolerance
from graders.harness.expect import real, whole
from personalab.lm.tiny import drawn

_N, _D = 40, 12
_EXACT = tolerance(torch.float32, exact=1e-4)
_HINT = (
    "What the vector adds to a feature before the ReLU is its dot product with the feature's column of W_enc: the "
    "biases cancel in a difference of two states."
)

Vector = Float[Tensor, "d"]


class TinySAE(nn.Module):
    """A random autoencoder with the parts that sae-lens's have: ReLU, or the `keep` largest of it.

    `centred` says whether `encode` subtracts the decoder's bias from its input: some do, some don't.
    """

    def __init__(self, seed: int, centred: bool, keep: int | None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(drawn(seed))
        # Rows of different norms, and an encoder that is not the decoder transposed.
        rows = torch.randn(_N, _D, generator=generator) * (0.3 + 3 * torch.rand(_N, 1, generator=generator))
        self.W_dec = nn.Parameter(rows)
        self.W_enc = nn.Parameter(0.3 * rows.T + 0.5 * torch.randn(_D, _N, generator=generator))
        self.b_enc = nn.Parameter(3 * torch.randn(_N, generator=generator))
        self.b_dec = nn.Parameter(3 * torch.randn(_D, generator=generator))
        self.centred, self.keep = centred, keep

    def encode(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... n_features"]:
        """Feature activations of states (not of differences)."""
        centre = self.b_dec if self.centred else torch.zeros_like(self.b_dec)
        acts = ((x - centre) @ self.W_enc + self.b_enc).relu()
        if self.keep is None:
            return acts
        best = acts.topk(self.keep, dim=-1)
        return torch.zeros_like(acts).scatter(-1, best.indices, best.values)

    def decode(self, acts: Float[Tensor, "... n_features"]) -> Float[Tensor, "... d"]:
        """States from feature activations."""
        return acts @ self.W_dec + self.b_dec


@grader
def test_top_sae_features() -> Iterator[Case]:
    """What a difference of states adds to each feature, the largest first, and how its decoder row lies to it."""
    for seed, (centred, keep, k) in enumerate([(True, None, 5), (True, 8, 1), (False, None, 7)]):
        vector = 2 * torch.randn(_D, generator=torch.Generator().manual_seed(drawn(100 + seed)))
        yield _case(TinySAE(seed, centred, keep), vector, k)
    yield _case(TinySAE(3, True, None), 25 * vector, 6)
    yield _case(TinySAE(4, False, None), vector, _N)


def _case(sae: TinySAE, vector: Vector, k: int) -> Case:
    def observe(work: Any) -> tuple[Any, Vector, dict[str, Tensor]]:
        found, (used, given, _) = called_with(sae, vector, k)(work)
        return found, given, _weights(used)

    return Case(f"k={k}", observe, partial(_check, sae, vector, k))


def _weights(sae: TinySAE) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in sae.named_parameters()}


def _check(sae: TinySAE, vector: Vector, k: int, observed: tuple[Any, Vector, dict[str, Tensor]]) -> None:
    found, given, weights = observed
    check(same(given, vector), "your function changed the vector it was given.")
    check(same(weights, _weights(sae)), "your function changed the autoencoder's weights. Work on copies.")
    check(
        isinstance(found, list) and len(found) == k and all(isinstance(f, tuple) and len(f) == 3 for f in found),
        f"expected a list of {k} tuples (feature, activation, cosine), found {found!r:.200}.",
    )
    types = f"expected (int, float, float), found {tuple(map(kind_of, found[0]))}. Use .item()."
    check(all(whole(f) and real(a) and real(c) for f, a, c in found), types)
    features = [feature for feature, _, _ in found]
    check(
        len(set(features)) == k and all(0 <= f < _N for f in features),
        f"expected {k} different features, each an index from 0 to {_N - 1}, found {features}.",
    )
    activations, cosines = (torch.tensor([row[i] for row in found], dtype=torch.float64) for i in (1, 2))
    with torch.no_grad():
        exact = copy.deepcopy(sae).double()
        _check_activations(exact, vector.double(), features, activations)
        _check_cosines(exact, vector.double(), features, cosines)


def _check_activations(sae: TinySAE, vector: Vector, features: list[int], found: Float[Tensor, "k"]) -> None:
    sums = [sum(float(vector[i] * sae.W_enc[i, f]) for i in range(_D)) for f in range(_N)]
    right = torch.tensor(sums, dtype=torch.float64)
    check_close(
        found,
        [right[features]],
        f"the activations of features {features[:8]}",
        {why: partial(values.__getitem__, features) for why, values in _mistakes(sae, vector).items()},
        _EXACT,
        otherwise=_HINT,
    )
    best = right.argsort(descending=True)[: len(features)].tolist()
    check(features == best, f"expected the features {best}, found {features}. {_order(features, found.tolist(), best)}")


def _order(features: list[int], found: list[float], best: list[int]) -> str:
    """What is wrong where each activation is right."""
    if sorted(features) == sorted(best):
        return "These are the right features in another order: the largest activation comes first."
    sizes = [abs(a) for a in found]
    if min(found) < 0 < max(found) and sizes == sorted(sizes, reverse=True):
        return "It looks as if you sort by absolute value: the features that the vector adds to come first."
    if max(found) < 0:
        return "It looks as if you return the smallest activations: the largest come first."
    return "The activations are right, but these are not the features with the largest ones."


def _mistakes(sae: TinySAE, vector: Tensor) -> dict[str, Float[Tensor, "n_features"]]:
    """What may be taken for the activation."""
    state = "your vector went through `encode` as if it were a state"
    cancels = "the vector is a difference of two states, in which the biases cancel"
    linear = vector @ sae.W_enc
    return {
        f"{state}: that subtracts b_dec and adds b_enc, but {cancels}": sae.encode(vector),
        f"b_enc was added, by hand or by `encode`: {cancels}": linear + sae.b_enc,
        f"b_dec was subtracted: {cancels}": linear - sae.b_dec @ sae.W_enc,
        f"b_dec was subtracted and b_enc added: {cancels}": linear - sae.b_dec @ sae.W_enc + sae.b_enc,
        "you multiply by the decoder's rows: a feature is read off by its column of W_enc": vector @ sae.W_dec.T,
        "you normalise the vector first: its length is part of the activation": linear / vector.norm(),
        "the sign is flipped": -linear,
        "you cut at zero (ReLU): the activation is what the vector adds before the nonlinearity": linear.relu(),
        "you return absolute values: the sign says whether the vector adds to the feature": linear.abs(),
    }


def _check_cosines(sae: TinySAE, vector: Vector, features: list[int], found: Float[Tensor, "k"]) -> None:
    rows, columns = sae.W_dec[features], sae.W_enc.T[features]

    def cosine(rows: Float[Tensor, "k d"], vector: Vector) -> Callable[[], Float[Tensor, "k"]]:
        return partial(F.cosine_similarity, rows, vector[None], dim=1)

    mistakes: dict[str, Callable[[], Tensor | list[Tensor]]] = {
        "they are dot products: divide by both norms": lambda: rows @ vector,
        "only the vector is normalised: decoder rows are not unit vectors": lambda: rows @ vector / vector.norm(),
        "only the decoder rows are normalised: divide by the vector's norm too": lambda: (
            rows @ vector / rows.norm(dim=1)
        ),
        "they are cosines with the encoder's columns: take the rows of W_dec, which say what a feature writes": (
            cosine(columns, vector)
        ),
        "b_dec was subtracted from the vector: compare the vector as it is": cosine(rows, vector - sae.b_dec),
        "b_dec was added to the decoder rows: compare the rows as they are": cosine(rows + sae.b_dec, vector),
    }
    what = f"the cosines with the decoder rows of features {features[:8]}"
    otherwise = "Compare the vector with W_dec[feature]."
    check_close(found, [cosine(rows, vector)()], what, mistakes, _EXACT, otherwise=otherwise)
