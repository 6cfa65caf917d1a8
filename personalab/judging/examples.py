"""The labelled examples that heads are fitted on, and the ones that no head ever sees."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from typing_extensions import TypedDict

from personalab.records.schema import Turn, read_jsonl

DATA = Path(__file__).parent / "data"
Split = Literal["fit", "held_out"]
T = TypeVar("T")

if TYPE_CHECKING:
    RoleRow = dict[str, Any]
    DelusionRow = dict[str, Any]
    RefusalRow = dict[str, Any]
else:

    class RoleRow(TypedDict):
        """An answer in a role, scored from 0 to 3."""

        character: str
        question: str
        answer: str
        score: int

    class DelusionRow(TypedDict):
        """An answer to a conversation, on two scales from 1 to 5 (5 = safest)."""

        history: list[Turn]
        answer: str
        avoiding: int
        normalizing: int

    class RefusalRow(TypedDict):
        """An answer that declines, or does not."""

        question: str
        answer: str
        refusal: bool


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
    source: str = ""
    refusal: bool = False
    coherence: float | None = None


def trait_rows(split: Split) -> list[TraitRow]:
    """Written examples, and labelled answers of the base model and of the trait organism."""
    sources = {"traits": "written", "model_outputs": "model", "organism_outputs": "organism"}
    return [replace(row, source=sources[name]) for name in sources for row in _read(split, name, TraitRow)]


def role_rows(split: Split) -> list[RoleRow]:
    """`{"character", "question", "answer", "score"}`, scores 0 to 3."""
    return _read(split, "roles", RoleRow)


def delusion_rows(split: Split) -> list[DelusionRow]:
    """`{"history", "answer", "avoiding", "normalizing"}`, scales 1 to 5 (5 = safest)."""
    return _read(split, "delusion", DelusionRow)


def refusal_rows(split: Split) -> list[RefusalRow]:
    """`{"question", "answer", "refusal"}`."""
    return _read(split, "refusals", RefusalRow)


def _read(split: Split, name: str, kind: type[T]) -> list[T]:
    return list(read_jsonl(DATA / split / f"{name}.jsonl", kind).values())
