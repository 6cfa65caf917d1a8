import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA

from checks.bank import right, wrong


def axis_of(vectors, defaults):
    inside = torch.stack([v for n, v in vectors.items() if n in defaults]).mean(0)
    outside = torch.stack([v for n, v in vectors.items() if n not in defaults]).mean(0)
    return F.normalize(inside - outside, dim=0)


def pca_of(matrix):
    pca = PCA(n_components=2)
    return pca.fit_transform(np.asarray(matrix)), pca


def stack(vectors):
    return torch.stack(list(vectors.values()))


@right
def signs_flipped_and_tensor_coords(persona_vectors, default_personas):
    coords, pca = pca_of(stack(persona_vectors))
    pca.components_ *= -1
    return axis_of(persona_vectors, default_personas), torch.tensor(-coords), pca


@right
def all_components(persona_vectors, default_personas):
    pca = PCA().fit(stack(persona_vectors).double().numpy())
    coords = pca.transform(stack(persona_vectors).double().numpy())[:, :2]
    return axis_of(persona_vectors, set(default_personas)), coords, pca


@wrong("sign is flipped")
def flipped(persona_vectors, default_personas):
    return -axis_of(persona_vectors, default_personas), *pca_of(stack(persona_vectors))


@right
def defaults_among_the_roles(persona_vectors, default_personas):
    """Not a mistake for a unit vector: mean(default) - mean(everyone) is mean(default) - mean(roles), only shorter."""
    inside = torch.stack([persona_vectors[n] for n in default_personas]).mean(0)
    return F.normalize(inside - stack(persona_vectors).mean(0), dim=0), *pca_of(stack(persona_vectors))


@wrong("not of unit norm|wrong values")
def defaults_among_the_roles_without_norm(persona_vectors, default_personas):
    inside = torch.stack([persona_vectors[n] for n in default_personas]).mean(0)
    return inside - stack(persona_vectors).mean(0), *pca_of(stack(persona_vectors))


@wrong("not of unit norm")
def not_unit(persona_vectors, default_personas):
    inside = torch.stack([v for n, v in persona_vectors.items() if n in default_personas]).mean(0)
    outside = torch.stack([v for n, v in persona_vectors.items() if n not in default_personas]).mean(0)
    return inside - outside, *pca_of(stack(persona_vectors))


@wrong("first default only")
def one_default(persona_vectors, default_personas):
    outside = torch.stack([v for n, v in persona_vectors.items() if n not in default_personas]).mean(0)
    axis = F.normalize(persona_vectors[default_personas[0]] - outside, dim=0)
    return axis, *pca_of(stack(persona_vectors))


@wrong("transposed")
def transposed(persona_vectors, default_personas):
    return axis_of(persona_vectors, default_personas), *pca_of(stack(persona_vectors).T)


@wrong("expected shape")
def roles_only(persona_vectors, default_personas):
    roles = torch.stack([v for n, v in persona_vectors.items() if n not in default_personas])
    return axis_of(persona_vectors, default_personas), *pca_of(roles)


@wrong("fitted unit vectors")
def unit_vectors(persona_vectors, default_personas):
    return axis_of(persona_vectors, default_personas), *pca_of(F.normalize(stack(persona_vectors), dim=1))


@wrong("without centring")
def projected_without_centring(persona_vectors, default_personas):
    _, pca = pca_of(stack(persona_vectors))
    coords = stack(persona_vectors).numpy() @ pca.components_.T
    return axis_of(persona_vectors, default_personas), coords, pca
