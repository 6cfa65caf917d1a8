import pandas as pd
import torch
import torch.nn.functional as F
from einops import reduce
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import StandardScaler

from checks.bank import right, wrong
from checks.bank.section_1.test_compute_cosine_similarity_matrix import by_pairs


@right
def einsum(persona_vectors):
    stacked = torch.stack([v.double() for v in persona_vectors.values()])
    unit = F.normalize(stacked - stacked.mean(0, keepdim=True), dim=-1)
    return torch.einsum("id,jd->ij", unit, unit).float(), list(persona_vectors)


@wrong("centre per vector")
def per_vector(persona_vectors):
    return by_pairs({name: v - v.mean() for name, v in persona_vectors.items()})


@wrong("nothing was centred")
def plain(persona_vectors):
    return by_pairs(persona_vectors)


@wrong("normalise before centring")
def normalised_first(persona_vectors):
    unit = {name: F.normalize(v, dim=0) for name, v in persona_vectors.items()}
    mean = torch.stack(list(unit.values())).mean(0)
    return by_pairs({name: v - mean for name, v in unit.items()})


@wrong("without normalising")
def covariance(persona_vectors):
    stacked = torch.stack(list(persona_vectors.values()))
    stacked = stacked - stacked.mean(0)
    return stacked @ stacked.T, list(persona_vectors)


@wrong("changed the vectors")
def in_place(persona_vectors):
    mean = torch.stack(list(persona_vectors.values())).mean(0)
    for vector in persona_vectors.values():
        vector -= mean
    return by_pairs(persona_vectors)


@wrong("order of the dict")
def sorted_names(persona_vectors):
    return einsum(dict(sorted(persona_vectors.items())))


@right
def with_sklearn(persona_vectors):
    stacked = torch.stack(list(persona_vectors.values())).numpy()
    return cosine_similarity(StandardScaler(with_std=False).fit_transform(stacked)), list(persona_vectors)


@right
def with_pandas(persona_vectors):
    table = pd.DataFrame({name: v.numpy() for name, v in persona_vectors.items()}).T
    centred = table - table.mean()
    unit = centred.div((centred**2).sum(axis=1) ** 0.5, axis=0)
    return torch.tensor((unit @ unit.T).to_numpy()), list(table.index)


@right
def arena_style(persona_vectors):
    names = list(persona_vectors.keys())
    vectors = torch.stack([persona_vectors[name].float() for name in names])
    vectors = vectors - reduce(vectors, "p d -> 1 d", "mean")
    vectors_norm = vectors / vectors.norm(dim=1, keepdim=True)
    return vectors_norm @ vectors_norm.T, names


def less(words, centre):
    """A wrong solution that subtracts something else."""

    def solution(persona_vectors):
        stacked = torch.stack(list(persona_vectors.values()))
        unit = F.normalize(stacked - centre(stacked), dim=1)
        return unit @ unit.T, list(persona_vectors)

    solution.__module__ = __name__
    return wrong(words)(solution)


median = less("wrong values", lambda x: x.median(0).values)
grand_mean = less("wrong values", lambda x: x.mean())
both_means = less("wrong values", lambda x: x.mean(0) + x.mean(1, keepdim=True) - x.mean())
summed = less("wrong values", lambda x: x.sum(0))
added = less("wrong values", lambda x: -x.mean(0))
mean_direction = less("wrong values", lambda x: F.normalize(x.mean(0), dim=0))
first_persona = less("wrong values|NaN", lambda x: x[:1] * 0.999)


@wrong("wrong values")
def divided_by_the_spread(persona_vectors):
    stacked = torch.stack(list(persona_vectors.values()))
    unit = F.normalize((stacked - stacked.mean(0)) / stacked.std(0), dim=1)
    return unit @ unit.T, list(persona_vectors)


@wrong("wrong values")
def plain_matrix_centred(persona_vectors):
    matrix, names = by_pairs(persona_vectors)
    return matrix - matrix.mean(0), names
