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
