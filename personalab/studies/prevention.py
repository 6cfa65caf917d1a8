"""What the study says of prevention: how much of an acquired trait each condition takes away, and at what cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from personalab.measure.intervals import Interval, bootstrap_draws, bootstrap_interval
from personalab.records.schema import DataError
from personalab.studies.finetuning_report import Found, difference, read_result

LEAST = 1.0  # point of 100 that counts as acquired in a resample that has less: a share of nothing is none


class Prevented(NamedTuple):
    """How one condition of training ended, question by question and item by item."""

    calibration: Float[np.ndarray, "n"]
    scores: Float[np.ndarray, "n"]
    coherence: Float[np.ndarray, "n"]
    right: Float[np.ndarray, "k"]
    nll: Float[np.ndarray, "windows"]


def load_prevention(folder: Path, trait: str) -> dict[str, Prevented]:
    """Every condition that was tried on a trait, by name.

    "before" is the model without finetuning, "plain" that on bad data with nothing else, "good" that on the good
    answers to the same questions.
    """
    found = {}
    for path in sorted((folder / "prevention" / trait).glob("*.json")):
        row = read_result(path)
        columns = [
            row["calibration"],
            row["scores"][trait],
            row["scores"][f"{trait} coherence"],
            row["right"],
            row["nll"],
        ]
        found[path.stem] = Prevented(*(np.array(c, dtype=float) for c in columns))
    if missing := sorted({"before", "plain", "good"} - set(found)):
        raise DataError(f"{folder}/prevention/{trait} lacks {', '.join(missing)} (.json): run the study's prevention.")
    return found


def best(found: Mapping[str, Prevented], starts: str) -> str:
    """Of the conditions whose names begin so, the one with the lowest score on the calibration questions."""
    names = [name for name in found if name.startswith(starts)]
    return min(names, key=lambda name: float(np.nanmean(found[name].calibration)))


def matched(found: Mapping[str, Prevented], condition: str) -> str:
    """The weakest inference-time steering that suppresses the trait as far on the calibration questions; else the one
    that comes nearest."""
    target = float(np.nanmean(found[condition].calibration))
    names = sorted(
        (n for n in found if n.startswith("inference")), key=lambda n: abs(float(n.removeprefix("inference")))
    )
    scores = {n: float(np.nanmean(found[n].calibration)) for n in names}
    return next((n for n in names if scores[n] <= target), min(names, key=lambda n: scores[n] - target))


def cut(found: Mapping[str, Prevented], condition: str) -> Found:
    """Share of the acquired trait that a condition takes away: 1 is all of it, 0 none; paired over questions.

    Acquired is what finetuning on bad answers leaves above finetuning on the good ones to the same questions. (Against
    the model before, any finetuning changes the score.)
    """
    share, n = _share(found, condition), len(found["plain"].scores)
    return Found(share(np.arange(n)), bootstrap_interval(n, share), n)


def _share(found: Mapping[str, Prevented], condition: str) -> Callable[[np.ndarray], float]:
    good, plain, other = (found[name].scores for name in ("good", "plain", condition))

    def share(i: np.ndarray) -> float:
        return float(np.nanmean(plain[i] - other[i]) / max(np.nanmean(plain[i] - good[i]), LEAST))

    return share


def perplexity_ratio(a: Prevented, b: Prevented) -> Found:
    """Perplexity of prose under a over that under b, paired by window."""
    ci = bootstrap_interval(len(a.nll), lambda i: float(np.exp(a.nll[i].mean() - b.nll[i].mean())))
    return Found(float(np.exp(a.nll.mean() - b.nll.mean())), ci, len(a.nll))


def pooled(found: Mapping[str, Mapping[str, Prevented]], pick: Callable[[str], str]) -> tuple[Found, Found]:
    """Cut and capability difference (points of 100 against plain) over traits, `pick` naming each one's condition.

    The cut is the mean of the traits'; its interval resamples questions within each.
    """
    draws: list[Float[np.ndarray, "rows"]] = []
    values: list[float] = []
    for trait, conditions in found.items():
        share, n = _share(conditions, pick(trait)), len(conditions["plain"].scores)
        values.append(share(np.arange(n)))
        draws.append(bootstrap_draws(n, share, seed=len(draws)))
    low, high = np.quantile(np.mean(draws, axis=0), [0.025, 0.975])
    cuts = Found(
        float(np.mean(values)), Interval(float(low), float(high)), sum(len(c["plain"].scores) for c in found.values())
    )
    capability = np.mean([100 * (c[pick(t)].right - c["plain"].right) for t, c in found.items()], axis=0)
    return cuts, difference(capability, np.zeros_like(capability))
