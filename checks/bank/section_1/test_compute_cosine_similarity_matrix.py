import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from einops import einsum, pack
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import cosine_similarity

from checks.bank import right, wrong


@right
def by_pairs(persona_vectors):
    names = list(persona_vectors)
    rows = [[F.cosine_similarity(persona_vectors[a], persona_vectors[b], dim=0).item() for b in names] for a in names]
    return torch.tensor(rows), names


@right
def with_sklearn(persona_vectors):
    stacked = torch.stack(list(persona_vectors.values()))
    return torch.from_numpy(cosine_similarity(stacked.numpy())), list(persona_vectors.keys())


@wrong("without normalising")
def dot_products(persona_vectors):
    stacked = torch.stack(list(persona_vectors.values()))
    return stacked @ stacked.T, list(persona_vectors)


@wrong("wrong dimension")
def normalised_over_personas(persona_vectors):
    stacked = F.normalize(torch.stack(list(persona_vectors.values())), dim=0)
    return stacked @ stacked.T, list(persona_vectors)


@wrong("order of the dict")
def sorted_names(persona_vectors):
    return by_pairs(dict(sorted(persona_vectors.items())))


@wrong("you centred")
def centred(persona_vectors):
    mean = torch.stack(list(persona_vectors.values())).mean(0)
    return by_pairs({name: v - mean for name, v in persona_vectors.items()})


@wrong("changed the vectors")
def in_place(persona_vectors):
    for vector in persona_vectors.values():
        vector.div_(vector.norm())
    return by_pairs(persona_vectors)


@right
def with_scipy(persona_vectors):
    """A matrix of numpy's will do: the notebook draws it."""
    stacked = np.stack([v.numpy() for v in persona_vectors.values()])
    return 1 - cdist(stacked, stacked, "cosine"), tuple(persona_vectors)


@right
def with_einops(persona_vectors):
    stacked, _ = pack(list(persona_vectors.values()), "* d")
    unit = stacked / einsum(stacked, stacked, "p d, p d -> p").sqrt()[:, None]
    return einsum(unit, unit, "p d, q d -> p q"), list(persona_vectors)


@right
def arena_style(persona_vectors):
    names = list(persona_vectors.keys())
    vectors = torch.stack([persona_vectors[name].float() for name in names])
    vectors_norm = vectors / vectors.norm(dim=1, keepdim=True)
    return vectors_norm @ vectors_norm.T, names


def changed(words, change):
    """A wrong solution that makes something else of the right matrix and names."""

    def solution(persona_vectors):
        return change(*by_pairs(persona_vectors))

    solution.__module__ = __name__
    return wrong(words)(solution)


absolute = changed("negative similarities|wrong values", lambda matrix, names: (matrix.abs() + 0.1, names))
distances = changed("wrong values", lambda matrix, names: (1 - matrix, names))
diagonal_blanked = changed("wrong values", lambda matrix, names: (matrix - torch.eye(len(names)), names))
upper_triangle = changed("wrong values", lambda matrix, names: (matrix.triu(), names))
matrix_alone = changed("expected a tuple", lambda matrix, names: matrix)
names_first = changed("expected a torch.Tensor|names", lambda matrix, names: (names, matrix))
a_data_frame = changed(
    "expected a torch.Tensor", lambda matrix, names: (pd.DataFrame(matrix.numpy(), names, names), names)
)
lists = changed("expected a torch.Tensor", lambda matrix, names: (matrix.tolist(), names))


@wrong("wrong values")
def correlations(persona_vectors):
    stacked = torch.stack(list(persona_vectors.values()))
    return torch.corrcoef(stacked), list(persona_vectors)


@wrong("wrong values")
def divided_by_the_largest_norm(persona_vectors):
    stacked = torch.stack(list(persona_vectors.values()))
    return stacked @ stacked.T / stacked.norm(dim=1).max() ** 2, list(persona_vectors)
