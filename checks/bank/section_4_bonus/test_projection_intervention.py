import einops
import torch

from checks.bank import right, wrong


@right
def as_the_formula_says(act, Q):
    proj = (act @ Q.to(act)) @ Q.to(act).T
    return act - proj


@right
def with_einsum(act, Q):
    Q = Q.to(act.dtype)
    return act - torch.einsum("...d,dk,ek->...e", act, Q, Q)


@right
def column_by_column(act, Q):
    for column in Q.to(act).T:
        act = act - (act @ column)[..., None] * column
    return act


@right
def with_einops(act, Q):
    coordinates = einops.einsum(act.float(), Q.float(), "... d, d k -> ... k")
    return (act.float() - einops.einsum(coordinates, Q.float(), "... k, d k -> ... d")).to(act.dtype)


@right
def by_least_squares(act, Q):
    """What no combination of the columns explains."""
    flat = act.float().reshape(-1, len(Q))
    explained = Q.float() @ torch.linalg.pinv(Q.float()) @ flat.T
    return (flat - explained.T).reshape(act.shape).to(act.dtype)


@wrong("bfloat16, Q in float32.*expected a result, found RuntimeError.*bring both to one")
def upstream_style(act, Q):
    proj = (act @ Q) @ Q.T
    return act - proj


@right
def with_the_projector(act, Q):
    keep = torch.eye(Q.shape[0], dtype=torch.float32) - Q.float() @ Q.float().T
    return (act.float() @ keep).to(act.dtype)


@right
def orthonormalised_again(act, Q):
    basis = torch.linalg.qr(Q.float()).Q
    return (act.float() - (act.float() @ basis) @ basis.T).to(act.dtype)


@wrong("add what lies in the span")
def added(act, Q):
    Q = Q.to(act)
    return act + (act @ Q) @ Q.T


@wrong("you return the part in the span")
def the_part(act, Q):
    Q = Q.to(act)
    return (act @ Q) @ Q.T


@wrong("subtract it twice")
def reflected(act, Q):
    Q = Q.to(act)
    return act - 2 * (act @ Q) @ Q.T


@wrong("first column only")
def first_column(act, Q):
    Q = Q.to(act)
    return act - (act @ Q[:, :1]) @ Q[:, :1].T


@wrong("whatever act holds of them")
def columns_themselves(act, Q):
    Q = Q.to(act)
    return act - Q.sum(dim=1)


@wrong("in place")
def in_place(act, Q):
    Q = Q.to(act)
    act -= ((act @ Q) @ Q.T).detach()
    return act


@wrong("no gradient flows")
def half_detached(act, Q):
    Q = Q.to(act)
    return act - ((act @ Q) @ Q.T).detach()


@wrong("no gradient flows")
@torch.no_grad()
def without_grad(act, Q):
    Q = Q.to(act)
    return act - (act @ Q) @ Q.T


@wrong("expected torch.bfloat16")
def always_float32(act, Q):
    return act.float() - (act.float() @ Q.float()) @ Q.float().T


@wrong("you return act as it was")
def nothing(act, Q):
    return act * 1.0


def otherwise(words, change):
    """A wrong solution in a line: `change(act, Q)`."""

    def solution(act, Q):
        return change(act, Q.to(act))

    solution.__module__ = __name__
    return wrong(words)(solution)


def taken_out(h, q):
    return h - (h @ q) @ q.T


first_row_only = otherwise("wrong values", lambda h, q: torch.cat([taken_out(h[:1], q), h[1:]]))
last_position_only = otherwise(
    "wrong values", lambda h, q: torch.cat([h[..., :-1, :], taken_out(h[..., -1:, :], q)], dim=-2)
)
last_column = otherwise("2 columns.*wrong values", lambda h, q: taken_out(h, q[:, -1:]))
whole_matrix_normalised = otherwise("2 columns.*wrong values", lambda h, q: taken_out(h, q / q.norm()))
mean_column = otherwise("2 columns.*wrong values", lambda h, q: taken_out(h, q.mean(1, keepdim=True)))
forwards_only = otherwise("wrong values", lambda h, q: h - (h @ q).relu() @ q.T)
mean_of_the_batch = otherwise("wrong values", lambda h, q: h - ((h @ q) @ q.T).mean(-2, keepdim=True))
half_of_it = otherwise("wrong values", lambda h, q: h - 0.5 * (h @ q) @ q.T)
norm_kept = otherwise(
    "wrong values",
    lambda h, q: taken_out(h, q) * h.norm(dim=-1, keepdim=True) / taken_out(h, q).norm(dim=-1)[..., None],
)
long_columns = otherwise("wrong values", lambda h, q: taken_out(h, 2 * q))
values_alone = otherwise("no gradient flows", lambda h, q: taken_out(h.data, q))
straight_through = otherwise("gradient", lambda h, q: h + (taken_out(h, q) - h).detach())
gradient_twice = otherwise("gradient", lambda h, q: 2 * taken_out(h, q) - taken_out(h, q).detach())
