"""Projections of activations on the unit vector of a direction: one float for each answer, turn or prompt."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graders.harness.expect import apart, check, real, tolerance
from graders.harness.readings import POOLING, Reading, Rows, Table, right

Examples = Sequence[Sequence[Reading]]  # for each example, its right readings


class _Number(NamedTuple):
    """A projection found, the nearest right one, how far it may lie from it, and what mistakes would give."""

    found: float
    right: float
    slack: float
    mistakes: dict[str, Callable[[], list[float]]]

    def is_right(self) -> bool:
        return abs(self.found - self.right) <= self.slack

    def distance(self, mistake: str) -> float:
        """From what the mistake would give; infinite where that is too far, or not much nearer than what is right."""
        nearest = min((abs(self.found - v) for v in self.mistakes[mistake]()), default=float("inf"))
        return nearest if nearest <= min(self.slack, abs(self.found - self.right) / 4) else float("inf")


def check_list(found: Any, n: int, what: str, each: str) -> None:
    """A list of the right length."""
    check(isinstance(found, list), f"{what}: expected a list, found {type(found).__name__}. Use .tolist().")
    check(len(found) == n, f"{what}: expected {n} {each}, found {len(found)}.")


def check_projections(
    found: list[Any], examples: Examples, layer: int, direction: Tensor, what: str, *tables: Table
) -> None:
    """One float for each example: its activation's projection on the unit direction.

    Args:
        what: what a message begins with; the example's number follows.
        tables: of mistakes. With `POOLING`, the activations are means, which must not be rounded to half precision.
    """
    for i, value in enumerate(found):
        check(real(value), f"{what} {i}: expected a float, found {type(value).__name__}. Use .item().")
    numbers = [_number(value, examples, i, layer, direction.double(), tables) for i, value in enumerate(found)]
    for i, number in enumerate(numbers):
        if not number.is_right():
            raise AssertionError(
                f"{what} {i}: {apart(number.right, number.found)}; {number.slack:.2g} of difference is allowed. "
                + _likely(numbers, number)
            )
    if POOLING in tables:
        _check_rounding(found, examples, layer, direction.double(), what)


def _number(
    found: float, examples: Examples, i: int, layer: int, direction: Tensor, tables: Sequence[Table]
) -> _Number:
    norm = direction.norm().item()
    unit, activations = direction / norm, [a for reading in examples[i] for a in right(reading, layer)]

    def on_unit(rows: Rows, readings: Sequence[Reading]) -> list[float]:
        return [(a @ unit).item() for reading in readings for a in rows(reading, layer)]

    def scaled(by: Callable[[Tensor], float]) -> Callable[[], list[float]]:
        return lambda: [(a @ unit).item() * by(a) for a in activations]

    wrong = {
        "it is not normalised: you do not divide by the norm of the direction": scaled(lambda _: norm),
        "you divide by the squared norm of the direction, or twice: it is a·v/‖v‖, not a·v/‖v‖²": scaled(
            lambda _: 1 / norm
        ),
        "the sign is flipped: higher means further along the direction": scaled(lambda _: -1.0),
        "what lies below zero was cut off: a projection may be negative": lambda: [0.0],
        "this is the cosine: do not divide by the norm of the activation": scaled(lambda a: 1 / a.norm().item()),
        "this is another example's value: keep the order of the inputs": lambda: [
            v for j, other in enumerate(examples) if j != i for v in on_unit(right, other)
        ],
    }
    wrong |= {why: partial(on_unit, rows, examples[i]) for table in tables for why, rows in table.items()}
    slack = tolerance(examples[i][0].states.dtype, exact=1e-4).along(
        max(a.norm().item() for a in activations), len(unit)
    )
    return _Number(found, min(on_unit(right, examples[i]), key=lambda e: abs(found - e)), slack, wrong)


def _likely(numbers: list[_Number], wrong: _Number) -> str:
    """The mistake nearest to the wrong number that explains all the others too: one alone may match by chance."""
    near: dict[str, float] = {}
    for why in wrong.mistakes:
        distance = wrong.distance(why)
        if distance < float("inf") and all(n.is_right() or n.distance(why) < float("inf") for n in numbers):
            near[why] = distance
            if distance <= 1e-4 * abs(wrong.right):  # no need to compute the others
                break
    guess = f"It looks as if {min(near, key=lambda why: near[why])}. " if near else ""
    return guess + "Compare with a hand calculation on one short example."


def _check_rounding(found: list[float], examples: Examples, layer: int, direction: Tensor, what: str) -> None:
    """Not every projection is, to float32's precision, that of a mean rounded to half precision."""
    dtype, unit = examples[0][0].states.dtype, direction / direction.norm()
    if torch.finfo(dtype).bits >= 32:
        return
    exact, rounded = [], []
    for value, readings in zip(found, examples, strict=True):
        rows = right(readings[0], layer)
        slack = 1e-6 * rows[0].norm().item()
        exact.append(min(abs(value - (row @ unit).item()) for row in rows) <= slack)
        rounded.append(min(abs(value - (row.to(dtype).double() @ unit).item()) for row in rows) <= slack)
    name = str(dtype).removeprefix("torch.")
    check(
        all(exact) or not all(rounded),
        f"{what}s: every value is, digit by digit, that of a mean rounded to {name}.\n  It looks as if you average in "
        f"{name}: convert with .float() before .mean().",
    )
