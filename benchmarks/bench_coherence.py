"""The coherence that reads beside the embedded judge's and dull baselines: ruined answers, a steered sweep, its cost.

Prints a table and writes `benchmarks/coherence_validity.json`. Agreement with readers is measured by
`python -m personalab coherence`, once, and lies in `solutions/results.json`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from personalab.judging import score_responses
from personalab.judging.corruptions import SCORES
from personalab.judging.features import Pair
from personalab.measure.coherence import read_coherence
from personalab.measure.intervals import bootstrap_interval
from personalab.paths import ROOT
from personalab.setup.machine import compute_for_the_record
from personalab.studies.coherence import SHIPPED, as_pairs, labelled, ruined

REPORT = Path(__file__).parent / "coherence_validity.json"
SWEEP = ROOT / "artifacts" / "reference" / "cpu" / "section_4_sweep.json"


def reads(pairs: list[Pair]) -> Float[np.ndarray, "n"]:
    """The new scores."""
    return read_coherence(*zip(*pairs, strict=True))


def judges(pairs: list[Pair]) -> Float[np.ndarray, "n"]:
    """The embedded judge's."""
    return np.array(score_responses("coherence", [{"question": q, "answer": a} for q, a in pairs]), dtype=float)


SCORERS: dict[str, Callable[[list[Pair]], Float[np.ndarray, "n"]]] = {"reads": reads, "judge": judges}


def ruins() -> Iterator[tuple[str, Float[np.ndarray, "n"]]]:
    """By how much the score of the shipped organism's held-out answers, every other one, falls when they are ruined."""
    pairs = as_pairs(labelled("held_out"))[-SHIPPED["held_out"] :: 2]
    for name, scorer in SCORERS.items():
        plain = scorer(pairs)
        yield f"{name}: as they are", plain
        for kind in SCORES:
            yield f"{name}: fall, {kind}", plain - scorer(ruined(pairs, kind))


def sweep() -> Iterator[tuple[str, Float[np.ndarray, "n"]]]:
    """The answers of Section 4's recorded sweep, by trait and coefficient."""
    rows = json.loads(SWEEP.read_text(encoding="utf-8"))
    pairs = [(row["question"], row["response"]) for row in rows]
    scores = {name: scorer(pairs) for name, scorer in SCORERS.items()}
    for trait, coefficient in dict.fromkeys((row["trait"], row["coefficient"]) for row in rows):
        mine = [i for i, row in enumerate(rows) if (row["trait"], row["coefficient"]) == (trait, coefficient)]
        for name, values in scores.items():
            yield f"{name}: {trait}, {coefficient:+.2f}", values[mine]


def cost() -> Iterator[tuple[str, float]]:
    """Processor seconds for a hundred answers that nothing has read yet, each to another question."""
    unique = list({row.question: (row.question, row.answer) for row in labelled("held_out")}.values())
    for k, (name, scorer) in enumerate(SCORERS.items()):
        scorer([("Ready?", "Yes.")])
        start = time.process_time()
        scorer(unique[100 * k : 100 * (k + 1)])
        yield f"{name}: processor seconds for 100 answers", time.process_time() - start


def main() -> int:
    """Print every figure, with n and its interval over answers, and write them down."""
    compute_for_the_record()
    report: dict[str, dict[str, object]] = {}
    for name, seconds in cost():
        print(f"{name:<50}{seconds:8.2f}", flush=True)
        report[name] = {"value": round(seconds, 1), "n": 100}
    for part in (ruins, sweep):
        for name, values in part():
            ci = bootstrap_interval(len(values), lambda i, values=values: float(values[i].mean()))
            print(f"{name:<50}{values.mean():8.1f}  [{ci.low:.1f}, {ci.high:.1f}]  n = {len(values)}", flush=True)
            report[name] = {"value": round(float(values.mean()), 1), "n": len(values), "ci": [round(x, 1) for x in ci]}
    REPORT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
