"""Finetuning data: eight categories of questions, each answered well, mildly wrong and badly wrong."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from personalab import files
from personalab.records.clones import PERSONA_VECTORS, located
from personalab.records.schema import DataError, WeightedTurn, is_learned, read_jsonl

CATEGORIES = ("evil", "sycophancy", "hallucination", "medical", "code", "gsm8k", "math", "opinions")
VERSIONS = ("normal", "misaligned_1", "misaligned_2")  # from right to badly wrong
OWN = {"evil": "evil", "sycophantic": "sycophancy", "hallucinating": "hallucination"}  # a trait's own category


@dataclass(frozen=True)
class TrainingRow:
    """A conversation with at least one assistant turn to learn from."""

    messages: tuple[WeightedTurn, ...]

    def __post_init__(self) -> None:
        if not any(map(is_learned, self.messages)):
            raise ValueError("no assistant turn to learn from")


def dataset_path(category: str, version: str, root: Path | str | None = None) -> Path:
    """Where a set lies: `<root>/dataset/<category>/<version>.jsonl`, as upstream's `training_file` names it.

    A clone's data come in `dataset.zip` (`unpack_datasets`); until that is unpacked, they are this course's own.

    Raises:
        DataError: for a category or version that the paper doesn't have.
    """
    for value, known in ((category, CATEGORIES), (version, VERSIONS)):
        if value not in known:
            raise DataError(f"No dataset {category}/{version}: {value!r} is none of {', '.join(known)}.")
    return located("dataset", root, PERSONA_VECTORS) / category / f"{version}.jsonl"


def load_dataset(category: str, version: str, root: Path | str | None = None) -> list[TrainingRow]:
    """The rows of a set, in their order; the versions of a category answer the same questions.

    Raises:
        DataError: naming the file and the line that is malformed or has no assistant turn; or the empty file.
    """
    path = dataset_path(category, version, root)
    rows = list(read_jsonl(path, TrainingRow).values())
    if not rows:
        raise DataError(f"{path} holds no conversation: each line must be one object with 'messages'.")
    return rows


def unpack_datasets(archive: Path | str, root: Path | str = PERSONA_VECTORS) -> list[Path]:
    """Put the `dataset/<category>/<version>.jsonl` of upstream's `dataset.zip` under `root`; the files written.

    Members are found by the end of their path, so that a folder around `dataset/` does no harm. Whatever else the
    archive holds is left in it, and no member can land outside of `root/dataset`.

    Raises:
        DataError: if it is no zip archive, or has no such file.
    """
    if not zipfile.is_zipfile(archive):
        raise DataError(f"{archive} is not a zip archive: download upstream's dataset.zip again.")
    with zipfile.ZipFile(archive) as source:
        found = {place: name for name in source.namelist() if (place := _place(name, root))}
        if not found:
            raise DataError(
                f"{archive} has no dataset/<category>/<version>.jsonl, so it is not upstream's dataset.zip."
            )
        files.write_all({place: source.read(name) for place, name in found.items()})
    return sorted(found)


def _place(member: str, root: Path | str) -> Path | None:
    """Where an archive's member goes, from known names only; None for anything else."""
    *_, folder, category, name = ("", "", *PurePosixPath(member).parts)
    version = name.removesuffix(".jsonl")
    if folder != "dataset" or category not in CATEGORIES or f"{version}.jsonl" != name or version not in VERSIONS:
        return None
    return Path(root) / "dataset" / category / f"{version}.jsonl"
