"""Assertions whose failures teach: expected, found, the likely mistake."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


def grader(function: Callable[..., None]) -> Callable[..., None]:
    """Turn a stub's NotImplementedError into a plain message, and say so when all is well."""

    @functools.wraps(function)
    def graded(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except NotImplementedError:
            raise AssertionError(
                "Nothing to grade yet: your function, or one it calls, still raises NotImplementedError."
            ) from None
        print(f"{function.__name__}: all checks passed.")

    return graded


def check(condition: object, message: str) -> None:
    """Raise AssertionError with `message` unless `condition` holds (unlike `assert`, also under `python -O`)."""
    if not condition:
        raise AssertionError(message)


def check_tensor(found: Any, shape: tuple[int, ...], what: str) -> Tensor:
    """Exact type, shape, finiteness, device; returns it as float64."""
    check(isinstance(found, Tensor), f"{what}: expected a torch.Tensor, found {type(found).__name__}.")
    check(tuple(found.shape) == shape, f"{what}: expected shape {shape}, found {tuple(found.shape)}.")
    check(found.device.type == "cpu", f"{what}: expected a tensor on the CPU, found one on {found.device}. Use .cpu().")
    check(not found.requires_grad, f"{what}: it carries gradients. Use torch.inference_mode() or .detach().")
    check(torch.isfinite(found).all(), f"{what}: it holds NaN or infinity. Is a mean taken over nothing?")
    return found.double()


def relative(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of the expected value."""
    return ((found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-12)).item()


def check_close(
    found: Tensor,
    right: Iterable[Tensor],
    what: str,
    mistakes: Mapping[str, Callable[[], Tensor | list[Tensor]]] | None = None,
    tolerance: float = 1e-3,
) -> None:
    """Equal to one of the right values; else name the mistake whose value it equals.

    Args:
        mistakes: explanation -> what a function with that mistake returns (or may return), computed when needed.
    """
    right = list(right)
    if any(relative(found, r) < tolerance for r in right):
        return
    guess = "The values match no mistake we know: compare with a hand calculation on one short example."
    for explanation, wrong in (mistakes or {}).items():
        values = wrong()
        values = values if isinstance(values, list) else [values]
        if any(v.shape == found.shape and relative(found, v) < tolerance for v in values):
            guess = f"It looks as if {explanation}."
            break
    raise AssertionError(
        f"{what}: wrong values.\n  expected (first entries): {_head(right[0])}\n"
        f"  found:                    {_head(found)}\n  {guess}"
    )


def _head(tensor: Tensor) -> str:
    return str([round(x, 4) for x in tensor.flatten()[:5].tolist()])


def check_raises_value_error(function: Callable[[], Any], call: str, why: str) -> None:
    """The call must raise ValueError; a value instead of an error is an invented score."""
    try:
        value = function()
    except NotImplementedError:
        raise
    except ValueError:
        return
    except Exception as error:
        raise AssertionError(f"{call} raised {type(error).__name__} ({error}); raise ValueError: {why}") from error
    raise AssertionError(f"{call} returned {value!r}; it must raise ValueError: {why}")
