# Over 300 lines on purpose: one file an exercise, and its table of solutions is the content.
from collections import Counter, defaultdict

import einops
import numpy as np
import pandas as pd
import torch
from scipy.stats import kendalltau, pearsonr, spearmanr

from checks.bank import right, wrong


def refuse(x, y, groups):
    """What every right solution refuses; written once, with no statistics in it."""
    if not len(x) == len(y) == len(groups):
        raise ValueError("x, y and groups differ in length")
    if not all(np.isfinite(v) for v in [*x, *y]):
        raise ValueError("a value is missing or infinite")
    if len(set(groups)) < 3:
        raise ValueError("fewer than three groups")


def safe_r(a, b):
    if max(a) - min(a) < 1e-7 or max(b) - min(b) < 1e-7:  # for float32, too; no case has values so small
        raise ValueError("a constant has no correlation")
    return pearsonr(a, b).statistic


def by_label(values, groups):
    found = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        found[group].append(value)
    return found


def means_of(values, groups):
    return {group: sum(members) / len(members) for group, members in by_label(values, groups).items()}


def centred(values, groups):
    means = means_of(values, groups)
    return [value - means[group] for value, group in zip(values, groups, strict=True)]


@right
def plain_loops(x, y, groups):
    refuse(x, y, groups)
    a, b = means_of(x, groups), means_of(y, groups)
    return safe_r(centred(x, groups), centred(y, groups)), safe_r(list(a.values()), list(b.values()))


@right
def in_numpy(x, y, groups):
    refuse(x, y, groups)
    _, codes = np.unique(groups, return_inverse=True)
    sizes = np.bincount(codes)
    mx, my = np.bincount(codes, weights=x) / sizes, np.bincount(codes, weights=y) / sizes
    rx, ry = x - mx[codes], y - my[codes]
    if min(map(np.ptp, (mx, my, rx, ry))) < 1e-12:
        raise ValueError("constant")
    return float(np.corrcoef(rx, ry)[0, 1]), float(np.corrcoef(mx, my)[0, 1])


@right
def as_a_projection(x, y, groups):
    """Regress dummies out of both sides, in torch; r from cosines."""
    refuse(x, y, groups)
    labels = list(dict.fromkeys(groups))
    dummies = torch.tensor([[float(g == label) for label in labels] for g in groups], dtype=torch.float64)
    sides = torch.tensor(np.stack([x, y], axis=1), dtype=torch.float64)
    means = torch.linalg.lstsq(dummies, sides).solution  # (groups, 2)
    rest, means = sides - dummies @ means, means - means.mean(0)
    if min(rest.norm(dim=0).min(), means.norm(dim=0).min()) < 1e-9:
        raise ValueError("constant")
    return tuple(torch.cosine_similarity(m[:, 0], m[:, 1], dim=0) for m in (rest, means))


@right
def in_float32(x, y, groups):
    return tuple(map(np.float32, plain_loops(np.asarray(x, np.float32).astype(float), y, groups)))


@right
def with_pandas(x, y, groups):
    refuse(x, y, groups)
    table = pd.DataFrame({"x": x, "y": y})
    means = table.groupby(np.asarray(groups), sort=False).mean()
    rest = table - means.loc[groups].to_numpy()
    for part in (rest, means):
        if ((part.max() - part.min()) <= 1e-9 * table.abs().max()).any():
            raise ValueError("constant")
    return rest.x.corr(rest.y), means.x.corr(means.y)


@right
def with_einops(x, y, groups):
    """Groups as rows of a membership matrix; a correlation as the mean product of z-scores."""
    refuse(x, y, groups)
    member = (np.asarray(groups)[None] == np.unique(groups)[:, None]).astype(float)  # (groups, n)
    member /= einops.reduce(member, "g n -> g 1", "sum")
    values = np.stack([x, y])
    means = einops.einsum(member, values, "g n, v n -> v g")
    rest = values - einops.einsum(means, (member > 0).astype(float), "v g, g n -> v n")

    def r(part):
        if (np.ptp(part, axis=1) <= 1e-9 * np.abs(values).max(axis=1)).any():
            raise ValueError("constant")
        z = (part - part.mean(1, keepdims=True)) / part.std(1, keepdims=True)
        return float((z[0] * z[1]).mean())

    return r(rest), r(means)


def solution(words, within=None, between=None):
    """A wrong one that differs in one of the two numbers."""

    def made(x, y, groups):
        first, second = plain_loops(x, y, groups)
        return (within or (lambda *_: first))(x, y, groups), (between or (lambda *_: second))(x, y, groups)

    made.__module__ = __name__
    return wrong(words)(made)


