"""Fit the coherence that reads, and measure it once against readers' labels that neither fit nor choice has seen.

python -m personalab coherence --record     # minutes; puts the numbers on record

Fitted on the labelled answers of trait organisms in `judging/data/fit`, and on the same answers ruined: their words
shuffled, or given to another question. Nothing under `data/held_out` is opened before the head is saved.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.stats import spearmanr

from personalab.judging import examples, score_responses
from personalab.judging.corruptions import SCORES, corrupt
from personalab.judging.examples import Split, TraitRow
from personalab.judging.features import Pair
from personalab.judging.fit import fit_head
from personalab.judging.heads import Head, save_heads
from personalab.measure.coherence import HEAD_FILE, features, score
from personalab.measure.intervals import bootstrap_interval
from personalab.paths import ROOT
from personalab.records.provenance import describe
from personalab.records.results import RECORD, merge_json, record
from personalab.setup.machine import compute_for_the_record
from personalab.tiers import EMBEDDED_MODEL, GLOBAL_SEED

SHIPPED = {"fit": 383, "held_out": 248}  # last rows of each file: answers of the adapter that the course ships
RUINS = ("shuffled", "off topic")
RUIN_WEIGHT = 0.03  # our choice, by cross-validation over questions within the fit examples, as is the next
STRENGTH = 0.003  # inverse of the L2 penalty
Statistic = Callable[[np.ndarray], float]  # of indices of rows


def labelled(split: Split) -> list[TraitRow]:
    """The organisms' answers with a reader's label for coherence, in the file's order."""
    return [row for row in examples.trait_rows(split) if row.coherence is not None]


def labels(rows: Sequence[TraitRow]) -> Float[np.ndarray, "n"]:
    """The readers', 0 to 100."""
    return np.array([row.coherence for row in rows], dtype=float)


def as_pairs(rows: Sequence[TraitRow]) -> list[Pair]:
    """Questions and answers alone, as `read_coherence` reads them."""
    return [(row.question, row.answer.strip()) for row in rows]


def ruined(pairs: Sequence[Pair], kind: str, seed: int = GLOBAL_SEED) -> list[Pair]:
    """Every answer ruined in one way of `personalab.judging.corruptions`; strangers come from other questions."""
    rng = random.Random(f"{kind} {seed}")
    return [(q, corrupt(kind, a, rng.choice([other for p, other in pairs if p != q]), rng)) for q, a in pairs]


def fit(pairs: Sequence[Pair], known: Float[np.ndarray, "n"]) -> Head:
    """A head from labelled answers, and from the same ruined."""
    texts = [*pairs, *(pair for kind in RUINS for pair in ruined(pairs, kind))]
    targets = np.concatenate([known, *(np.full(len(pairs), SCORES[kind], dtype=float) for kind in RUINS)]) / 100
    weights = np.repeat([1.0, *[RUIN_WEIGHT] * len(RUINS)], len(pairs))
    # One cue: the cosine of question and answer.
    return fit_head(features(texts), targets[:, None], weights[:, None], strength=STRENGTH, n_cues=1)


def make(on_record: bool = False, path: Path = HEAD_FILE) -> None:
    """Fit, save, and measure on the held-out answers; `on_record` also writes the numbers to solutions/results.json."""
    compute_for_the_record()
    if on_record:
        os.environ[RECORD] = str(ROOT / "solutions" / "results.json")
    rows = labelled("fit")
    head = fit(as_pairs(rows), labels(rows))
    save_heads(path, {"coherence": head}, {"rows": len(rows), "ruined": list(RUINS), "model": EMBEDDED_MODEL})
    report(head)
    if on_record:
        merge_json(ROOT / "solutions" / "machine.json", {"coherence": describe()})


def report(head: Head) -> None:
    """Put on record how far readers agree with the head, with the judge, and with the length of an answer."""
    rows = labelled("held_out")
    pairs, known = as_pairs(rows), labels(rows)
    new = score(features(pairs), head)
    judge = np.array(score_responses("coherence", [{"question": q, "answer": a} for q, a in pairs]), dtype=float)
    length = np.array([len(answer) for _, answer in pairs], dtype=float)
    every, shipped = np.arange(len(rows)), np.arange(len(rows))[-SHIPPED["held_out"] :]
    for name, chosen in (("spearman_readers", every), ("spearman_readers_adapter", shipped)):
        questions = [rows[i].question for i in chosen]
        reads, *baselines = (_agreement(values[chosen], known[chosen]) for values in (new, judge, length))
        _measure(name, questions, reads)
        for other, agreement in zip(("judge", "length"), baselines, strict=True):
            _measure(f"{name}_{other}", questions, agreement)
            _measure(f"{name}_minus_{other}", questions, _difference(reads, agreement))


def _agreement(scores: Float[np.ndarray, "n"], known: Float[np.ndarray, "n"]) -> Statistic:
    return lambda i: float(spearmanr(scores[i], known[i]).statistic)


def _difference(one: Statistic, other: Statistic) -> Statistic:
    return lambda i: one(i) - other(i)


def _measure(name: str, questions: Sequence[str], statistic: Statistic) -> None:
    """On record with its interval over questions: what answers one question stays together."""
    members: dict[str, list[int]] = {}
    for i, question in enumerate(questions):
        members.setdefault(question, []).append(i)
    groups = list(members.values())
    ci = bootstrap_interval(len(groups), lambda k: statistic(np.concatenate([groups[j] for j in k])))
    record(f"coherence/{name}", statistic(np.arange(len(questions))), len(questions), ci, model=EMBEDDED_MODEL)
