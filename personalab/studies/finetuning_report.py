"""What the files of the finetuning study say: correlations with intervals, cuts, costs, ranks. Computes no model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from personalab.files import read_text
from personalab.measure.auc import auc, auc_with_interval
from personalab.measure.intervals import Interval, bootstrap_draws, bootstrap_interval
from personalab.records.datasets import CATEGORIES, OWN, VERSIONS
from personalab.records.rows import MAIN_TRAITS
from personalab.records.schema import DataError

N_RANDOM = 500  # directions of the control
N_PLANTED = 15  # bad rows among the good ones of a category; our choice, made before any score was seen
JUDGE_LOW = 50.0  # of 100: planted rows below it are those that a filter by the judge's score lets pass


class Found(NamedTuple):
    """A statistic, its 95 % interval, and on how many units it rests."""

    value: float
    ci: Interval | None
    n: int


@dataclass(frozen=True)
class Shifts:
    """One row a finetune.

    Attributes:
        states: what finetuning added to the mean state of the last prompt token.
        scores: mean trait score afterwards, by trait.
        judged: the judge's mean score of the training answers, by trait.
    """

    categories: list[str]
    versions: list[str]
    states: Float[Tensor, "n d"]
    scores: dict[str, Float[np.ndarray, "n"]]
    judged: dict[str, Float[np.ndarray, "n"]]
    loss: Float[np.ndarray, "n"]
    update_norm: Float[np.ndarray, "n"]
    seconds: Float[np.ndarray, "n"]


def read_result(path: Path) -> dict[str, Any]:
    """One file of the study.

    Raises:
        DataError: if it is missing or damaged.
    """
    try:
        return dict(json.loads(read_text(path)))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: run `python -m personalab finetuning-study`.") from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): run the study again, which makes it anew.") from None


def mean_scores(found: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
    """Means over questions, of those that have a score."""
    return {t: float(np.nanmean(np.array(found[t], dtype=float))) for t in MAIN_TRAITS}


def shifts_of(rows: Iterable[Mapping[str, Any]]) -> Shifts:
    """Results of finetunes as a table."""
    rows = list(rows)
    scores, judged = [mean_scores(r["scores"]) for r in rows], [r["judged"] for r in rows]
    return Shifts(
        [r["category"] for r in rows],
        [r["version"] for r in rows],
        torch.tensor([r["shift"] for r in rows], dtype=torch.float32),
        {t: np.array([s[t] for s in scores]) for t in MAIN_TRAITS},
        {t: np.array([j[t] for j in judged]) for t in MAIN_TRAITS},
        *(np.array([float(r[k]) for r in rows]) for k in ("loss", "update_norm", "seconds")),
    )


def load_shifts(folder: Path) -> Shifts:
    """The study's 24 finetunes, or as many as there are.

    Raises:
        DataError: if there are none, or a file is damaged.
    """
    paths = [folder / "shift" / f"{c}-{v}.json" for c in CATEGORIES for v in VERSIONS]
    present = [p for p in paths if p.exists()]
    if not present:
        raise DataError(f"{folder}/shift holds no results: run `python -m personalab finetuning-study shift`.")
    return shifts_of(map(read_result, present))


def base_scores(folder: Path) -> dict[str, float]:
    """Mean trait scores before any finetuning."""
    return mean_scores(read_result(folder / "base.json")["scores"])


def along(states: Float[Tensor, "n d"], vector: Float[Tensor, "d"]) -> Float[np.ndarray, "n"]:
    """Projection on the unit vector."""
    return (states.float() @ F.normalize(vector.float(), dim=0)).numpy()


def specific(vectors: Mapping[str, Float[Tensor, "d"]], trait: str) -> Float[Tensor, "d"]:
    """A trait's direction without what it shares with the others: the mean of their unit vectors is projected out."""
    shared = F.normalize(torch.stack([F.normalize(v, dim=0) for t, v in vectors.items() if t != trait]).mean(0), dim=0)
    return vectors[trait] - (vectors[trait] @ shared) * shared


def over_categories(statistic: Callable[[np.ndarray], float], groups: Sequence[str], n_resamples: int = 1000) -> Found:
    """A statistic of finetunes' indices; the interval resamples whole categories, whose versions share questions."""
    names = sorted(set(groups))
    members = [np.flatnonzero(np.array(groups) == name) for name in names]

    def of(picked: np.ndarray) -> float:
        return statistic(np.concatenate([members[i] for i in picked]))

    everyone = np.arange(len(names))
    return Found(of(everyone), bootstrap_interval(len(names), of, n_resamples=n_resamples), len(groups))


def correlation(
    x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"], groups: Sequence[str], n_resamples: int = 1000
) -> Found:
    """Pearson's r over finetunes, with `over_categories`' interval."""
    return over_categories(lambda rows: _pearson(x[rows], y[rows]), groups, n_resamples)