def group_rs(x, y, groups):
    a, b = by_label(x, groups), by_label(y, groups)
    pairs = [(a[g], b[g]) for g in a if len(a[g]) > 2 and np.ptp(a[g]) and np.ptp(b[g])]
    return [pearsonr(*pair).statistic for pair in pairs], [len(pair[0]) for pair in pairs]


def per_group(x, y, groups):
    return float(np.mean(group_rs(x, y, groups)[0]))


def per_group_weighted(x, y, groups):
    return float(np.average(group_rs(x, y, groups)[0], weights=group_rs(x, y, groups)[1]))


def standardised(values, groups):
    spread = {g: np.std(v) or 1.0 for g, v in by_label(values, groups).items()}
    return [v / spread[g] for v, g in zip(centred(values, groups), groups, strict=True)]


def rows_of_means(values, groups):
    means = means_of(values, groups)
    return [means[g] for g in groups]


def in_runs(x, y, groups):
    return plain_loops(x, y, sorted(groups))


def sums(values, groups):
    return [sum(v) for v in by_label(values, groups).values()]


def medians_out(values, groups):
    middle = {g: np.median(v) for g, v in by_label(values, groups).items()}
    return [v - middle[g] for v, g in zip(values, groups, strict=True)]


pooled_within = solution("within: .*correlate all rows as they are", lambda x, y, g: pearsonr(x, y).statistic)
mean_of_groups = solution("average the r of single groups", per_group)
weighted_mean_of_groups = solution("average the r of single groups", per_group_weighted)
one_side = solution("one side only", lambda x, y, g: safe_r(centred(x, g), y))
other_side = solution("one side only", lambda x, y, g: safe_r(x, centred(y, g)))
z_scored = solution(
    "divide each by its own standard deviation", lambda x, y, g: safe_r(standardised(x, g), standardised(y, g))
)
around_medians = solution("medians", lambda x, y, g: safe_r(medians_out(x, g), medians_out(y, g)))
covariance = solution("covariance", lambda x, y, g: float(np.cov(centred(x, g), centred(y, g))[0, 1]))
slope = solution("slope", lambda x, y, g: float(np.polyfit(centred(x, g), centred(y, g), 1)[0]))
within_of_runs = solution("within: .*neighbours", lambda x, y, g: in_runs(x, y, g)[0])
spearman_within = solution(
    "within: .*ranks", lambda x, y, g: spearmanr(np.round(centred(x, g), 9), np.round(centred(y, g), 9)).statistic
)
squared = solution("r squared", lambda x, y, g: plain_loops(x, y, g)[0] ** 2)
unsigned = solution("sign", lambda x, y, g: abs(plain_loops(x, y, g)[0]))
fishers_z = solution("Fisher", None, lambda x, y, g: float(np.arctanh(plain_loops(x, y, g)[1])))


def median_of_groups(x, y, groups):
    return float(np.median(group_rs(x, y, groups)[0]))


def groups_of_two_and_more(values, groups):
    return [np.mean(v) for v in by_label(values, groups).values() if len(v) > 1]


def around_others(values, groups):
    """Each row minus the mean of the others of its group."""
    found = by_label(values, groups)
    return [v - (np.mean(found[g]) * len(found[g]) - v) / max(len(found[g]) - 1, 1) for v, g in zip(values, groups)]  # noqa: B905


def best_row(values, groups):
    return [max(v) for v in by_label(values, groups).values()]


middle_of_groups = solution("within: ", median_of_groups)
kendall_within = solution("within: ", lambda x, y, g: kendalltau(centred(x, g), centred(y, g)).statistic)
leaves_one_out = solution("within: ", lambda x, y, g: safe_r(around_others(x, g), around_others(y, g)))
percent = solution("within: ", lambda x, y, g: 100 * plain_loops(x, y, g)[0])
around_the_grand_mean = solution("as they are", lambda x, y, g: safe_r(x - np.mean(x), y - np.mean(y)))
single_rows_dropped = solution(
    "groups of 1, 8, 4 and 1 rows: between|found ValueError",
    None,
    lambda x, y, g: safe_r(groups_of_two_and_more(x, g), groups_of_two_and_more(y, g)),
)
highest_rows_between = solution("between: ", None, lambda x, y, g: safe_r(best_row(x, g), best_row(y, g)))

