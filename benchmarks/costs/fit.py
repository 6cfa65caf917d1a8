"""How a cost grows: exponents from the rounds, and how far the measured points lie off a straight line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

Seconds = Sequence[Sequence[float]]  # one row a size, one column a round


class Growth(NamedTuple):
    """Median, smallest and largest over the rounds of the exponent over all sizes, and of that between the last two;
    the straight line through the medians (seconds at size 0, seconds for each); the farthest median off it (a share).
    """

    exponent: tuple[float, float, float]
    at_the_end: tuple[float, float, float]
    fixed: float
    each: float
    off: float


def growth(sizes: Sequence[int], seconds: Seconds) -> Growth:
    """Exponents are slopes of log seconds over log size, of each round by itself.

    A fixed part makes the first too small, and the second less so. The line's errors count by their share, so that
    small sizes have their say; neither of its parts is below 0.

    Raises:
        ValueError: if rounds are missing, or fewer than two sizes are given.
    """
    taken = np.array(seconds, dtype=float)  # (sizes, rounds)
    if len(sizes) < 2 or taken.shape[0] != len(sizes) or taken.ndim != 2:
        raise ValueError(f"{len(sizes)} sizes need as many rows of rounds, and at least two, not {taken.shape}.")
    x, y = np.log(sizes), np.log(taken)
    middle = x - x.mean()
    slopes = middle @ y / (middle @ middle)
    last = (y[-1] - y[-2]) / (x[-1] - x[-2])
    median = np.median(taken, axis=1)
    fixed, each = _line(np.array(sizes, dtype=float), median)
    off = float(np.abs(median / (fixed + each * np.array(sizes)) - 1).max())
    return Growth(_spread(slopes), _spread(last), fixed, each, off)


def _spread(values: np.ndarray) -> tuple[float, float, float]:
    return float(np.median(values)), float(values.min()), float(values.max())


def _line(sizes: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    design = np.column_stack([1 / seconds, sizes / seconds])  # errors as shares of what is measured
    (fixed, each), _ = nnls(design, np.ones(len(sizes)))
    return float(fixed), float(each)
