"""Section 4, bonus: directions taken out while the model trains (CAFT)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from graders.harness import Case, grader
from graders.section_4_bonus.trained_through import WIDTH, cases, random


@grader
def test_projection_intervention() -> Iterator[Case]:
    """Nothing is left in the span of Q's orthonormal columns, and all else stays."""
    for k in (1, 2, 4):
        yield from _cases(torch.linalg.qr(random(WIDTH, k, seed=10 + k)).Q, k)


def _cases(q: Tensor, k: int) -> Iterator[Case]:
    exact = q.double()

    def project(act: Tensor) -> Tensor:
        return (act @ exact) @ exact.T

    mistakes = {
        "you add what lies in the span instead of taking it out": lambda act: act + project(act),
        "you return the part in the span: subtract it from act": project,
        "you subtract it twice": lambda act: act - 2 * project(act),
        "you take out the first column only": lambda act: act - (act @ exact[:, :1]) @ exact[:, :1].T,
        "you subtract the columns themselves, whatever act holds of them": lambda act: act - exact.sum(dim=1),
        "you return act as it was": lambda act: act,
    }
    if k == 1:
        del mistakes["you take out the first column only"]
    yield from cases(q, (), lambda act: act - project(act), mistakes, f"Q with {k} column{'s' * (k > 1)}")
