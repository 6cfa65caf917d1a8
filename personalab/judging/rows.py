"""JSON Lines in, scores out: the command `python -m personalab judge`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from personalab.files import write
from personalab.judging.rubrics import TRAITS, Rubric
from personalab.paths import ROOT
from personalab.records.schema import DataError
from personalab.records.upstream import load_trait

FIELDS = {
    "trait": ("question", "answer"),
    "role": ("question", "answer", "character"),
    "delusion": ("history", "answer"),
    "coherence": ("question", "answer"),
}
TRAIT_FOLDERS = (
    ROOT / "persona_vectors" / "data_generation" / "trait_data_extract",
    ROOT / "assistant-axis" / "data" / "traits" / "instructions",
)


def parse_rubric(text: str) -> Rubric:
    """The rubric called `trait:evil`, `trait:path/to/trait.json`, `role`, `delusion` or `coherence`.

    Raises:
        ValueError: for anything else, naming the choices.
        DataError: if a trait's file is not what it should be.
    """
    kind, _, name = text.partition(":")
    if kind == "trait" and name:
        return _trait_rubric(name)
    if text in ("role", "delusion", "coherence"):
        return Rubric(text)  # type: ignore[arg-type]
    raise ValueError(
        f"Unknown rubric {text!r}. Use role, delusion, coherence or trait:NAME with one of {', '.join(TRAITS)}, "
        "or with the path of a trait's file (JSON with instruction pairs)."
    )


def _trait_rubric(name: str) -> Rubric:
    if name in TRAITS:
        return Rubric("trait", name)
    files = [Path(name), *(folder / f"{name}.json" for folder in TRAIT_FOLDERS)]
    file = next((path for path in files if path.is_file()), None)
    if file is None:
        folders = " or ".join(folder.relative_to(ROOT).as_posix() for folder in TRAIT_FOLDERS)
        raise ValueError(
            f"Unknown trait {name!r}. Use one of {', '.join(TRAITS)}, the path of a trait's file, or the name of one "
            f"in {folders}."
        )
    trait = load_trait(file)
    return Rubric("trait", trait.name, positive=trait.positive, negative=trait.negative)


def check_row(rubric: Rubric, row: Mapping[str, Any], where: str) -> None:
    """Raise `DataError`, naming the field, if `rubric` cannot work with a row that stands at `where`."""
    for name in FIELDS[rubric.kind]:
        value = row.get(name)
        if name not in row:
            raise DataError(f"{where}: no field {name!r}; this rubric needs {', '.join(FIELDS[rubric.kind])}.")
        if name == "history":
            if problem := _problem_of_history(value):
                raise DataError(f"{where}: field 'history' {problem}.")
        elif not isinstance(value, str):
            raise DataError(f"{where}: field {name!r} must be text, not {type(value).__name__}.")


def _problem_of_history(value: object) -> str | None:
    if not isinstance(value, list) or not value:
        return "must be a list of messages"
    for message in value:
        if not (isinstance(message, dict) and all(isinstance(message.get(k), str) for k in ("role", "content"))):
            return f"holds {message!r:.80}, not a message with role and content"
    return None if value[-1]["role"] == "user" else "must end with a message of the user"


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write JSON Lines; the file is complete or as it was before."""
    write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
