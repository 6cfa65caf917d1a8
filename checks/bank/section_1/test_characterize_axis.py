import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from checks.bank import right, wrong


@right
def argsort(persona_vectors, assistant_axis):
    names = list(persona_vectors)
    stacked = torch.stack([persona_vectors[n] for n in names])
    cosines = F.normalize(stacked, dim=1) @ F.normalize(assistant_axis, dim=0)
    return {names[i]: float(cosines[i]) for i in cosines.argsort().tolist()}


@wrong("ascending")
def descending(persona_vectors, assistant_axis):
    return dict(reversed(argsort(persona_vectors, assistant_axis).items()))


@wrong("ascending")
def unsorted(persona_vectors, assistant_axis):
    found = argsort(persona_vectors, assistant_axis)
    return {name: found[name] for name in persona_vectors}


@wrong("dot products")
def dot_product(persona_vectors, assistant_axis):
    found = {n: float(v @ assistant_axis) for n, v in persona_vectors.items()}
    return dict(sorted(found.items(), key=lambda item: item[1]))


@wrong("not the vectors")
def projection(persona_vectors, assistant_axis):
    unit = F.normalize(assistant_axis, dim=0)
    return dict(sorted(((n, float(v @ unit)) for n, v in persona_vectors.items()), key=lambda item: item[1]))


@wrong("not the axis")
def axis_left_long(persona_vectors, assistant_axis):
    found = {n: float(F.normalize(v, dim=0) @ assistant_axis) for n, v in persona_vectors.items()}
    return dict(sorted(found.items(), key=lambda item: item[1]))


@wrong("Python floats")
def tensors(persona_vectors, assistant_axis):
    return {n: torch.tensor(x) for n, x in argsort(persona_vectors, assistant_axis).items()}


@right
def with_pandas(persona_vectors, assistant_axis):
    table = pd.DataFrame({name: v.numpy() for name, v in persona_vectors.items()})
    axis = assistant_axis.numpy()
    cosines = (table.T @ axis) / (np.linalg.norm(table, axis=0) * np.linalg.norm(axis))
    return cosines.sort_values().to_dict()


@right
def numbers_of_numpy(persona_vectors, assistant_axis):
    found = {n: np.float32(F.cosine_similarity(v, assistant_axis, dim=0)) for n, v in persona_vectors.items()}
    return {n: found[n] for n in sorted(found, key=found.get)}


@right
def arena_style(persona_vectors, assistant_axis):
    axis_norm = assistant_axis / assistant_axis.norm()
    similarities = {name: (vec / vec.norm() @ axis_norm).item() for name, vec in persona_vectors.items()}
    return dict(sorted(similarities.items(), key=lambda pair: pair[1]))


def scores(words, score, order=lambda found: sorted(found, key=found.get)):
    """A wrong solution with another score or another order."""

    def solution(persona_vectors, assistant_axis):
        found = {name: float(score(v, assistant_axis, persona_vectors)) for name, v in persona_vectors.items()}
        return {name: found[name] for name in order(found)}

    solution.__module__ = __name__
    return wrong(words)(solution)


def cosine(v, axis, others=None):
    return F.cosine_similarity(v, axis, dim=0)


by_size = scores("ascending", cosine, lambda found: sorted(found, key=lambda n: abs(found[n])))
by_name = scores("ascending", cosine, sorted)
angles = scores("wrong values", lambda v, axis, others: torch.acos(cosine(v, axis)))
distances = scores("wrong values", lambda v, axis, others: 1 - cosine(v, axis))
without_the_mean = scores(
    "mean persona was subtracted", lambda v, axis, others: cosine(v - torch.stack([*others.values()]).mean(0), axis)
)
flipped = scores("wrong values", lambda v, axis, others: -cosine(v, axis))
squared_norms = scores("wrong values", lambda v, axis, others: v @ axis / (v @ v))
two_ends = scores(
    "one cosine for each persona",
    cosine,
    lambda found: [*sorted(found, key=found.get)[:2], *sorted(found, key=found.get)[-2:]],
)


@wrong("expected a dict")
def a_sorted_list(persona_vectors, assistant_axis):
    return list(argsort(persona_vectors, assistant_axis).items())


@wrong("expected a dict|Python floats")
def names_by_cosine(persona_vectors, assistant_axis):
    return sorted(argsort(persona_vectors, assistant_axis))
