import einops
import numpy as np
import torch
import torch.nn.functional as F

from checks.bank import right, wrong


@right
def difference_first(train_activations, base_activations, trait_vector):
    v = F.normalize(trait_vector.float(), dim=0)
    return (train_activations.float() - base_activations.float()) @ v


@right
def each_projected(train_activations, base_activations, trait_vector):
    v = trait_vector.float() / trait_vector.float().norm()
    return train_activations.float() @ v - base_activations.float() @ v


@right
def row_by_row(train_activations, base_activations, trait_vector):
    found = []
    for train, base in zip(train_activations.double(), base_activations.double(), strict=True):
        found.append(torch.dot(train - base, trait_vector.double()) / trait_vector.double().norm())
    return torch.stack(found)


@right
def with_einops(train_activations, base_activations, trait_vector):
    both = einops.rearrange([train_activations.float(), base_activations.float()], "side n d -> side n d")
    along = einops.einsum(both, F.normalize(trait_vector.float(), dim=-1), "side n d, d -> side n")
    return einops.einsum(along, torch.tensor([1.0, -1.0]), "side n, side -> n")


@right
def in_numpy(train_activations, base_activations, trait_vector):
    train, base, v = (x.double().numpy() for x in (train_activations, base_activations, trait_vector))
    return torch.from_numpy((train - base) @ (v / np.linalg.norm(v))).float()


@wrong("expected float32, found torch.bfloat16.*convert")
def in_the_models_dtype(train_activations, base_activations, trait_vector):
    v = F.normalize(trait_vector, dim=0).to(train_activations.dtype)
    return (train_activations - base_activations) @ v


@wrong("not normalised")
def raw(train_activations, base_activations, trait_vector):
    return (train_activations.float() - base_activations.float()) @ trait_vector.float()


@wrong("squared norm")
def twice(train_activations, base_activations, trait_vector):
    v = trait_vector.float()
    return (train_activations.float() - base_activations.float()) @ v / (v @ v)


@wrong("sign is flipped")
def flipped(train_activations, base_activations, trait_vector):
    return difference_first(base_activations, train_activations, trait_vector)


@wrong("training activations alone")
def train_alone(train_activations, base_activations, trait_vector):
    return train_activations.float() @ F.normalize(trait_vector.float(), dim=0)


@wrong("found one number")
def mean_of_all(train_activations, base_activations, trait_vector):
    return difference_first(train_activations, base_activations, trait_vector).mean()


@wrong("found one number")
def a_float(train_activations, base_activations, trait_vector):
    return difference_first(train_activations, base_activations, trait_vector).mean().item()


@wrong("cosine")
def cosines(train_activations, base_activations, trait_vector):
    return F.cosine_similarity(train_activations.float() - base_activations.float(), trait_vector.float()[None], dim=1)


@wrong("sign is lost")
def absolute(train_activations, base_activations, trait_vector):
    return difference_first(train_activations, base_activations, trait_vector).abs()


@wrong("subtract the base's mean")
def mean_base(train_activations, base_activations, trait_vector):
    v = F.normalize(trait_vector.float(), dim=0)
    return (train_activations.float() - base_activations.float().mean(0)) @ v


@wrong("nothing is centred")
def centred(train_activations, base_activations, trait_vector):
    found = difference_first(train_activations, base_activations, trait_vector)
    return found - found.mean()


@wrong("length of the difference")
def distances(train_activations, base_activations, trait_vector):
    return (train_activations.float() - base_activations.float()).norm(dim=1)


@wrong("in place")
def in_place(train_activations, base_activations, trait_vector):
    train_activations -= base_activations
    return train_activations.float() @ F.normalize(trait_vector.float(), dim=0)


@wrong("expected a torch.Tensor, found list")
def a_list(train_activations, base_activations, trait_vector):
    return difference_first(train_activations, base_activations, trait_vector).tolist()


def otherwise(words, change):
    """A wrong solution in a line: `change(train, base, v)`."""

    def solution(train_activations, base_activations, trait_vector):
        return change(train_activations.float(), base_activations.float(), trait_vector.float())

    solution.__module__ = __name__
    return wrong(words)(solution)


base_alone = otherwise("base's activations alone", lambda a, b, v: b @ v / v.norm())
over_rows = otherwise("expected shape|wrong values|Error", lambda a, b, v: (a - b).mean(0) * v / v.norm())
next_row = otherwise("wrong values", lambda a, b, v: (a - b.roll(1, 0)) @ v / v.norm())
ratio = otherwise("wrong values", lambda a, b, v: (a @ v) / (b @ v))
z_scores = otherwise("wrong values|NaN", lambda a, b, v: standardised((a - b) @ v))
unit_rows = otherwise("cosine", lambda a, b, v: (F.normalize(a, dim=1) - F.normalize(b, dim=1)) @ v / v.norm())
root_of_the_width = otherwise("wrong values", lambda a, b, v: (a - b) @ v / len(v) ** 0.5)
column = otherwise("expected shape", lambda a, b, v: ((a - b) @ v / v.norm())[:, None])
cut_off = otherwise("wrong values", lambda a, b, v: ((a - b) @ v / v.norm()).clamp(min=0))
wrong_axis = otherwise("wrong values|Error", lambda a, b, v: v @ (a - b) / v.norm())


def standardised(values):
    return (values - values.mean()) / values.std(correction=0)
