"""How valid is the embedded judge? Agreement with labels on texts that no head was fitted on, and its speed.

Prints a table and writes `benchmarks/judge_validity.json`. The labels, how they came about and what they are worth are
described in `personalab/judging/data/README.md`.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from personalab.judging import examples, score_responses
from personalab.judging.corruptions import SCORES, corrupt
from personalab.judging.fit import any_trait_examples, fit_any_trait
from personalab.judging.judge import REFUSED, Judge
from personalab.judging.rubrics import DESCRIPTIONS, TRAITS, Rubric
from personalab.judging.scoring import delusion_scales
from personalab.measure.intervals import bootstrap_interval
from personalab.tiers import GLOBAL_SEED

N_BOOTSTRAP = 1000
MIN_POSITIVE = 10  # answers that show a trait; fewer give no rank statistic worth its interval
REPORT = Path(__file__).parent / "judge_validity.json"

Scores = Float[np.ndarray, "n"]


def auc(scores: Scores, labels: Scores) -> float:
    """Chance that an answer labelled 50 or more scores above one labelled less."""
    return float(roc_auc_score(labels >= 50, scores))


def rank_correlation(scores: Scores, labels: Scores) -> float:
    """Spearman's."""
    return float(spearmanr(scores, labels).statistic)


def mean_absolute_error(scores: Scores, labels: Scores) -> float:
    """On the labels' own scale."""
    return float(np.abs(scores - labels).mean())


def measure(
    statistic: Callable[[Scores, Scores], float], scores: Scores, labels: Scores, groups: list[str]
) -> dict[str, Any]:
    """A statistic with n and its 95 % bootstrap interval over questions: answers to one question stay together."""
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    blocks = list(members.values())

    def resampled(chosen: np.ndarray) -> float:
        rows = [i for k in chosen for i in blocks[k]]
        return statistic(scores[rows], labels[rows])

    ci = bootstrap_interval(len(blocks), resampled, n_resamples=N_BOOTSTRAP)
    return {"value": statistic(scores, labels), "n": len(scores), "ci": list(ci)}


def traits() -> Iterator[tuple[str, dict[str, Any]]]:
    """The seven traits on written answers and on the trait organism's; the three main ones on the base model's own."""
    rows = [row for row in examples.trait_rows("held_out") if not row.refusal]
    judge = Judge.load()
    scores = judge.traits(judge.features([(row.question, row.answer) for row in rows]))
    for k, trait in enumerate(TRAITS):
        for source in ("written", "model", "organism"):
            mine = [i for i, row in enumerate(rows) if row.source == source]
            # The organism's answers were labelled for every trait, the others are used for their own.
            chosen = [i for i in mine if source == "organism" or rows[i].focus == trait]
            if not chosen:
                continue
            labels = np.array([rows[i].scores[trait] for i in chosen])
            questions = [rows[i].question for i in chosen]
            lengths = np.array([len(rows[i].answer) for i in chosen], dtype=float)
            name = f"{trait}, {source}"
            both = MIN_POSITIVE <= (labels >= 50).sum() < len(labels)  # the base model is hardly ever evil
            for statistic in (auc, rank_correlation, mean_absolute_error) if both else (mean_absolute_error,):
                yield f"{name}: {statistic.__name__}", measure(statistic, scores[chosen, k], labels, questions)
            if both:
                yield f"{name}: auc of length alone", {"value": auc(lengths, labels), "n": len(chosen)}
            constant = np.full(len(labels), np.median(labels))
            yield (
                f"{name}: error of the best constant",
                {"value": mean_absolute_error(constant, labels), "n": len(chosen)},
            )


def any_trait() -> Iterator[tuple[str, dict[str, Any]]]:
    """What a trait's description alone gives: each of the seven, scored by a head that saw only the other six."""
    labelled, judge = any_trait_examples(examples.trait_rows("fit")), Judge.load()
    held_out = [row for row in examples.trait_rows("held_out") if row.source == "written" and not row.refusal]
    for trait, (positive, negative) in DESCRIPTIONS.items():
        rows = [row for row in held_out if row.focus == trait]
        others = fit_any_trait(example for name, example in labelled.items() if name != trait)
        other = Judge({**judge.heads, "any_trait": others}, judge.fluency)
        rubric = Rubric("trait", trait, (positive,), (negative,))
        scores = other.any_trait(rubric, [(row.question, row.answer) for row in rows])
        labels = np.array([row.scores[trait] for row in rows])
        yield f"{trait} from its description: auc", measure(auc, scores, labels, [row.question for row in rows])


