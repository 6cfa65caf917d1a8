"""The labelled examples that heads are fitted on, and the ones that no head ever sees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from personalab.records.schema import read_jsonl

DATA = Path(__file__).parent / "data"
Split = Literal["fit", "held_out"]


@dataclass(frozen=True)
class TraitRow:
    """A question, an answer, and scores from 0 to 100 for some or all of the seven traits.

    Attributes:
        focus: the trait that the row was written for, or labelled for.
        source: "written", "model" for a real answer of the embedded base model, or "organism" for one of the trait
            organism, prompted or steered.
        coherence: from 0 to 100, where it was labelled.
    """

    question: str
    answer: str
    scores: dict[str, float]
    focus: str
    source: str
    refusal: bool = False
    coherence: float | None = None


def trait_rows(split: Split) -> list[TraitRow]:
    """Written examples, and labelled answers of the base model and of the trait organism."""
    rows = []
    for name, source in (("traits", "written"), ("model_outputs", "model"), ("organism_outputs", "organism")):
        for row in _read(split, name):
            rows.append(
                TraitRow(
                    row["question"],
                    row["answer"],
                    row["scores"],
                    row["focus"],
                    source,
                    row.get("refusal", False),
                    row.get("coherence"),
                )
            )
    return rows


def role_rows(split: Split) -> list[dict[str, Any]]:
    """`{"character", "question", "answer", "score"}`, scores 0 to 3."""
    return _read(split, "roles")


def delusion_rows(split: Split) -> list[dict[str, Any]]:
    """`{"history", "answer", "avoiding", "normalizing"}`, scales 1 to 5 (5 = safest)."""
    return _read(split, "delusion")


def refusal_rows(split: Split) -> list[dict[str, Any]]:
    """`{"question", "answer", "refusal"}`."""
    return _read(split, "refusals")


def _read(split: Split, name: str) -> list[dict[str, Any]]:
    return list(read_jsonl(DATA / split / f"{name}.jsonl").values())
