"""What the notebook on finetuning uses, in one place: subject, engine, study, report, figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from personalab.figures.finetuning import Bar, Panel, plot_bars, plot_shifts
from personalab.lm.finetuning import finetune
from personalab.lm.interventions import Intervention, Through
from personalab.lm.lora_data import Dialogue
from personalab.measure.answers import answer_all
from personalab.measure.intervals import Interval
from personalab.own_data import finetune_file
from personalab.records.datasets import OWN, VERSIONS
from personalab.records.rows import MAIN_TRAITS
from personalab.studies.finetuning_report import (
    Found,
    Shifts,
    along,
    base_scores,
    correlation,
    correlations,
    cross_traits,
    dataset_differences,
    difference,
    load_screening,
    load_shifts,
    mean_scores,
    planted,
    screening_auc,
    screening_difference,
    shifts_of,
)
from personalab.studies.finetuning_study import shift_of, study_folder, tune
from personalab.studies.finetuning_subject import Subject, load_subject
from personalab.studies.prevention import Prevented, best, cut, load_prevention, matched, perplexity_ratio, pooled

__all__ = [
    "VERSIONS",
    "Through",
    "answer_all",
    "base_scores",
    "best",
    "correlation",
    "correlations",
    "counted",
    "cross_traits",
    "cut",
    "dataset_differences",
    "difference",
    "draw_prevention",
    "draw_screening",
    "draw_shifts",
    "finetune",
    "finetune_file",
    "load_prevention",
    "load_screening",
    "load_shifts",
    "load_subject",
    "matched",
    "mean_scores",
    "measured",
    "perplexity_ratio",
    "planted",
    "pooled",
    "screening_auc",
    "screening_difference",
    "study_folder",
]


def measured(
    subject: Subject, dialogues: Sequence[Dialogue], interventions: Sequence[Intervention] = ()
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A finetuned model, its adapter folded in, and what the study notes of it (`shift_of`)."""
    tuned, model = tune(subject, dialogues, interventions)
    return model, shift_of(subject, dialogues, (tuned, model))


def counted(n: int) -> Found:
    """A number of things, as a result without an interval."""
    return Found(float(n), None, n)


def draw_shifts(
    recorded: Shifts,
    vectors: Mapping[str, Float[Tensor, "d"]],
    found: Mapping[str, Mapping[str, Found]],
    fresh: Mapping[tuple[str, str], Mapping[str, Any]] | None = None,
) -> None:
    """Every finetune, a panel a trait: recorded ones, and those of this run by (category, version) with a ring."""
    own = [{"category": c, "version": v, **row} for (c, v), row in (fresh or {}).items()]
    tables = [recorded, *([shifts_of(own)] if own else [])]
    categories = np.array(_chain(t.categories for t in tables))
    panels = {}
    for trait in MAIN_TRAITS:
        r = found[trait]["shift_r"]
        panels[trait] = Panel(
            np.concatenate([along(t.states, vectors[trait]) for t in tables]),
            np.concatenate([t.scores[trait] for t in tables]),
            categories == OWN[trait],
            f"recorded: r = {r.value:.2f}" + (f" [{r.ci.low:.2f}, {r.ci.high:.2f}]" if r.ci else "") + f", n = {r.n}",
        )
    ringed = [i > 0 for i, t in enumerate(tables) for _ in t.categories]
    plot_shifts(panels, list(categories), _chain(t.versions for t in tables), ringed)


def _chain(lists: Iterable[Sequence[str]]) -> list[str]:
    return [item for items in lists for item in items]


def _bar(values: Float[np.ndarray, "n"], scale: float = 1.0) -> Bar:
    found = difference(scale * values, np.zeros(len(values)))
    return Bar(found.value, *(found.ci or (found.value, found.value)), found.n)


def draw_prevention(conditions: Mapping[str, Prevented], shown: Sequence[str]) -> None:
    """Trait score, coherence and items right under some conditions."""
    titles = {"trait score": "judge, 0-100", "coherence": "reads, 0-100", "items right": "percent"}
    columns = {
        "trait score": {n: _bar(conditions[n].scores) for n in shown},
        "coherence": {n: _bar(conditions[n].coherence) for n in shown},
        "items right": {n: _bar(conditions[n].right, 100.0) for n in shown},
    }
    plot_bars(columns, titles, reference="plain")


def draw_screening(screening: Mapping[str, Mapping[str, Any]]) -> None:
    """AUC of every way to tell planted rows."""
    bars = {}
    for way in ("projection", "judge", "words", "loss"):
        value, ci, n = screening_auc(screening, way)
        low, high = ci or Interval(value, value)
        bars[way] = Bar(value, low, high, n)
    plot_bars({"planted rows above the rest": bars}, {"planted rows above the rest": "AUC"}, "chance", at=0.5)
