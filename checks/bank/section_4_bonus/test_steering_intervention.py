import torch
import torch.nn.functional as F

from checks.bank import right, wrong


@right
def in_one_line(act, Q, steering_coef):
    return act + steering_coef * Q


@right
def upstream_style(act, Q, steering_coef):
    return act + steering_coef * Q.unsqueeze(0)


@right
def in_float32_and_back(act, Q, steering_coef):
    return (act.float() + steering_coef * Q.float()).to(act.dtype)


@right
def by_torch_add(act, Q, steering_coef):
    return torch.add(act, Q.to(act.device), alpha=steering_coef)


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
