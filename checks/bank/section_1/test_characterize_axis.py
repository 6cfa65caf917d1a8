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
