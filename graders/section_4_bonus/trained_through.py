"""What both interventions of training share: activations go in, activations and their gradients come out."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graders.harness.cases import Case
from graders.harness.differences import same
from graders.harness.expect import check, check_close, tolerance

Change = Callable[[Tensor], Tensor]
Mistakes = dict[str, Change]

WIDTH = 24
SHAPES = ((2, 5, WIDTH), (1, 1, WIDTH), (7, WIDTH))  # a batch, one token of cached decoding, tokens without a batch
DTYPES = ((torch.float32,) * 2, (torch.bfloat16,) * 2, (torch.bfloat16, torch.float32))  # of act and of q
_OTHER = "Q comes in another dtype than act here: bring both to one, so that act's stays."
_BACK = "If you compute in another dtype, bring the result back to act's."
NO_GRADIENT = (
    "no gradient flows through it. It stands inside the network while that trains: no .detach(), no no_grad, no "
    "inference_mode, no .item()"
)


class Passed(NamedTuple):
    """What came out, the gradient of its weighted sum with respect to what went in, and whether inputs changed."""

    out: Any
    gradient: Tensor | None
    changed: bool


def random(*shape: int, seed: int) -> Tensor:
    """Normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cases(q: Tensor, options: tuple[Any, ...], right: Change, mistakes: Mistakes, what: str) -> Iterator[Case]:
    """The work, called with activations, `q` and options, in each shape and dtype; `right` says what it must be."""
    for i, shape in enumerate(SHAPES):
        for dtype, other in DTYPES:
            act = 3 * random(*shape, seed=i)
            name = f"{what}, act of shape {list(shape)} in {str(dtype)[6:]}, Q in {str(other)[6:]}"
            given = (act.to(dtype), q.to(other), *options)
            hint = _OTHER if dtype != other else ""
            yield Case(name, partial(_pass, given), partial(_judge, name, given, right, mistakes), hint)


def _pass(given: tuple[Any, ...], work: Any) -> Passed:
    act, *others = (x.clone() if isinstance(x, Tensor) else x for x in given)
    leaf = act.clone().requires_grad_(True)
    copied = leaf.clone()  # not a leaf: what is changed in place shows in its values
    out, gradient = work(copied, *others), None
    changed = not same(tuple(given), (copied.detach(), *others))
    if isinstance(out, Tensor) and out.requires_grad and out.shape == act.shape:
        [gradient] = torch.autograd.grad((out.float() * random(*act.shape, seed=99)).sum(), leaf)
    return Passed(out.detach() if isinstance(out, Tensor) else out, gradient, changed)


def _judge(what: str, given: tuple[Any, ...], right: Change, mistakes: Mistakes, seen: Passed) -> None:
    act = given[0]
    check(isinstance(seen.out, Tensor), f"{what}: expected a torch.Tensor, found {type(seen.out).__name__}.")
    check(seen.out.shape == act.shape, f"{what}: expected shape {list(act.shape)}, found {list(seen.out.shape)}.")
    cure = _BACK if given[1].dtype == act.dtype else _OTHER
    check(seen.out.dtype == act.dtype, f"{what}: expected {act.dtype}, that of act, found {seen.out.dtype}. {cure}")
    check(not seen.changed, f"{what}: you changed your input in place. `act + …` makes a new tensor, `+=` does not.")
    values = {why: partial(wrong, act.double()) for why, wrong in mistakes.items()}
    allowed = tolerance(act.dtype)
    check_close(seen.out.double(), [right(act.double())], what, values, allowed, rounded=act.double().norm().item())
    check(seen.gradient is not None, f"{what}: {NO_GRADIENT}.")
    weights = random(*act.shape, seed=99).double()
    linear = right(weights) - right(torch.zeros_like(weights))  # both are affine, with a symmetric matrix
    check_close(
        seen.gradient.double(),  # type: ignore[union-attr]
        [linear],
        f"{what}, gradient",
        {NO_GRADIENT: lambda: weights},
        allowed,
        rounded=weights.norm().item(),
    )
