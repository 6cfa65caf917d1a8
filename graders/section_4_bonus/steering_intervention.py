"""Section 4, bonus: a vector added while the model trains."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from graders.harness import Case, grader
from graders.section_4_bonus.trained_through import WIDTH, cases, random


@grader
def test_steering_intervention() -> Iterator[Case]:
    """`act + steering_coef * Q` at every position, with Q as long as it is."""
    q = 0.7 * random(WIDTH, seed=5)
    for coefficient in (5.0, -2.5, 0.0):
        yield from _cases(q, coefficient)


def _cases(q: Tensor, c: float) -> Iterator[Case]:
    exact = q.double()

    def last_only(act: Tensor) -> Tensor:
        mask = torch.zeros_like(act)
        mask[..., -1, :] = 1
        return act + mask * c * exact

    mistakes = {
        "the sign is flipped: preventative steering adds the vector, towards the trait": lambda act: act - c * exact,
        "you forget steering_coef": lambda act: act + exact,
        "you normalise Q: its length is part of the push, as in the paper's configurations": lambda act: (
            act + c * F.normalize(exact, dim=0)
        ),
        "you return the push alone: add it to act": lambda act: (c * exact).expand_as(act),
        "you scale act as well: only Q is multiplied by steering_coef": lambda act: c * (act + exact),
        "you steer the last position only: in training every position learns": last_only,
        "you return act as it was": lambda act: act,
    }
    if c == 0:
        mistakes = {k: v for k, v in mistakes.items() if k.startswith(("you forget", "you return the", "you scale"))}
    yield from cases(q, (c,), lambda act: act + c * exact, mistakes, f"steering_coef={c}")
