"""Section 4: a correlation taken apart, into what holds within groups and what holds between their means."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from graders.harness.cases import Case, called_with, check_form, grader, kind_of, refused
from graders.harness.differences import same
from graders.harness.expect import check, check_close, tolerance
from personalab.lm.tiny import drawn

_EXACT = tolerance(torch.float32, exact=1e-4)
_HINT = (
    "Groups may have one row or a hundred, their labels may be numbers or strings, and their rows need not be "
    "neighbours. A group in which x or y never varies is no error: it adds zeros. Nor are small numbers, or two equal "
    "means of several: a tolerance is a share of the values' own size."
)
_PLAIN = "you correlate all rows as they are: subtract the group's mean from x and from y first"

Values = Float[np.ndarray, "n"]
Mistakes = dict[str, Callable[[], Tensor | list[Tensor]]]


class _Rows(NamedTuple):
    x: Values
    y: Values
    groups: np.ndarray  # n numbers or strings

    @property
    def members(self) -> dict[Any, np.ndarray]:
        """Which rows belong to each group, in the order in which the groups appear."""
        return {group: self.groups == group for group in dict.fromkeys(self.groups.tolist())}


@grader
def test_within_between_correlation() -> Iterator[Case]:
    """Values on groups of equal and of unequal sizes, in any order; ValueError where nothing can be correlated."""
    words = ["suppressed", "plain", "mild", "strong", "elicited"]
    for what, rows in {
        "groups of 3, 9, 4, 14 and 5 rows, in order": _rows([3, 9, 4, 14, 5], list(range(5)), seed=0, shuffled=False),
        "5 groups of 6 rows, shuffled, with names": _rows([6] * 5, words, seed=1),
        "groups of 2, 7, 3, 10 and 5 rows, shuffled": _rows([2, 7, 3, 10, 5], [40, 7, 11, 3, 90], seed=2),
        "groups of 1, 8, 4 and 1 rows": _rows([1, 8, 4, 1], list("dbca"), seed=3),
        "a group in which y never varies": _flat_group(_rows([7, 6, 7, 5], [3, 1, 2, 0], seed=4), "y", group=2),
        "a group in which x never varies": _flat_group(_rows([7, 6, 7, 5], [3, 1, 2, 0], seed=6), "x", group=1),
        "x below zero and no larger than 0.01": _small(_rows([4, 9, 6, 5], list("abcd"), seed=7)),
        "2 of 3 groups with the same mean of x": _tied(),
        "3 groups, y falling within each and rising between them": _rows([8, 5, 6], list("xyz"), seed=5, slope=-0.8),
    }.items():
        yield Case(what, called_with(*rows), partial(_check, what, rows), _HINT)
    yield from _refusals()


def _rows(sizes: Sequence[int], labels: Sequence[Any], seed: int, slope: float = 0.4, shuffled: bool = True) -> _Rows:
    """Group means that rise together, and rows around them that follow a slope of their own."""
    rng = np.random.default_rng(drawn(seed))
    places = rng.permutation(len(sizes)).repeat(sizes)
    means = rng.normal(scale=0.8, size=len(sizes)).repeat(sizes)
    apart = rng.gamma(1.5, size=places.size)  # skewed: a median is no mean, a rank no value
    x = 2.0 + 3.0 * places + means + apart
    y = 30.0 + 9.0 * places + 5.0 * (slope * apart + rng.normal(size=places.size))
    order = rng.permutation(places.size) if shuffled else np.arange(places.size)
    return _Rows(x[order], y[order], np.array(labels).repeat(sizes)[order])


def _flat_group(rows: _Rows, side: str, group: Any) -> _Rows:
    return rows._replace(**{side: np.where(rows.groups == group, 50.0, getattr(rows, side))})


def _small(rows: _Rows) -> _Rows:
    return rows._replace(x=(rows.x - rows.x.max() - 1) * 0.009 / np.ptp(rows.x))


def _tied() -> _Rows:
    x, y = np.array([1.0, 3, 5, 2, 3, 4, 7, 9, 5]), np.array([20.0, 10, 30, 55, 40, 45, 60, 90, 75])
    return _Rows(x, y, np.repeat(list("abc"), 3))


def _refusals() -> Iterator[Case]:
    yield from _not_rows()
    yield from _constants()


def _not_rows() -> Iterator[Case]:
    x, y = np.array([1.0, 3, 2, 4, 7, 5, 8, 6]), np.array([10.0, 30, 20, 60, 50, 50, 90, 70])
    whole = _Rows(x, y, np.repeat(["a", "b", "c", "d"], 2))
    late, missing = (np.where(np.arange(8) == k, v, x) for k, v in ((0, np.inf), (5, np.nan)))
    unscored, lost = (np.where(np.arange(8) == k, v, y) for k, v in ((3, np.nan), (7, -np.inf)))
    nan = "NaN is no number: whoever calls leaves out rows without a score."
    for what, rows, why in (
        ("x one row short", whole._replace(x=whole.x[:-1]), "x, y and groups must be of one length."),
        ("y one row short", whole._replace(y=whole.y[:-1]), "x, y and groups must be of one length."),
        ("groups one row short", whole._replace(groups=whole.groups[:-1]), "x, y and groups must be of one length."),
        ("NaN in y", whole._replace(y=unscored), nan),
        ("NaN in x", whole._replace(x=missing), nan),
        ("infinity in x", whole._replace(x=late), "an infinite value has no mean."),
        ("minus infinity in y", whole._replace(y=lost), "an infinite value has no mean."),
        ("no rows", _Rows(whole.x[:0], whole.y[:0], whole.groups[:0]), "there is nothing to correlate."),
        ("one group", whole._replace(groups=np.ones(8)), "there is nothing between one group."),
        ("two groups", whole._replace(groups=np.repeat([1, 2], 4)), "the r of two points is +1 or -1."),
    ):
        yield refused(f"A call with {what}", partial(_call, rows), why)


def _constants() -> Iterator[Case]:
    """Nothing to correlate within or between; in tenths, which have no exact float, only a tolerance sees it."""
    x, y = np.array([1.0, 3, 2, 4, 7, 5, 8, 6]), np.array([10.0, 30, 20, 60, 50, 50, 90, 70])
    whole = _Rows(x, y, np.repeat(["a", "b", "c", "d"], 2))
    tenths = 0.1 * np.repeat([1.0, 2, 3, 4], 3)
    threes = _Rows(tenths, np.array([10.0, 30, 20, 60, 50, 55, 90, 70, 80, 40, 65, 75]), np.repeat([0, 1, 2, 3], 3))
    equal = np.array([0.1, 0.2, 0.3, 0.2, 0.2, 0.2, 0.3, 0.0, 0.3, 0.5, 0.4, -0.3])  # means of 0.2, but for rounding
    flat = "does not vary within any group, and a correlation with a constant is not defined."
    level = "a correlation needs group means that differ."
    rounding = (
        "What is left is rounding, some 1e-17, and not exactly zero: compare with a tolerance, as "
        "np.ptp(rest) <= 1e-9 * np.abs(v).max(), which holds for values below zero, too."
    )
    for what, rows, why in (
        ("a group for each row", whole._replace(groups=np.arange(8)), f"x {flat}"),
        ("x constant in each group", whole._replace(x=np.repeat([1.0, 4.0, 2.0, 8.0], 2)), f"x {flat}"),
        ("y constant in each group", whole._replace(y=np.repeat([50.0, 0.0, 75.0, 100.0], 2)), f"y {flat}"),
        ("equal group means of x", whole._replace(x=np.array([1.0, 3, 0, 4, -2, 6, 2, 2])), f"x: {level}"),
        ("equal group means of y", whole._replace(y=np.array([0.0, 100, 50, 50, 25, 75, 40, 60])), f"y: {level}"),
        ("x = 0.1, 0.2, 0.3 or 0.4, the same in each group", threes, f"x {flat} {rounding}"),
        ("y = -0.1, -0.2, … by group", threes._replace(x=threes.y, y=-tenths), f"y {flat} {rounding}"),
        ("group means of x of 0.2 each", threes._replace(x=equal), f"x: {level} {rounding}"),
    ):
        yield refused(f"A call with {what}", partial(_call, rows), why)


def _call(rows: _Rows, work: Any) -> Any:
    return work(*copy.deepcopy(tuple(rows)))


def _check(what: str, rows: _Rows, observed: tuple[Any, tuple[Any, ...]]) -> None:
    found, after = observed
    check(same(tuple(rows), after), f"{what}: you changed your input in place. `v = v - mean` makes a copy, `-=` not.")
    check_form(found, tuple, 2, f"{what}: expected a tuple (within, between)")
    for name, value, right, mistakes in zip(
        ("within", "between"), found, _right(rows), (_within_mistakes(rows), _between_mistakes(rows)), strict=True
    ):
        check_close(_number(value, f"{what}: {name}"), [right], f"{what}: {name}", mistakes, _EXACT, name="value")


def _number(value: Any, what: str) -> Float[Tensor, "1"]:
    try:
        check(not isinstance(value, bool | str | bytes), "")
        number = torch.tensor([float(value)], dtype=torch.float64)
    except (AssertionError, TypeError, ValueError, RuntimeError):
        raise AssertionError(f"{what}: expected one number, found {kind_of(value)} {value!r:.200}.") from None
    check(bool(number.isfinite()), f"{what}: expected a number, found {value!r}. What did you divide by?")
    return number


def _r(a: Any, b: Any) -> Float[Tensor, "1"]:
    """Pearson's, NaN for a constant."""
    a, b = (np.asarray(v, dtype=float) - np.mean(v) for v in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return torch.tensor([(a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())])


def _each(rows: _Rows) -> list[tuple[Values, Values]]:
    """Values of x and y, group by group, in the order in which the groups appear."""
    return [(rows.x[member], rows.y[member]) for member in rows.members.values()]


def _spread(rows: _Rows, take: Callable[[Values], Any]) -> list[Values]:
    """x and y with each value replaced by what `take` makes of its group."""
    out = [np.empty_like(v) for v in (rows.x, rows.y)]
    for member in rows.members.values():
        for filled, v in zip(out, (rows.x, rows.y), strict=True):
            filled[member] = take(v[member])
    return out


def _right(rows: _Rows) -> tuple[Tensor, Tensor]:
    x, y = _spread(rows, lambda v: v - v.mean())
    return _r(x, y), _r(*zip(*((a.mean(), b.mean()) for a, b in _each(rows)), strict=True))


def _in_runs(rows: _Rows) -> _Rows:
    """As if rows of a group were neighbours: labels sorted."""
    return rows._replace(groups=np.sort(rows.groups))


def _within_mistakes(rows: _Rows) -> Mistakes:
    within, between = _right(rows)
    x, y = _spread(rows, lambda v: v - v.mean())
    each = [(r, len(a)) for a, b in _each(rows) if len(a) > 1 and bool((r := _r(a, b)).isfinite())]
    alone, sizes = torch.cat([r for r, _ in each]), torch.tensor([n for _, n in each])
    products, n = float((x * y).sum()), len(x)

    return {
        _PLAIN: lambda: _r(rows.x, rows.y),
        "you average the r of single groups, or divide each by its own standard deviation: subtract the means and no "
        "more, pool the rows, and take one r": lambda: [
            alone.mean()[None],
            (alone * sizes).sum()[None] / sizes.sum(),
            (alone * (sizes - 1)).sum()[None] / (sizes - 1).sum(),
            alone.clamp(-1 + 1e-12, 1 - 1e-12).atanh().mean().tanh()[None],
            _r(*_spread(rows, lambda v: (v - v.mean()) / (v.std() or 1.0))),
        ],
        "you subtract the group means on one side only": lambda: [_r(x, rows.y), _r(rows.x, y)],
        "within and between have changed places": lambda: between,
        "you subtract medians: take means": lambda: _r(*_spread(rows, lambda v: v - np.median(v))),
        "you take rows of a group to be neighbours: go by the labels": lambda: _right(_in_runs(rows))[0],
        "you return a covariance or a slope: divide by both standard deviations": lambda: [
            torch.tensor([v]) for v in (products / n, products / (n - 1), products / (x**2).sum(), products)
        ],
        **_transformed(within, lambda: _r(rankdata(x), rankdata(y))),
    }


def _between_mistakes(rows: _Rows) -> Mistakes:
    within, between = _right(rows)
    means = np.array([(a.mean(), b.mean()) for a, b in _each(rows)]).T

    def of(take: Callable[[Values], Any]) -> Tensor:
        return _r(*zip(*((take(a), take(b)) for a, b in _each(rows)), strict=True))

    return {
        "you weigh groups by their rows: each group is one point, whatever its size": lambda: _r(
            *_spread(rows, lambda v: v.mean())
        ),
        "you correlate all rows as they are: take the groups' means": lambda: _r(rows.x, rows.y),
        "you correlate the group means of one side with single values of the other": lambda: [
            _r(_spread(rows, lambda v: v.mean())[0], rows.y),
            _r(rows.x, _spread(rows, lambda v: v.mean())[1]),
        ],
        "within and between have changed places": lambda: within,
        "you correlate sums, which grow with the groups' sizes: take means": lambda: of(np.sum),
        "you correlate medians: take means": lambda: of(np.median),
        "you take what within leaves over. Correlations do not add up: take the r of the group means": lambda: [
            1 - within,
            _r(rows.x, rows.y) - within,
        ],
        "you take rows of a group to be neighbours: go by the labels": lambda: _right(_in_runs(rows))[1],
        **_transformed(between, lambda: _r(*map(rankdata, means))),
    }


def _transformed(right: Tensor, ranks: Callable[[], Tensor]) -> Mistakes:
    return {
        "you return r squared, which has no sign": lambda: right**2,
        "the sign is lost, or wrong": lambda: [-right, right.abs()],
        "you correlate ranks: take Pearson's r of the values": ranks,
        "you return Fisher's z: take r itself": lambda: right.atanh(),
    }
