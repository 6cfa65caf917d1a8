import einops
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics.pairwise import cosine_similarity

from checks.bank import right, wrong


def rows_of(vectors, layer):
    return torch.stack([v[layer] for v in vectors.values()])


def cosines(rows):
    unit = F.normalize(rows, dim=1)
    return unit @ unit.T


@right
def normalised(vectors, layer):
    return cosines(rows_of(vectors, layer)), list(vectors)


@right
def as_in_the_chapter(vectors, layer):
    """ARENA 4.4's way: extract the layer, then its cosine-similarity function."""
    layer_vectors = {name: v[layer] for name, v in vectors.items()}
    names = list(layer_vectors.keys())
    stacked = torch.stack([layer_vectors[n] for n in names]).float()
    normed = stacked / stacked.norm(dim=-1, keepdim=True)
    return normed @ normed.T, names


@right
def by_pairs(vectors, layer):
    rows = [[F.cosine_similarity(a[layer], b[layer], dim=0).item() for b in vectors.values()] for a in vectors.values()]
    return torch.tensor(rows), tuple(vectors)


@right
def in_double_precision(vectors, layer):
    matrix = cosine_similarity(np.stack([v[layer].numpy().astype(np.float64) for v in vectors.values()]))
    return torch.from_numpy(matrix), [*vectors.keys()]


@right
def with_einops(vectors, layer):
    rows = einops.rearrange([v[layer] for v in vectors.values()], "t d -> t d")
    products = einops.einsum(rows, rows, "a d, b d -> a b")
    lengths = einops.reduce(rows**2, "t d -> t", "sum").sqrt()
    return products / torch.outer(lengths, lengths), list(vectors)


@right
def half_and_its_mirror(vectors, layer):
    """A loop over pairs, each once, in numpy."""
    names, n = [*vectors], len(vectors)
    found = np.eye(n)
    for i in range(n):
        for j in range(i):
            a, b = (vectors[names[k]][layer].double().numpy() for k in (i, j))
            found[i, j] = found[j, i] = a @ b / np.sqrt((a @ a) * (b @ b))
    return torch.as_tensor(found, dtype=torch.float32), names


def matrix(words, make):
    """A wrong solution that differs in the matrix."""

    def solution(vectors, layer):
        return make(vectors, layer), list(vectors)

    solution.__module__ = __name__
    return wrong(words)(solution)


def dots(rows):
    return rows @ rows.T


dot_products = matrix("without normalising", lambda v, k: dots(rows_of(v, k)))
hidden_states_index = matrix(r"row layer - 1.*block index", lambda v, k: cosines(rows_of(v, max(k - 1, 0))))
one_block_up = matrix(r"row layer \+ 1.*block index", lambda v, k: cosines(rows_of(v, min(k + 1, 5))))
block_up_without_a_guard = matrix(r"row layer \+ 1.*block index|IndexError", lambda v, k: cosines(rows_of(v, k + 1)))
last_block = matrix("last block", lambda v, k: cosines(rows_of(v, -1)))
all_blocks = matrix("all blocks at once", lambda v, k: cosines(torch.stack([x.flatten() for x in v.values()])))
mean_block = matrix("average over blocks", lambda v, k: cosines(torch.stack([x.mean(0) for x in v.values()])))
mean_cosine = matrix(
    "average over blocks", lambda v, k: torch.stack([cosines(rows_of(v, i)) for i in range(6)]).mean(0)
)
norm_of_all_blocks = matrix(
    "norm over all blocks", lambda v, k: dots(torch.stack([x[k] / x.norm() for x in v.values()]))
)
over_traits = matrix("wrong dimension", lambda v, k: dots(F.normalize(rows_of(v, k), dim=0)))
one_side = matrix("one side only", lambda v, k: F.normalize(rows_of(v, k), dim=1) @ rows_of(v, k).T)
absolute = matrix("negative similarities", lambda v, k: cosines(rows_of(v, k)).abs())
centred = matrix("you centred", lambda v, k: cosines(rows_of(v, k) - rows_of(v, k).mean(0)))
numpy_matrix = matrix("expected a torch.Tensor", lambda v, k: cosines(rows_of(v, k)).numpy())
distances = matrix("wrong values", lambda v, k: torch.cdist(rows_of(v, k), rows_of(v, k)))
cosine_distances = matrix("wrong values", lambda v, k: 1 - cosines(rows_of(v, k)))
squared = matrix("wrong values", lambda v, k: cosines(rows_of(v, k)) ** 2)
angles = matrix("wrong values|NaN", lambda v, k: cosines(rows_of(v, k)).clamp(-1, 1).arccos())
upper_half = matrix("wrong values", lambda v, k: cosines(rows_of(v, k)).triu())
no_diagonal = matrix("wrong values", lambda v, k: cosines(rows_of(v, k)) - torch.eye(len(v)))
correlations = matrix("you centred", lambda v, k: torch.corrcoef(rows_of(v, k)).view(len(v), len(v)))
largest_norm = matrix("wrong values", lambda v, k: dots(rows_of(v, k) / rows_of(v, k).norm(dim=1).max()))
first_half_of_the_width = matrix("wrong values", lambda v, k: cosines(rows_of(v, k)[:, :5]))
counted_from_the_end = matrix("wrong values|last block|layer", lambda v, k: cosines(rows_of(v, -k)))
a_block_each = matrix("expected shape", lambda v, k: torch.stack([cosines(rows_of(v, i)) for i in range(6)]))
wrong_column = matrix(
    r"expected shape|wrong values|IndexError", lambda v, k: cosines(torch.stack([x[:, k] for x in v.values()]))
)


@wrong("order of the dict")
def sorted_names(vectors, layer):
    return normalised(dict(sorted(vectors.items())), layer)


@wrong("wrong values")
def names_do_not_match_the_rows(vectors, layer):
    return cosines(rows_of(dict(sorted(vectors.items())), layer)), list(vectors)


@wrong("order of the dict")
def names_lost(vectors, layer):
    return cosines(rows_of(vectors, layer)), list(range(len(vectors)))


@wrong("expected a tuple")
def matrix_only(vectors, layer):
    return cosines(rows_of(vectors, layer))


@wrong("changed the vectors")
def in_place(vectors, layer):
    for v in vectors.values():
        v /= v.norm(dim=-1, keepdim=True)
    return normalised(vectors, layer)


@wrong("changed the vectors")
def replaces_the_entries(vectors, layer):
    for name in vectors:
        vectors[name] = F.normalize(vectors[name], dim=1)
    return normalised(vectors, layer)


@wrong("carries gradients")
def with_gradients(vectors, layer):
    return cosines(rows_of(vectors, layer).requires_grad_()), list(vectors)