pooled_between = solution("between: .*take the groups' means", None, lambda x, y, g: pearsonr(x, y).statistic)
weighted_between = solution(
    "each group is one point", None, lambda x, y, g: safe_r(rows_of_means(x, g), rows_of_means(y, g))
)
means_against_rows = solution("single values", None, lambda x, y, g: safe_r(rows_of_means(x, g), y))
sums_between = solution("sums", None, lambda x, y, g: safe_r(sums(x, g), sums(y, g)))
left_over = solution("do not add up", None, lambda x, y, g: pearsonr(x, y).statistic - plain_loops(x, y, g)[0])
between_of_runs = solution("between: .*neighbours", None, lambda x, y, g: in_runs(x, y, g)[1])
ranks_between = solution(
    "between: .*ranks",
    None,
    lambda x, y, g: spearmanr(list(means_of(x, g).values()), list(means_of(y, g).values())).statistic,
)


@wrong("changed places")
def swapped(x, y, groups):
    return plain_loops(x, y, groups)[::-1]


@wrong("expected a tuple")
def one_number(x, y, groups):
    return plain_loops(x, y, groups)[0]


@wrong("expected a tuple")
def named(x, y, groups):
    return dict(zip(("within", "between"), plain_loops(x, y, groups), strict=True))


@wrong("expected one number")
def whole_matrix(x, y, groups):
    return np.corrcoef(centred(x, groups), centred(y, groups)), plain_loops(x, y, groups)[1]


@wrong("in place")
def changes_its_input(x, y, groups):
    answer = plain_loops(x, y, groups)
    x -= x.mean()
    return answer


@wrong("expected a result, found|neighbours|changed places")
def labels_as_indices(x, y, groups):
    """Works while the labels count from 0."""
    codes = np.asarray(groups)
    sizes = np.bincount(codes)
    mx, my = np.bincount(codes, weights=x) / sizes, np.bincount(codes, weights=y) / sizes
    return safe_r(x - mx[codes], y - my[codes]), safe_r(mx, my)


@wrong("found nan|average the r of single groups")
def needs_every_group_to_vary(x, y, groups):
    """The mean of r over groups, one of which is NaN."""
    a, b = by_label(x, groups), by_label(y, groups)
    with np.errstate(all="ignore"):
        return float(np.mean([np.corrcoef(a[g], b[g])[0, 1] for g in a])), plain_loops(x, y, groups)[1]


@wrong(r"average the r|found nan|expected a number")
def smallest_groups_dropped(x, y, groups):
    return per_group(x, y, groups), plain_loops(x, y, groups)[1]


def lax(words, given_up):
    """A wrong one that gives a value where right ones refuse."""

    def made(x, y, groups):
        try:
            return plain_loops(x, y, groups)
        except ValueError:
            return given_up(x, y, groups)

    made.__module__ = __name__
    return wrong(words)(made)


def shortest(x, y, groups):
    n = min(len(x), len(y), len(groups))
    if n == len(x) == len(y) == len(groups):
        raise ValueError
    return plain_loops(x[:n], y[:n], groups[:n])


def without_missing(x, y, groups):
    if not len(x) == len(y) == len(groups):
        raise ValueError
    kept = [i for i in range(len(x)) if np.isfinite(x[i]) and np.isfinite(y[i])]
    if len(kept) == len(x):
        raise ValueError
    return plain_loops(x[kept], y[kept], groups[kept])


def one_for_two(x, y, groups):
    if len(set(groups)) != 2:
        raise ValueError
    return safe_r(centred(x, groups), centred(y, groups)), 1.0


def zero_for_constants(x, y, groups):
    refuse(x, y, groups)
    return 0.0, 0.0


zipped = lax("one length", shortest)
drops_missing = lax("NaN in y|no number", without_missing)
two_groups = lax(r"two groups|\+1 or -1", one_for_two)
zero_where_undefined = lax("must raise ValueError", zero_for_constants)


@wrong("must raise ValueError")
def nan_where_undefined(x, y, groups):
    try:
        return plain_loops(x, y, groups)
    except ValueError:
        return float("nan"), float("nan")


@wrong("raise ValueError")
def another_error(x, y, groups):
    try:
        return plain_loops(x, y, groups)
    except ValueError as error:
        raise RuntimeError("no") from error


@wrong("must raise ValueError")
def one_row_a_group(x, y, groups):
    refuse(x, y, groups)
    if len(set(groups)) == len(groups):
        return 0.0, safe_r(x, y)
    return plain_loops(x, y, groups)


