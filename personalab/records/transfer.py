"""Transfer texts: questions and answers written by us, in which words do not tell whether an answer shows a trait."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from personalab.records.clones import PERSONA_VECTORS, located
from personalab.records.prompts import NotBlank
from personalab.records.schema import read_jsonl

POSITIVE_FROM = 50  # of 100, as for every score of a trait


@dataclass(frozen=True)
class TransferText:
    """One answer with the score 0-100 that a reader gave it for the trait, not knowing what it was written to show.

    `kind` says how it was written: showing the trait openly ("plain") or "without usual words"; not showing it,
    with the trait's usual words used innocently ("look-alike") or not ("neutral").
    """

    question: NotBlank
    answer: NotBlank
    score: float
    kind: Literal["plain", "without usual words", "look-alike", "neutral"]

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 100:
            raise ValueError("field 'score' must lie between 0 and 100")

    @property
    def positive(self) -> bool:
        """Whether the reader found the trait in the answer: a score from 50 up."""
        return self.score >= POSITIVE_FROM


def load_transfer_texts(trait: str, root: Path | str | None = None) -> list[TransferText]:
    """The texts in `data/transfer/<trait>.jsonl`; several answers to each question, next to each other.

    Raises:
        DataError: naming the file, the line and the field that is missing, blank or not what it should be.
    """
    return list(read_jsonl(located("data/transfer", root, PERSONA_VECTORS) / f"{trait}.jsonl", TransferText).values())
