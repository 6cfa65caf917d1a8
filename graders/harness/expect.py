"""Assertions whose failures teach: expected, found, the likely mistake. And how far a right value may lie from ours."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROUNDINGS = {torch.float16: 16}  # in other dtypes 8: see `tolerance`
_tiny: ContextVar[bool] = ContextVar("graders look at their own tiny models", default=True)


@contextmanager
def yours_only() -> Iterator[None]:
    """Graders leave out their own tiny models. For the checks, which repeat the rest in many dtypes and families."""
    token = _tiny.set(False)
    try:
        yield
    finally:
        _tiny.reset(token)


def on_tiny_models() -> bool:
    """Whether a grader is to do the part that does not depend on the notebook's model: always, but in our checks."""
    return _tiny.get()


def check(condition: object, message: str) -> None:
    """Raise AssertionError with `message` unless `condition` holds (unlike `assert`, also under `python -O`)."""
    if not condition:
        raise AssertionError(message)


def whole(found: Any) -> bool:
    """Whether it is a whole number, Python's or one of numpy's: only the value matters."""
    return isinstance(found, int | np.integer) and not isinstance(found, bool)


def real(found: Any) -> bool:
    """Whether it is a float, Python's or one of numpy's."""
    return isinstance(found, float | np.floating)


def listed(found: Any) -> Any:
    """A row of numpy numbers as a list; anything else as it is."""
    return found.tolist() if isinstance(found, np.ndarray) and found.ndim == 1 else found


def check_tensor(found: Any, shape: tuple[int, ...], what: str) -> Tensor:
    """Exact type, shape, finiteness, device; returns it as float64."""
    check(isinstance(found, Tensor), f"{what}: expected a torch.Tensor, found {type(found).__name__}.")
    check(tuple(found.shape) == shape, f"{what}: expected shape {shape}, found {tuple(found.shape)}.")
    check(found.device.type == "cpu", f"{what}: expected a tensor on the CPU, found one on {found.device}. Use .cpu().")
    check(not found.requires_grad, f"{what}: it carries gradients. Use torch.inference_mode() or .detach().")
    check(torch.isfinite(found).all(), f"{what}: it holds NaN or infinity. Is a mean taken over nothing?")
    return found.double()


@dataclass(frozen=True)
class Tolerance:
    """How far a right value may lie from ours; made by `tolerance`.

    Attributes:
        exact: share of the right value's norm, where the arithmetic is float32 or better.
        rounding: share of the norm of what was rounded on the way.
        dtype: the coarsest dtype involved.
    """

    exact: float
    rounding: float
    dtype: torch.dtype

    def allowed(self, size: float, rounded: float | None = None) -> float:
        """Norm of the difference allowed.

        Args:
            size: norm of the right value.
            rounded: norm of what was rounded, where that is larger (a difference of two means is small beside them).
        """
        return max(self.exact * size, self.rounding * max(size, rounded or 0.0))

    def along(self, norm: float, width: int) -> float:
        """Difference allowed in the projection of a vector of this norm on a unit vector unrelated to its error.

        Such a unit vector sees 1/√width of an error's norm, give or take: two standard deviations of the largest
        error are allowed.
        """
        return max(self.exact, self.rounding * min(1.0, 2 / width**0.5)) * norm

    def over(self, n: int) -> "Tolerance":
        """For the mean over `n` tokens of a tiny model's one row, whose roundings are independent: 1/√n of each."""
        return replace(self, rounding=self.rounding / n**0.5)

    @property
    def name(self) -> str:
        """Of the dtype, as people say it."""
        return str(self.dtype).removeprefix("torch.")


def tolerance(*dtypes: torch.dtype, exact: float = 1e-3) -> Tolerance:
    """The one rule for values that a model computes: `exact`, or some unit roundoffs of the coarsest dtype if more.

    The unit roundoff u is 2^-8 in bfloat16, of which 8 are allowed (3.1 %), and 2^-11 in float16, of which 16 are
    (0.78 %). Two right solutions (a padded batch and a single row, cached decoding and one pass, text cut after the
    answer) add up the same products in another order. Each block then rounds the residual stream twice, so after 30
    blocks √(2·30) ≈ 8 roundings have piled up, if they are independent. Measured over padding on either side and
    cutting, five examples, every depth: at most 5.9 u (bfloat16) and 4.3 u (float16) on SmolLM2-135M, 1.2 u and 3.8 u
    on the tiny models. Processors without such dtypes add up otherwise: with AVX2 only, padding on the left came to
    5.9 u and 6.6 u on SmolLM2, to 6.6 u and 6.1 u on the tiny models after two blocks, and to 8.3 u and 9.2 u after
    all four. Mistakes are further away: with one token too many at least 3.6 %, with one too few or another layer at
    least 19 % on some example, at every depth of SmolLM2.

    Args:
        dtypes: the model's, and that of other tensors that take part (a vector added, values returned).
        exact: what float32 is held to (8 u there are 5e-7, which is never more).
    """
    coarsest = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    return Tolerance(exact, ROUNDINGS.get(coarsest, 8) * torch.finfo(coarsest).eps / 2, coarsest)


