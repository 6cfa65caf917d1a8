"""Section 4, bonus: how much further along a trait training answers lie than the model's own."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graders.harness import Case, called_with, check, check_close, check_tensor, grader, same, tolerance
from graders.section_4_bonus.trained_through import random

_SHAPES = ((5, 16), (1, 16), (16, 16), (2, 16))  # a square one shows which dimension is summed over


@grader
def test_projection_difference(model: Any = None, tokenizer: Any = None) -> Iterator[Case]:
    """Row by row: training minus base, along the unit vector. The notebook's model is not asked."""
    for i, (n, d) in enumerate(_SHAPES):
        for dtype in (torch.float32, torch.bfloat16):
            common = 4 * random(d, seed=50 + i)
            train, base = (common + (1 + s) * random(n, d, seed=10 * i + s) for s in (0, 1))
            given = (train.to(dtype), base.to(dtype), 3 * F.normalize(random(d, seed=77), dim=0))
            what = f"{n} rows of {d} in {str(dtype).removeprefix('torch.')}"
            yield Case(what, called_with(*given), partial(_judge, what, given))


def _judge(what: str, given: tuple[Tensor, Tensor, Tensor], observed: tuple[Any, tuple[Any, ...]]) -> None:
    found, after = observed
    n = len(given[0])
    if isinstance(found, float) or (isinstance(found, Tensor) and found.ndim == 0 and n > 1):
        check(
            False, f"{what}: expected a value for each of {n} samples, found one number. Leave the mean to the caller."
        )
    check(
        not (isinstance(found, Tensor) and found.dtype in (torch.bfloat16, torch.float16)),
        f"{what}: expected float32, found {getattr(found, 'dtype', None)}. A difference of two long vectors is short: "
        "convert with .float() before you subtract.",
    )
    found = check_tensor(found, (n,), what)
    check(same(given, after), f"{what}: you changed your input in place. Work on copies.")
    train, base, v = (x.double() for x in given)
    unit = v / v.norm()
    difference = train - base
    mistakes = {
        "it is not normalised: divide by the norm of the trait vector": lambda: difference @ v,
        "you divide by the squared norm, or twice: divide by the norm once": lambda: difference @ unit / v.norm(),
        "the sign is flipped: it is training minus base": lambda: -difference @ unit,
        "you project the training activations alone: subtract the base's": lambda: train @ unit,
        "you project the base's activations alone": lambda: base @ unit,
        "this is a cosine: do not divide by the norm of the activations": lambda: [
            F.cosine_similarity(difference, unit[None], dim=1),
            F.cosine_similarity(train, unit[None], dim=1) - F.cosine_similarity(base, unit[None], dim=1),
        ],
        "the sign is lost": lambda: (difference @ unit).abs(),
        "you subtract the base's mean: take each sample's own base answer": lambda: (train - base.mean(0)) @ unit,
        "you subtract the mean difference: nothing is centred here": lambda: (difference - difference.mean(0)) @ unit,
        "you measure the length of the difference: project it on the trait vector": lambda: difference.norm(dim=1),
    }
    if n == 1:
        mistakes = {k: w for k, w in mistakes.items() if "mean" not in k}
    rounded = max(train.norm().item(), base.norm().item()) if given[0].dtype != torch.float32 else None
    check_close(found, [difference @ unit], what, mistakes, tolerance(given[0].dtype), rounded=rounded)
