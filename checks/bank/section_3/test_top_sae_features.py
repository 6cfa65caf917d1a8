import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from checks.bank import right, wrong


def rows_of(sae, vector, features, activations, cosine=None):
    if cosine is None:
        cosine = F.cosine_similarity(sae.W_dec[features], vector[None], dim=1)
    return [(int(f), float(activations[f]), float(c)) for f, c in zip(features, cosine, strict=True)]


def top(sae, vector, k, activations, cosine=None):
    return rows_of(sae, vector, activations.argsort(descending=True)[:k], activations, cosine)


def linear(sae, vector):
    return vector @ sae.W_enc


@right
@torch.no_grad()
def matrix_product(sae, vector, k):
    return top(sae, vector, k, linear(sae, vector))


@right
def in_arena_style(sae, vector, k):
    acts = torch.einsum("d, d f -> f", vector.double(), sae.W_enc.detach().double())
    decoder = sae.W_dec / sae.W_dec.norm(dim=-1, keepdim=True)
    cosine_sims = decoder @ (vector / vector.norm())
    top_acts, top_indices = acts.topk(k)
    return [(i.item(), a.item(), cosine_sims[i].item()) for a, i in zip(top_acts, top_indices, strict=True)]


@right
def difference_of_pre_activations(sae, vector, k):
    """At the decoder's bias and one vector further; features sorted in Python."""

    def before_the_relu(x):
        return (x - sae.b_dec) @ sae.W_enc + sae.b_enc

    change = (before_the_relu(sae.b_dec + vector) - before_the_relu(sae.b_dec)).tolist()
    best = sorted(enumerate(change), key=lambda pair: pair[1], reverse=True)[:k]
    return [(f, a, torch.cosine_similarity(vector, sae.W_dec[f], dim=0).item()) for f, a in best]


@wrong("subtracts b_dec and adds b_enc")
def encodes_the_vector(sae, vector, k):
    return top(sae, vector, k, sae.encode(vector))


@wrong("b_enc was added, by hand or by `encode`")
def encodes_from_the_decoder_bias(sae, vector, k):
    return top(sae, vector, k, sae.encode(vector + sae.b_dec))


@wrong("b_enc was added")
def encoder_bias_added(sae, vector, k):
    return top(sae, vector, k, linear(sae, vector) + sae.b_enc)


@wrong("b_enc was added")
def encoder_bias_added_and_relu(sae, vector, k):
    return top(sae, vector, k, (linear(sae, vector) + sae.b_enc).relu())


@wrong("b_dec was subtracted")
def decoder_bias_subtracted(sae, vector, k):
    return top(sae, vector, k, linear(sae, vector - sae.b_dec))


@wrong("b_dec was subtracted and b_enc added|subtracts b_dec and adds b_enc")
def both_biases(sae, vector, k):
    return top(sae, vector, k, linear(sae, vector - sae.b_dec) + sae.b_enc)


@wrong("by the decoder's rows")
def decoder_as_encoder(sae, vector, k):
    return top(sae, vector, k, sae.W_dec @ vector)


@wrong("normalise the vector first")
def unit_vector(sae, vector, k):
    return top(sae, vector, k, linear(sae, vector / vector.norm()))


@wrong("sort by absolute value")
def by_absolute_value(sae, vector, k):
    activations = linear(sae, vector)
    return rows_of(sae, vector, activations.abs().argsort(descending=True)[:k], activations)


@wrong("return absolute values")
def absolute_values(sae, vector, k):
    return top(sae, vector, k, linear(sae, vector).abs())


@wrong("sign is flipped")
def flipped(sae, vector, k):
    return top(sae, vector, k, -linear(sae, vector))


@wrong("another order")
def ascending(sae, vector, k):
    return matrix_product(sae, vector, k)[::-1]


@wrong("smallest activations")
def smallest(sae, vector, k):
    activations = linear(sae, vector)
    return rows_of(sae, vector, activations.argsort()[:k], activations)


@wrong("not the features with the largest|another order|smallest")
def by_cosine(sae, vector, k):
    best = F.cosine_similarity(sae.W_dec, vector[None], dim=1).argsort(descending=True)[:k]
    return rows_of(sae, vector, best, linear(sae, vector))


@wrong("divide by both norms")
def dot_products(sae, vector, k):
    activations = linear(sae, vector)
    best = activations.argsort(descending=True)[:k]
    return rows_of(sae, vector, best, activations, sae.W_dec[best] @ vector)


