"""What an intervention's cost is measured on: multiple-choice items, and prose in which nobody plays anybody."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

from personalab.records.clones import ASSISTANT_AXIS, located
from personalab.records.schema import DataError, read_jsonl

MMLU = "cais/mmlu"
MIN_WORDS = 25  # of a paragraph; our choice


@dataclass(frozen=True)
class Item:
    """A sentence to complete, with the right ending among several."""

    kind: str
    stem: str
    options: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if not 0 <= self.answer < len(self.options):
            raise ValueError(f"field 'answer' must index one of the {len(self.options)} options")


def load_items(split: str = "evaluation", root: Path | str | None = None) -> list[Item]:
    """The multiple-choice items in `capability/<split>.jsonl`; split is "calibration" or "evaluation".

    Raises:
        DataError: if a field is missing, or an item's answer is not the index of one of its options.
    """
    return list(read_jsonl(located("capability", root, ASSISTANT_AXIS) / f"{split}.jsonl", Item).values())


def load_mmlu(n: int = 500, source: str = MMLU) -> list[Item]:
    """`n` questions of MMLU's test split (Hendrycks et al. 2021), drawn across subjects with a fixed seed.

    Args:
        source: the data set's name on the hub, or a folder of its layout (configuration "all", split "test").

    Raises:
        DataError: if it cannot be loaded, or a row is not as published.
    """
    try:
        from datasets import load_dataset  # comes with the requirements of the tiers that have a GPU
    except ImportError:
        raise DataError("MMLU needs the package datasets: pip install -r requirements-gpu.txt.") from None
    try:
        rows = load_dataset(source, "all", split="test").shuffle(seed=0)
    except (OSError, ValueError) as error:  # no network, no such data set or split
        raise DataError(f"MMLU cannot be loaded from {source}: {error}") from None
    rows = rows.select(range(min(n, len(rows))))
    found = []
    for i, row in enumerate(rows):
        try:
            found.append(Item(row["subject"], row["question"].strip(), tuple(row["choices"]), row["answer"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{source}, row {i}: not as MMLU is published ({error!r}).") from None
    return found


def load_prose() -> list[str]:
    """Paragraphs of Python's own documentation, which every Python carries: prose in which nobody plays anybody."""
    paragraphs = [p for _, text in sorted(topics.items()) for p in re.split(r"\n\s*\n", text)]
    return [
        " ".join(p.split())
        for p in paragraphs
        if p[:1].isupper() and len(p.split()) >= MIN_WORDS and "::=" not in p  # no headings, code or grammar
    ]