FLOAT32 = tolerance(torch.float32)


def relative(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of the expected value."""
    return _distance(found, expected) / max(expected.double().norm().item(), 1e-12)


def _distance(found: Tensor, expected: Tensor) -> float:
    return (found.double() - expected.double()).norm().item()


def check_close(
    found: Tensor,
    right: Iterable[Tensor],
    what: str,
    mistakes: Mapping[str, Callable[[], Tensor | list[Tensor]]] | None = None,
    tolerance: Tolerance = FLOAT32,
    rounded: float | None = None,
    name: str = "values",
    otherwise: str = "The values match no mistake we know: compare with a hand calculation on one short example.",
) -> None:
    """Equal to one of the right values; else name the mistake whose value it equals.

    Args:
        mistakes: explanation -> what a function with that mistake returns (or may return), computed when needed.
        rounded: as in `Tolerance.allowed`.
        name: of the values, in the message.
        otherwise: what to say if they match no mistake.
    """

    def allowed(value: Tensor) -> float:
        return tolerance.allowed(value.double().norm().item(), rounded)

    right = list(right)
    for r in right:
        check(found.shape == r.shape, f"{what}: expected shape {tuple(r.shape)}, found {tuple(found.shape)}.")
    if any(_distance(found, r) <= allowed(r) for r in right):
        return
    nearest = min(right, key=lambda r: _distance(found, r) - allowed(r))
    share = allowed(nearest) / max(nearest.double().norm().item(), 1e-12)
    raise AssertionError(
        f"{what}: wrong {name}, off by {_percent(relative(found, nearest))}; {_percent(share)} is allowed in "
        f"{tolerance.name}.\n{_first_difference(found, nearest, allowed(nearest))}\n"
        f"  {_likely(found, nearest, mistakes or {}, allowed) or otherwise}"
    )


def _likely(
    found: Tensor,
    right: Tensor,
    mistakes: Mapping[str, Callable[[], Tensor | list[Tensor]]],
    allowed: Callable[[Tensor], float],
) -> str:
    """The mistake whose value is nearest: within what is allowed, and nearer than the right value; "" if none is."""
    best, guess = _distance(found, right), ""
    for explanation, wrong in mistakes.items():
        values = wrong()
        for value in values if isinstance(values, list) else [values]:
            if value.shape != found.shape or not (distance := _distance(found, value)) <= allowed(value):
                continue
            if not distance >= best:  # NaN is as far as can be
                best, guess = distance, f"It looks as if {explanation}."
        if guess and best <= FLOAT32.exact * right.norm():  # no need to compute the others
            break
    return guess


def _first_difference(found: Tensor, expected: Tensor, allowed: float) -> str:
    """Where two tensors first differ by more than an entry's share of what is allowed, with what stands around it."""
    found, expected = torch.atleast_1d(found.double(), expected.double())
    gap = (found - expected).abs()
    beyond = ~(gap.flatten() <= allowed / gap.numel() ** 0.5)  # NaN differs too
    place = int(beyond.nonzero()[0]) if beyond.any() else int(gap.argmax())
    index = [int(i) for i in torch.unravel_index(torch.tensor(place), gap.shape)]
    row = slice(max(index[-1] - 2, 0), index[-1] + 3)
    rows = [t[tuple(index[:-1])][row].tolist() for t in (expected, found)]
    a, b = (t.flatten()[place].item() for t in (expected, found))
    k = _digits(a, b)
    shown = ["[" + ", ".join(f"{x:.{k}g}" for x in values) + "]" for values in rows]
    where = f"[{', '.join(map(str, index))}]"
    return (
        f"  first difference at {where}: expected {a:.{k}g}, found {b:.{k}g}\n"
        f"  expected around it: {shown[0]}\n  found around it:    {shown[1]}"
    )


def _digits(a: float, b: float) -> int:
    """Significant digits, 4 or more, that tell two different numbers apart."""
    return next((k for k in range(4, 17) if f"{a:.{k}g}" != f"{b:.{k}g}"), 17)


def apart(expected: float, found: float) -> str:
    """`expected …, found …`, with digits enough to tell the two apart."""
    k = _digits(expected, found)
    return f"expected {expected:.{k}g}, found {found:.{k}g}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def check_mean_dtype(found: Tensor, dtype: torch.dtype, what: str) -> None:
    """Means over tokens must not be taken in half precision: then every entry is a number of that dtype.

    Rounding is no sign of it: right solutions differ by more (see `tolerance`). A mean in float32 of two tokens or
    more has entries between the dtype's numbers.
    """
    if torch.finfo(dtype).bits >= 32 or not torch.equal(found.double(), found.to(dtype).double()):
        return
    name = str(dtype).removeprefix("torch.")
    raise AssertionError(
        f"{what}: wrong values: every one is a number of {name}, as no mean in float32 would be (the first is "
        f"{found.flatten()[0].item()}).\n  It looks as if you average in {name}: convert with .float() before .mean()."
    )