@wrong("only the vector is normalised")
def rows_left_long(sae, vector, k):
    return [(f, a, float(sae.W_dec[f] @ F.normalize(vector, dim=0))) for f, a, _ in matrix_product(sae, vector, k)]


@wrong("only the decoder rows are normalised")
def vector_left_long(sae, vector, k):
    return [(f, a, float(F.normalize(sae.W_dec[f], dim=0) @ vector)) for f, a, _ in matrix_product(sae, vector, k)]


@wrong("encoder's columns")
def cosine_with_the_encoder(sae, vector, k):
    return [
        (f, a, float(F.cosine_similarity(sae.W_enc[:, f], vector, dim=0))) for f, a, _ in matrix_product(sae, vector, k)
    ]


@wrong("b_dec was subtracted from the vector")
def cosine_of_the_centred_vector(sae, vector, k):
    return [
        (f, a, float(F.cosine_similarity(sae.W_dec[f], vector - sae.b_dec, dim=0)))
        for f, a, _ in matrix_product(sae, vector, k)
    ]


@wrong("expected a list of 5 tuples")
def all_features(sae, vector, k):
    return matrix_product(sae, vector, len(sae.W_dec))


@wrong(r"Use \.item\(\)")
def tensors(sae, vector, k):
    return [(torch.tensor(f), torch.tensor(a), c) for f, a, c in matrix_product(sae, vector, k)]


@wrong("changed the vector")
def in_place(sae, vector, k):
    vector -= sae.b_dec.detach()
    return matrix_product(sae, vector, k)


@wrong("changed the autoencoder's weights")
def normalises_the_decoder(sae, vector, k):
    with torch.no_grad():
        sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
    return matrix_product(sae, vector, k)


@right
@torch.no_grad()
def with_numpy(sae, vector, k):
    """Numbers of numpy's own."""
    encoder, decoder, v = (x.numpy() for x in (sae.W_enc, sae.W_dec, vector))
    activations, norms = v @ encoder, np.linalg.norm(decoder, axis=1) * np.linalg.norm(v)
    cosines, best = decoder @ v / norms, np.argsort(-activations)[:k]
    return [(f, activations[f], cosines[f]) for f in best]


@right
@torch.no_grad()
def with_pandas(sae, vector, k):
    """Feature by feature, into a table."""
    unit = vector / vector.norm()
    rows = [
        (float(vector @ sae.W_enc[:, f]), float(sae.W_dec[f] @ unit / sae.W_dec[f].norm()))
        for f in range(len(sae.W_dec))
    ]
    table = pd.DataFrame(rows, columns=["activation", "cosine"]).nlargest(k, "activation")
    return list(table.itertuples(name=None))


def but(words, activations=linear, rows=matrix_product, change=lambda found: found):
    """A wrong solution: other activations, or the right rows changed."""

    @torch.no_grad()
    def solution(sae, vector, k):
        found = top(sae, vector, k, activations(sae, vector)) if activations is not linear else rows(sae, vector, k)
        return change(found)

    solution.__module__ = __name__
    return wrong(words)(solution)


def encoded_difference(sae, vector):
    """Between two states, after the nonlinearity: a feature that is off in both has no difference."""
    return sae.encode(sae.b_dec + vector) - sae.encode(sae.b_dec)


cut_at_zero = but("cut at zero", lambda sae, v: linear(sae, v).relu())
difference_of_encoded = but("wrong values", encoded_difference)
unit_columns = but("wrong values", lambda sae, v: v @ F.normalize(sae.W_enc, dim=0))
halved = but("wrong values", lambda sae, v: linear(sae, v) / 2)
by_decoder_cosine = but(
    "wrong values|by the decoder's rows", lambda sae, v: F.cosine_similarity(sae.W_dec, v[None], dim=1)
)
softmax = but("wrong values", lambda sae, v: linear(sae, v).softmax(0))
counted_from_one = but("wrong values|each an index", change=lambda found: [(f + 1, a, c) for f, a, c in found])
cosine_of_the_next = but(
    "cosines",
    change=lambda found: [(f, a, c) for (f, a, _), (_, _, c) in zip(found, found[1:] + found[:1], strict=True)],
)
without_cosine = but("expected a list of 5 tuples", change=lambda found: [row[:2] for row in found])
positive_only = but("expected a list of 40 tuples", change=lambda found: [row for row in found if row[1] > 0])
in_lists = but("expected a list of 5 tuples", change=lambda found: [[*row] for row in found])
absolute_cosine = but("cosines", change=lambda found: [(f, a, abs(c)) for f, a, c in found])
