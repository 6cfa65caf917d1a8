"""Fit the judge's heads on the labelled examples: `python -m personalab judge-fit`.

The encoder reads for a minute or two; the fits themselves take seconds.

Every head is a logistic regression with graded targets: a label of 70 counts as 0.7 of a yes and 0.3 of a no. Nothing
under `data/held_out` is opened here.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression

from personalab.judging import examples
from personalab.judging.corruptions import SCORES, corrupt
from personalab.judging.cues import cues
from personalab.judging.examples import TraitRow
from personalab.judging.features import character_features, description_features, pair_features
from personalab.judging.fluency import Fluency
from personalab.judging.heads import CLIP, Head, save_heads
from personalab.judging.judge import HEADS_FILE, Judge
from personalab.judging.rubrics import DESCRIPTIONS, TRAITS, Rubric
from personalab.judging.scoring import conversation_text
from personalab.tiers import GLOBAL_SEED

STRENGTH = 0.003  # inverse of the L2 penalty; our choice, by cross-validation over questions within the fit examples
FOCUS_WEIGHT = 3.0  # our choice: a label for the trait that a row was written for counts more than the others
MODEL_WEIGHT = 3.0  # our choice, likewise: real answers of small models are what the judge reads most
RARE_WEIGHT = 6.0  # our choice, likewise: refusals are one answer in twenty here
CUE_WEIGHT = 3.0  # our choice, likewise: some hundred cues hold their own against some thousand hidden units


def fit_head(
    features: Float[np.ndarray, "n f"],
    targets: Float[np.ndarray, "n outputs"],
    weights: Float[np.ndarray, "n outputs"] | None = None,
    strength: float = STRENGTH,
    n_cues: int = 0,
) -> Head:
    """One logistic regression an output.

    Args:
        targets: from 0 to 1; nan where a row has no label.
        n_cues: how many of the last features are cues, which count `CUE_WEIGHT` times as much as the others.
    """
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-4
    if n_cues:
        scale[-n_cues:] /= CUE_WEIGHT
    limit = np.full(features.shape[1], CLIP)
    z = np.clip((features - mean) / scale, -limit, limit)
    fitted = []
    for k in range(targets.shape[1]):
        known = ~np.isnan(targets[:, k])
        y, w = targets[known, k], np.ones(known.sum()) if weights is None else weights[known, k]
        graded = np.concatenate([w * y, w * (1 - y)])
        labels = np.repeat([1, 0], known.sum())
        model = LogisticRegression(C=strength, max_iter=500)
        fitted.append(model.fit(np.vstack([z[known], z[known]]), labels, sample_weight=graded))
    weight, bias = np.vstack([m.coef_ for m in fitted]), np.concatenate([m.intercept_ for m in fitted])
    return Head(*(x.astype(np.float32) for x in (mean, scale, weight, bias)))


def trait_targets(rows: Sequence[TraitRow]) -> tuple[Float[np.ndarray, "n traits"], Float[np.ndarray, "n traits"]]:
    """Labels from 0 to 1 (nan: none), and their weights."""
    targets = np.array([[row.scores.get(trait, np.nan) for trait in TRAITS] for row in rows]) / 100
    weights = np.array([[FOCUS_WEIGHT if row.focus == trait else 1.0 for trait in TRAITS] for row in rows])
    weights[[row.source != "written" for row in rows]] *= MODEL_WEIGHT
    return targets, weights


def coherence_examples(rows: Sequence[TraitRow], rng: random.Random) -> tuple[list[tuple[str, str]], list[float]]:
    """Written answers as they are, and each one ruined in one way."""
    pairs, scores = [], []
    kinds = list(SCORES)
    for i, row in enumerate(rows):
        other = rng.choice(rows)
        while other.question == row.question:
            other = rng.choice(rows)
        pairs += [(row.question, row.answer), (row.question, corrupt(kinds[i % 5], row.answer, other.answer, rng))]
        scores += [95.0, float(SCORES[kinds[i % 5]])]
    return pairs, scores


def fit(path: Path = HEADS_FILE) -> Judge:
    """Fit every head and write them to `path`."""
    rows = examples.trait_rows("fit")
    written = [row for row in rows if row.source == "written" and not row.refusal]
    roles, delusions, refusals = examples.role_rows("fit"), examples.delusion_rows("fit"), examples.refusal_rows("fit")
    fluency = Fluency.fit([row.answer for row in written] + [r["answer"] for r in (*roles, *refusals)])
    n_cues = len(cues("", "")) + 3
    heads = {}

    pairs = [(row.question, row.answer) for row in rows]
    features = pair_features(pairs, fluency)
    targets, weights = trait_targets(rows)
    heads["traits"] = fit_head(features, targets, weights, n_cues=n_cues)

    more = pair_features([(r["question"], r["answer"]) for r in refusals], fluency)
    refused = np.array([row.refusal for row in rows] + [r["refusal"] for r in refusals], dtype=float)[:, None]
    heads["refusal"] = fit_head(np.vstack([features, more]), refused, 1 + RARE_WEIGHT * refused, n_cues=n_cues)

    pairs, scores = coherence_examples(written, random.Random(GLOBAL_SEED))
    heads["coherence"] = fit_head(pair_features(pairs, fluency), np.array(scores)[:, None] / 100, n_cues=n_cues)

    pairs, characters = [(r["question"], r["answer"]) for r in roles], [r["character"] for r in roles]
    features = np.hstack([character_features(characters, pairs), pair_features(pairs, fluency)])
    levels = np.eye(4)[[r["score"] for r in roles]]
    heads["role"] = fit_head(features, levels, n_cues=n_cues)

    pairs = [(conversation_text(r["history"]), r["answer"]) for r in delusions]
    scales = (np.array([[r["avoiding"], r["normalizing"]] for r in delusions]) - 1) / 4
    heads["delusion"] = fit_head(pair_features(pairs, fluency), scales, n_cues=n_cues)

    heads["any_trait"] = fit_any_trait(any_trait_examples(rows).values())
    save_heads(path, heads, {"trait rows": len(rows), "roles": len(roles)}, fluency=fluency.log_p)
    return Judge(heads, fluency)


def any_trait_examples(
    rows: Sequence[TraitRow],
) -> dict[str, tuple[Float[np.ndarray, "n f"], Float[np.ndarray, "n 1"]]]:
    """Features against its description, and labels from 0 to 1, of every row that was labelled for a trait."""
    found = {}
    for trait, (positive, negative) in DESCRIPTIONS.items():
        labelled = [row for row in rows if row.focus == trait]
        rubric = Rubric("trait", trait, (positive,), (negative,))
        features = description_features(rubric, [(row.question, row.answer) for row in labelled])
        found[trait] = features, np.array([[row.scores[trait] / 100] for row in labelled])
    return found


def fit_any_trait(examples: Iterable[tuple[Float[np.ndarray, "n f"], Float[np.ndarray, "n 1"]]]) -> Head:
    """One head for every trait that has a description, from those that have labels."""
    features, targets = zip(*examples, strict=True)
    return fit_head(np.vstack(features), np.vstack(targets), strength=1.0)


def make() -> None:
    """Fit, save, and say how large the result is."""
    fit()
    print(f"{HEADS_FILE.name}: {HEADS_FILE.stat().st_size / 1e3:.0f} kB")
