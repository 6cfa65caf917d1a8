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


class Prevented(NamedTuple):
    """How one condition of training ended, question by question and item by item."""

    calibration: Float[np.ndarray, "n"]
    scores: Float[np.ndarray, "n"]
    coherence: Float[np.ndarray, "n"]
    right: Float[np.ndarray, "k"]
    nll: Float[np.ndarray, "windows"]


def load_prevention(folder: Path, trait: str) -> dict[str, Prevented]:
    """Every condition that was tried on a trait, by name; "before" is the model without finetuning."""
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
    if not {"before", "plain"} <= set(found):
        raise DataError(f"{folder}/prevention/{trait} lacks before.json or plain.json: run the study's prevention.")
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

    Acquired is what plain finetuning adds to the score of the model before.
    """
    before, plain, other = (found[name].scores for name in ("before", "plain", condition))

    def share(i: np.ndarray) -> float:
        acquired = np.nanmean(plain[i]) - np.nanmean(before[i])
        return float((np.nanmean(plain[i]) - np.nanmean(other[i])) / acquired) if acquired > 1 else float("nan")

    return Found(share(np.arange(len(plain))), bootstrap_interval(len(plain), share), len(plain))


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
        before, plain, other = (conditions[n].scores for n in ("before", "plain", pick(trait)))

        def share(
            i: np.ndarray, before: np.ndarray = before, plain: np.ndarray = plain, other: np.ndarray = other
        ) -> float:
            return float(np.nanmean(plain[i] - other[i]) / max(np.nanmean(plain[i] - before[i]), 1.0))

        values.append(share(np.arange(len(plain))))
        draws.append(bootstrap_draws(len(plain), share, seed=len(draws)))
    low, high = np.quantile(np.mean(draws, axis=0), [0.025, 0.975])
    cuts = Found(
        float(np.mean(values)), Interval(float(low), float(high)), sum(len(c["plain"].scores) for c in found.values())
    )
    capability = np.mean([100 * (c[pick(t)].right - c["plain"].right) for t, c in found.items()], axis=0)
    return cuts, difference(capability, np.zeros_like(capability))