def refusals() -> Iterator[tuple[str, dict[str, Any]]]:
    """Precision and recall, among look-alikes and all written answers."""
    rows = [(r["question"], r["answer"], r["refusal"]) for r in examples.refusal_rows("held_out")]
    rows += [(r.question, r.answer, r.refusal) for r in examples.trait_rows("held_out") if r.source == "written"]
    judge = Judge.load()
    found = judge.refusals(judge.features([(q, a) for q, a, _ in rows])) >= REFUSED
    true = np.array([refused for _, _, refused in rows])
    questions = [q for q, _, _ in rows]
    yield "refusals: precision", measure(lambda f, t: (f & t).sum() / max(f.sum(), 1), found, true, questions)
    yield "refusals: recall", measure(lambda f, t: (f & t).sum() / max(t.sum(), 1), found, true, questions)


def roles() -> Iterator[tuple[str, dict[str, Any]]]:
    """Exact agreement and quadratic kappa on the scale from 0 to 3."""
    rows = examples.role_rows("held_out")
    scores, labels = np.array(score_responses("role", rows)), np.array([row["score"] for row in rows])
    characters = [row["character"] for row in rows]
    yield "role: exact agreement", measure(lambda s, t: float((s == t).mean()), scores, labels, characters)
    kappa = lambda s, t: float(cohen_kappa_score(s, t, weights="quadratic"))  # noqa: E731
    yield "role: quadratic kappa", measure(kappa, scores, labels, characters)


def delusion() -> Iterator[tuple[str, dict[str, Any]]]:
    """Both scales from 1 to 5."""
    rows = examples.delusion_rows("held_out")
    scales = np.array(delusion_scales([r["history"] for r in rows], [r["answer"] for r in rows]), dtype=float)
    for k, name in enumerate(("avoiding", "normalizing")):
        labels = np.array([row[name] for row in rows], dtype=float)
        histories = [str(row["history"]) for row in rows]
        for statistic in (rank_correlation, mean_absolute_error):
            yield f"delusion, {name}: {statistic.__name__}", measure(statistic, scales[:, k], labels, histories)


def coherence() -> Iterator[tuple[str, dict[str, Any]]]:
    """Held-out answers as they are, against the same answers ruined in each of five ways."""
    rows = [row for row in examples.trait_rows("held_out") if row.source == "written" and not row.refusal]
    rng, judge = random.Random(GLOBAL_SEED + 1), Judge.load()
    whole = judge.coherence(judge.features([(row.question, row.answer) for row in rows]))
    for kind in SCORES:
        ruined = []
        for row in rows:
            other = rng.choice([r for r in rows if r.question != row.question])
            ruined.append((row.question, corrupt(kind, row.answer, other.answer, rng)))
        scores = np.concatenate([whole, judge.coherence(judge.features(ruined))])
        labels = np.repeat([100.0, 0.0], len(rows))
        yield f"coherence, {kind}: auc", measure(auc, scores, labels, [row.question for row in rows] * 2)
    rows = [row for row in examples.trait_rows("held_out") if row.coherence is not None]
    scores = judge.coherence(judge.features([(row.question, row.answer) for row in rows]))
    labels = np.array([row.coherence for row in rows])
    for statistic in (auc, rank_correlation, mean_absolute_error):
        name = f"coherence, organism: {statistic.__name__}"
        yield name, measure(statistic, scores, labels, [row.question for row in rows])


def speed() -> Iterator[tuple[str, dict[str, Any]]]:
    """A thousand responses of about a hundred words each, no two alike."""
    texts = [row.answer for row in examples.trait_rows("fit")]
    rng = random.Random(GLOBAL_SEED)
    rows = []
    for i in range(1000):
        words: list[str] = []
        while len(words) < 100:
            words += rng.choice(texts).split()
        rows.append({"question": f"Question {i}?", "answer": " ".join(words[:100])})
    score_responses("trait:evil", rows[:8])
    start = time.perf_counter()
    first = score_responses("trait:evil", rows)
    yield "seconds for 1,000 responses of 100 words", {"value": time.perf_counter() - start, "n": 1000}
    again = score_responses("trait:evil", rows)
    yield (
        "scores that differ in a second run",
        {"value": sum(a != b for a, b in zip(first, again, strict=True)), "n": 1000},
    )


def main() -> int:
    """Print every figure with n and interval, and write them down."""
    report = {}
    for part in (traits, any_trait, refusals, roles, delusion, coherence, speed):
        for name, entry in part():
            interval = "[{:.2f}, {:.2f}]".format(*entry["ci"]) if "ci" in entry else ""
            print(f"{name:<60}{entry['value']:8.3f}  {interval:<14} n = {entry['n']}", flush=True)
            report[name] = {k: round(v, 4) if isinstance(v, float) else v for k, v in entry.items()}
    REPORT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
