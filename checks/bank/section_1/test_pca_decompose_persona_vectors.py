import numpy as np
import pandas as pd
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


@right
def with_pandas(persona_vectors, default_personas):
    """A table with a row for each persona; coordinates as a table, too."""
    table = pd.DataFrame({name: v.numpy() for name, v in persona_vectors.items()}).T
    means = table.groupby(table.index.isin(default_personas)).mean()
    axis = torch.tensor((means.loc[True] - means.loc[False]).to_numpy())
    pca = PCA(n_components=2, svd_solver="full").fit(table.to_numpy())
    return axis / axis.norm(), pd.DataFrame(pca.transform(table.to_numpy()), index=table.index), pca


@right
def by_hand_with_more_components(persona_vectors, default_personas):
    """Coordinates from the singular vectors; the PCA is fitted for its own sake."""
    stacked = stack(persona_vectors)
    pca = PCA(n_components=4).fit(stacked.numpy())
    u, s, _ = torch.linalg.svd(stacked - stacked.mean(0), full_matrices=False)
    return axis_of(persona_vectors, default_personas), (u * s)[:, :2].numpy(), pca


@right
def arena_style(persona_vectors, default_personas):
    names = list(persona_vectors.keys())
    vectors = torch.stack([persona_vectors[name].float() for name in names])
    default_vecs = [persona_vectors[n] for n in names if n in default_personas]
    role_vecs = [persona_vectors[n] for n in names if n not in default_personas]
    axis = torch.stack(default_vecs).mean(dim=0) - torch.stack(role_vecs).mean(dim=0)
    pca = PCA(n_components=2)
    return axis / axis.norm(), pca.fit_transform(vectors.numpy()), pca


@wrong("sign is flipped, and it is not of unit norm")
def flipped_and_long(persona_vectors, default_personas):
    inside = torch.stack([v for n, v in persona_vectors.items() if n in default_personas]).mean(0)
    outside = torch.stack([v for n, v in persona_vectors.items() if n not in default_personas]).mean(0)
    return outside - inside, *pca_of(stack(persona_vectors))


@wrong("the axis: wrong values")
def first_component_as_the_axis(persona_vectors, default_personas):
    coords, pca = pca_of(stack(persona_vectors))
    return torch.tensor(pca.components_[0], dtype=torch.float32), coords, pca


@wrong("the axis: wrong values")
def mean_of_unit_vectors(persona_vectors, default_personas):
    unit = {n: F.normalize(v, dim=0) for n, v in persona_vectors.items()}
    return axis_of(unit, default_personas), *pca_of(stack(persona_vectors))


@wrong("the axis: expected a torch.Tensor")
def axis_of_numpy(persona_vectors, default_personas):
    return axis_of(persona_vectors, default_personas).numpy(), *pca_of(stack(persona_vectors))


@wrong("pca_coords, component")
def whitened(persona_vectors, default_personas):
    pca = PCA(n_components=2, whiten=True)
    return axis_of(persona_vectors, default_personas), pca.fit_transform(stack(persona_vectors).numpy()), pca


@wrong("pca_coords, component")
def components_in_the_other_order(persona_vectors, default_personas):
    coords, pca = pca_of(stack(persona_vectors))
    return axis_of(persona_vectors, default_personas), coords[:, ::-1], pca


@wrong("expected shape")
def three_columns(persona_vectors, default_personas):
    pca = PCA(n_components=3)
    return axis_of(persona_vectors, default_personas), pca.fit_transform(stack(persona_vectors).numpy()), pca


@wrong("fitted sklearn PCA")
def coordinates_twice(persona_vectors, default_personas):
    coords, _ = pca_of(stack(persona_vectors))
    return axis_of(persona_vectors, default_personas), coords, coords


@wrong("pca_coords, component")
def rows_in_the_order_of_the_names(persona_vectors, default_personas):
    coords, pca = pca_of(stack(dict(sorted(persona_vectors.items()))))
    return axis_of(persona_vectors, default_personas), coords, pca


@wrong("explained_variance_ratio|fitted sklearn PCA")
def fitted_on_something_else(persona_vectors, default_personas):
    coords, _ = pca_of(stack(persona_vectors))
    _, other = pca_of(stack(persona_vectors)[:4])
    return axis_of(persona_vectors, default_personas), coords, other