def _pearson(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def correlations(
    shifts: Shifts, vectors: Mapping[str, Float[Tensor, "d"]], trait: str, n_resamples: int = 1000
) -> dict[str, Found]:
    """r of a trait's later score with its shift, and with everything that might do as well, by name of the key.

    Args:
        vectors: of all traits at the block where the states were read.
    """
    y, groups = shifts.scores[trait], shifts.categories

    def r(x: Float[np.ndarray, "n"], rows: np.ndarray | None = None) -> Found:
        picked = np.arange(len(y)) if rows is None else rows
        return correlation(x[picked], y[picked], [groups[i] for i in picked], n_resamples)

    own, read = along(shifts.states, vectors[trait]), shifts.judged[trait]

    def further(rows: np.ndarray) -> float:
        return _pearson(own[rows], y[rows]) - _pearson(read[rows], y[rows])

    others = [t for t in MAIN_TRAITS if t != trait]
    elsewhere = np.array([i for i, c in enumerate(groups) if c != OWN[trait]])
    return {
        "shift_r": r(own),
        "shift_r_random": random_correlation(shifts.states, y),
        "shift_r_loss": r(shifts.loss),
        "shift_r_weights": r(shifts.update_norm),
        "shift_r_judge": r(read),
        "shift_r_minus_judge": over_categories(further, groups, n_resamples),
        **{f"shift_r_{other}": r(along(shifts.states, vectors[other])) for other in others},
        "shift_r_specific": r(along(shifts.states, specific(vectors, trait))),
        **({"shift_r_elsewhere": r(own, elsewhere)} if len({groups[i] for i in elsewhere}) > 2 else {}),
    }


def random_correlation(states: Float[Tensor, "n d"], y: Float[np.ndarray, "n"]) -> Found:
    """Mean size of r along random directions, with the central 95 % of the draws."""
    directions = torch.randn(states.shape[1], N_RANDOM, generator=torch.Generator().manual_seed(0))
    projections = (states.float() @ directions).numpy()  # (n, draws)
    sizes = np.abs([np.corrcoef(column, y)[0, 1] for column in projections.T])
    low, high = np.quantile(sizes, [0.025, 0.975])
    return Found(float(sizes.mean()), Interval(float(low), float(high)), len(y))


def cross_traits(shifts: Shifts, base: Mapping[str, float]) -> Float[np.ndarray, "sets traits"]:
    """Change of every main trait's score against the model before, one row a dataset in the table's order."""
    return np.stack([shifts.scores[t] - base[t] for t in MAIN_TRAITS], axis=1)


def difference(a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"]) -> Found:
    """Mean of a minus b, paired."""
    return Found(float(np.nanmean(a - b)), bootstrap_interval(len(a), lambda i: float(np.nanmean(a[i] - b[i]))), len(a))


def load_screening(folder: Path) -> dict[str, dict[str, Any]]:
    """Every category's rows by all ways to tell bad ones."""
    return {c: read_result(p) for c in CATEGORIES if (p := folder / "screening" / f"{c}.json").exists()}


def planted(n: int, category: str, n_bad: int = N_PLANTED) -> Bool[np.ndarray, "n"]:
    """Which of n rows are the bad version's (True), drawn from the category's name alone."""
    rng = np.random.default_rng([ord(letter) for letter in category])
    bad = np.zeros(n, dtype=bool)
    bad[rng.choice(n, min(n_bad, n // 2), replace=False)] = True
    return bad


def mixed(category: Mapping[str, Any], way: str, trait: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a good set with planted rows, and which rows are planted; `way`: projection, judge, words or loss."""

    def column(version: str) -> np.ndarray:
        found = category[version]
        return np.array(found["loss"] if way == "loss" else found[trait][way], dtype=float)

    good, wrong = column("normal"), column("misaligned_2")
    bad = planted(len(good), category["category"])
    return np.where(bad, wrong, good), bad


def screening_auc(screening: Mapping[str, Mapping[str, Any]], way: str, only_unseen: bool = False) -> Found:
    """Chance that a planted row ranks above a good one of its category, mean over the three main traits' categories.

    Args:
        only_unseen: of planted rows, those alone that the judge scores low.
    """
    values, lows, highs, n = [], [], [], 0
    for trait, name in OWN.items():
        if name not in screening:
            continue
        scores, bad = mixed(screening[name], way, trait)
        low = mixed(screening[name], "judge", trait)[0] < JUDGE_LOW
        above, below = scores[bad & low] if only_unseen else scores[bad], scores[~bad]
        if not len(above):
            continue
        value, ci = auc_with_interval(above, below)
        values.append(value)
        lows.append(value - ci.low)
        highs.append(ci.high - value)
        n += len(above)
    mean, k = float(np.mean(values)), len(values)
    low_end, high_end = (float(np.sqrt((np.array(e) ** 2).sum()) / k) for e in (lows, highs))  # independent sets
    return Found(mean, Interval(max(0.0, mean - low_end), min(1.0, mean + high_end)), n)


def screening_difference(screening: Mapping[str, Mapping[str, Any]], way: str, against: str) -> Found:
    """AUC of one way to tell planted rows minus that of another, on the same rows, which are resampled."""
    draws: list[Float[np.ndarray, "rows"]] = []
    values, n = [], 0
    for trait, name in OWN.items():
        if name not in screening:
            continue
        (scores, bad), (others, _) = (mixed(screening[name], kind, trait) for kind in (way, against))

        def further(i: np.ndarray, a: np.ndarray = scores, b: np.ndarray = others, bad: np.ndarray = bad) -> float:
            a, b, bad = a[i], b[i], bad[i]
            return auc(a[bad], a[~bad]) - auc(b[bad], b[~bad])

        values.append(further(np.arange(len(bad))))
        draws.append(bootstrap_draws(len(bad), further, seed=len(draws)))
        n += int(bad.sum())
    low, high = np.quantile(np.mean(draws, axis=0), [0.025, 0.975])
    return Found(float(np.mean(values)), Interval(float(low), float(high)), n)


def dataset_differences(screening: Mapping[str, Mapping[str, Any]], shifts: Shifts, trait: str) -> np.ndarray:
    """Mean projection difference of each dataset in the table's order: what is known before any training."""
    pairs = zip(shifts.categories, shifts.versions, strict=True)
    return np.array([float(np.mean(screening[c][v][trait]["projection"])) for c, v in pairs])
