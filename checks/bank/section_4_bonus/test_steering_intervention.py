import einops
import torch
import torch.nn.functional as F

from checks.bank import right, wrong


@right
def in_one_line(act, Q, steering_coef):
    return act + steering_coef * Q.to(act)


@right
def in_float32_and_back(act, Q, steering_coef):
    return (act.float() + steering_coef * Q.float()).to(act.dtype)


@right
def by_torch_add(act, Q, steering_coef):
    return torch.add(act, Q.to(act), alpha=steering_coef)


@right
def with_einops(act, Q, steering_coef):
    flat, shape = einops.pack([act], "* d")
    pushed = flat + einops.repeat(steering_coef * Q.detach(), "d -> n d", n=len(flat)).type_as(act)
    return einops.unpack(pushed, shape, "* d")[0]


@right
def position_by_position(act, Q, steering_coef):
    moved = [state + (steering_coef * Q).to(act.dtype) for state in act.reshape(-1, act.shape[-1])]
    return torch.stack(moved).reshape(act.shape)


@wrong("expected torch.bfloat16, that of act, found torch.float32. Q comes in another dtype")
def upstream_style(act, Q, steering_coef):
    return act + steering_coef * Q.unsqueeze(0)


@wrong("sign is flipped")
def away(act, Q, steering_coef):
    return act - steering_coef * Q


@wrong("you forget steering_coef")
def without_coefficient(act, Q, steering_coef):
    return act + Q


@wrong("you normalise Q")
def unit(act, Q, steering_coef):
    return act + steering_coef * F.normalize(Q, dim=0)


@wrong("last position only")
def last_only(act, Q, steering_coef):
    out = act.clone()
    out[..., -1, :] = out[..., -1, :] + steering_coef * Q
    return out


@wrong("in place")
def in_place(act, Q, steering_coef):
    act += steering_coef * Q
    return act


@wrong("no gradient flows")
def detached(act, Q, steering_coef):
    return act.detach() + steering_coef * Q


@wrong("no gradient flows")
@torch.no_grad()
def without_grad(act, Q, steering_coef):
    return act + steering_coef * Q


@wrong("push alone")
def push_alone(act, Q, steering_coef):
    return (steering_coef * Q).expand_as(act) + 0 * act


@wrong("scale act as well")
def scaled(act, Q, steering_coef):
    return steering_coef * (act + Q)


@wrong("expected torch.bfloat16")
def always_float32(act, Q, steering_coef):
    return act.float() + steering_coef * Q.float()


@wrong("you return act as it was")
def nothing(act, Q, steering_coef):
    return act * 1.0


@wrong("expected a torch.Tensor, found tuple")
def a_tuple(act, Q, steering_coef):
    return (act + steering_coef * Q,)


def otherwise(words, change):
    """A wrong solution in a line: `change(act, the push)`."""

    def solution(act, Q, steering_coef):
        return change(act, (steering_coef * Q).to(act))

    solution.__module__ = __name__
    return wrong(words)(solution)


def first_row(act, push):
    return torch.cat([act[:1] + push, act[1:]])


first_row_only = otherwise("wrong values", first_row)
first_position_spared = otherwise("wrong values", lambda h, p: torch.cat([h[..., :1, :], h[..., 1:, :] + p], dim=-2))
norm_kept = otherwise("wrong values", lambda h, p: F.normalize(h + p, dim=-1) * h.norm(dim=-1, keepdim=True))
as_long_as_the_state = otherwise("wrong values", lambda h, p: h + p * h.norm(dim=-1, keepdim=True))
added_twice = otherwise("wrong values", lambda h, p: h + 2 * p)
what_was_there_replaced = otherwise("wrong values", lambda h, p: h - (h @ unit_of(p))[..., None] * unit_of(p) + p)
values_alone = otherwise("no gradient flows", lambda h, p: h.data + p)
gradient_twice = otherwise("gradient", lambda h, p: 2 * h - h.detach() + p)
gradient_at_the_end_only = otherwise(
    "gradient", lambda h, p: torch.cat([h[..., :-1, :].detach(), h[..., -1:, :]], dim=-2) + p
)


def unit_of(push):
    return F.normalize(push.float(), dim=0).to(push)


@wrong("in place")
def scales_q_in_place(act, Q, steering_coef):
    return act + Q.mul_(steering_coef).to(act)


@wrong("wrong values")
def upwards_only(act, Q, steering_coef):
    return act + max(steering_coef, 0.0) * Q.to(act)