def variable(words, constant):
    """Wrong in how it sees a constant: `constant(part, values)`."""

    def made(x, y, groups):
        refuse(x, y, groups)
        _, codes = np.unique(groups, return_inverse=True)
        sizes = np.bincount(codes)
        means = [np.bincount(codes, weights=v) / sizes for v in (x, y)]
        rests = [v - mean[codes] for v, mean in zip((x, y), means, strict=True)]
        for pair in (rests, means):
            if any(constant(part, v) for part, v in zip(pair, (x, y), strict=True)):
                raise ValueError("constant")
        return tuple(pearsonr(*pair).statistic for pair in (rests, means))

    made.__module__ = __name__
    return wrong(words)(made)


exact = variable("same in each group.*tolerance", lambda part, v: np.ptp(part) == 0)
exact_spread = variable("same in each group.*tolerance", lambda part, v: part.std() == 0)
share_of_the_rest = variable("same in each group", lambda part, v: np.ptp(part) <= 1e-9 * np.abs(part).max())
sign_of_the_values = variable("y = -0.1.*below zero", lambda part, v: np.ptp(part) <= 1e-9 * v.max())
wide_tolerance = variable("no larger than 0.01.*share of the values' own size", lambda part, v: np.ptp(part) < 0.02)
no_ties_allowed = variable(
    "same mean of x.*two equal",
    lambda part, v: np.ptp(part) <= 1e-9 * np.abs(v).max() or len(set(part)) < len(part) < len(v),
)


@wrong("means of x of 0.2.*tolerance")
def exact_between(x, y, groups):
    """Looks at each group's values as they are, which is right, and at the means in the same way."""
    refuse(x, y, groups)
    a, b = by_label(x, groups), by_label(y, groups)
    means = [[np.mean(v) for v in side.values()] for side in (a, b)]
    if any(all(np.ptp(v) == 0 for v in side.values()) for side in (a, b)) or min(map(np.ptp, means)) == 0:
        raise ValueError("constant")
    return pearsonr(centred(x, groups), centred(y, groups)).statistic, np.corrcoef(*means)[0, 1]


@wrong("which x never varies: within")
def flat_groups_left_out(x, y, groups):
    """Of x alone: what y does there no longer counts."""
    kept = [i for i, g in enumerate(groups) if np.ptp(np.asarray(x)[np.asarray(groups) == g]) > 0]
    between = plain_loops(x, y, groups)[1]
    x, y, groups = (np.asarray(v)[kept] for v in (x, y, groups))
    return safe_r(centred(x, groups), centred(y, groups)), between


@wrong("within: ")
def pairs_of_rows(x, y, groups):
    """All differences between two rows of a group: a group counts by the square of its size."""
    refuse(x, y, groups)
    pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if groups[i] == groups[j]]
    return safe_r(*([v[i] - v[j] for i, j in pairs] for v in (x, y))), plain_loops(x, y, groups)[1]


@wrong("between: ")
def means_in_two_orders(x, y, groups):
    """x by sorted label, y as the labels come."""
    within, _ = plain_loops(x, y, groups)
    a, b = means_of(x, groups), means_of(y, groups)
    return within, safe_r([a[g] for g in sorted(a)], list(b.values()))


def half_checked(words, gap):
    """Wrong in what it lets pass: `gap` mends the values, where right ones refuse them."""

    def made(x, y, groups):
        return plain_loops(*gap(x, y, groups))

    made.__module__ = __name__
    return wrong(words)(made)


nan_in_x_filled = half_checked("NaN in x", lambda x, y, g: (np.where(np.isnan(x), 0.0, x), y, g))
infinite_y_cut = half_checked("infinity in y", lambda x, y, g: (x, np.where(np.isinf(y), 0.0, y), g))
short_y_filled = half_checked("y one row short", lambda x, y, g: (x, [*y, *[50.0] * (len(x) - len(y))], g))


@wrong("groups of 1, 8, 4 and 1 rows: expected a result, found ValueError")
def refuses_single_rows(x, y, groups):
    """Refuses groups of one row."""
    if 1 in Counter(list(groups)).values() and len(set(groups)) > 3 and len(x) > 9:
        raise ValueError("a group of one")
    return plain_loops(x, y, groups)


@wrong("3 groups.*expected a result, found ValueError|2 of 3 groups.*found ValueError")
def needs_four_groups(x, y, groups):
    if len(set(groups)) < 4:
        raise ValueError("too few groups")
    return plain_loops(x, y, groups)
