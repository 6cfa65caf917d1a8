import torch
import torch.nn.functional as F

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
