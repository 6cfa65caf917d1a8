import torch

from checks.bank import right, wrong


@right
def upstream_style(act, Q):
    proj = (act @ Q) @ Q.T
    return act - proj


@right
def with_einsum(act, Q):
    return act - torch.einsum("...d,dk,ek->...e", act, Q, Q)


@right
def column_by_column(act, Q):
    for column in Q.T:
        act = act - (act @ column)[..., None] * column
    return act


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
    return act + (act @ Q) @ Q.T


@wrong("you return the part in the span")
def the_part(act, Q):
    return (act @ Q) @ Q.T


@wrong("subtract it twice")
def reflected(act, Q):
    return act - 2 * (act @ Q) @ Q.T


@wrong("first column only")
def first_column(act, Q):
    return act - (act @ Q[:, :1]) @ Q[:, :1].T


@wrong("whatever act holds of them")
def columns_themselves(act, Q):
    return act - Q.sum(dim=1)


@wrong("in place")
def in_place(act, Q):
    act -= ((act @ Q) @ Q.T).detach()
    return act


@wrong("no gradient flows")
def half_detached(act, Q):
    return act - ((act @ Q) @ Q.T).detach()


@wrong("no gradient flows")
@torch.no_grad()
def without_grad(act, Q):
    return act - (act @ Q) @ Q.T


@wrong("expected torch.bfloat16")
def always_float32(act, Q):
    return act.float() - (act.float() @ Q.float()) @ Q.float().T


@wrong("you return act as it was")
def nothing(act, Q):
    return act * 1.0
