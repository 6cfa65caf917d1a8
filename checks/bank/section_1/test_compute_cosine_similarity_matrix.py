import torch
import torch.nn.functional as F
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


@wrong("expected a torch.Tensor")
def numpy_matrix(persona_vectors):
    matrix, names = by_pairs(persona_vectors)
    return matrix.numpy(), names
