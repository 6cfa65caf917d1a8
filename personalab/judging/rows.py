"""JSON Lines or CSV in, scores out: the command `python -m personalab judge`.

Upstream's own files go through as they are: the CSV of persona_vectors' evaluation (question, prompt, answer, …), and
the responses of assistant-axis' pipeline, `<role>.jsonl` with a `conversation` a line.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from personalab.files import read_text, write
from personalab.judging.rubrics import TRAITS, Rubric
from personalab.records.clones import ASSISTANT_AXIS, PERSONA_VECTORS, clone_of
from personalab.records.schema import DataError, read_jsonl
from personalab.records.upstream import load_trait

FIELDS = {
    "trait": ("question", "answer"),
    "role": ("question", "answer", "character"),
    "delusion": ("history", "answer"),
    "coherence": ("question", "answer"),
}
TRAIT_FOLDERS = {PERSONA_VECTORS: "data_generation/trait_data_extract", ASSISTANT_AXIS: "data/traits/instructions"}
_DIALOGUE = ("conversation", "messages")  # fields of a row that holds a whole conversation
_MAX_FIELD = 10**8  # characters of a CSV's field; Python's own limit is 131,072


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
    roots = [(root, part) for ours, part in TRAIT_FOLDERS.items() for root in (clone_of(ours), ours) if root]
    files = [Path(name), *(root / part / f"{name}.json" for root, part in roots)]
    file = next((path for path in files if path.is_file()), None)
    if file is None:
        folders = " or ".join(f"{ours.name}/{part}" for ours, part in TRAIT_FOLDERS.items())
        raise ValueError(
            f"Unknown trait {name!r}. Use one of {', '.join(TRAITS)}, the path of a trait's file, or the name of one "
            f"in {folders}."
        )
    trait = load_trait(file)
    return Rubric("trait", trait.name, positive=trait.positive, negative=trait.negative)


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of a JSON Lines or CSV file as they are, by where they stand ("line 3").

    Raises:
        DataError: if the file is missing or malformed, naming the line.
    """
    return _read_csv(path) if path.suffix.lower() == ".csv" else read_jsonl(path)


def _read_csv(path: Path) -> dict[str, dict[str, Any]]:
    csv.field_size_limit(_MAX_FIELD)
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
        names = list(reader.fieldnames or [])
        rows = {f"row {n}": row for n, row in enumerate(reader, 1)}
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not valid CSV ({error}).") from None
    except ValueError as error:
        raise DataError(str(error)) from None
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{path}, line 1: column {twice!r} comes twice, and only one can count: rename the other.")
    if bad := next((where for where, row in rows.items() if None in row or None in row.values()), None):
        raise DataError(f"{path}, {bad}: its number of fields is not that of the first line.")
    return rows


def scored_row(row: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A row with the fields that rubrics read; those that it lacks are taken from its conversation, if it has one.

    The answer is the conversation's last turn, the question the user's turn before it, the history all before it, the
    character the name of the file, which in assistant-axis is the role's.
    """
    talk = next((row[name] for name in _DIALOGUE if isinstance(row.get(name), list)), None)
    if not talk or not all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in talk):
        return dict(row)
    if talk[-1].get("role") != "assistant":
        return dict(row)
    history = [m for m in talk[:-1] if m.get("role") in ("user", "assistant")]
    question = history[-1]["content"] if history else ""
    taken = {"question": question, "answer": talk[-1]["content"], "history": history}
    return {**taken, "character": path.stem.replace("_", " "), **row}


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
    """Write JSON Lines, or CSV where the name says so; the file is complete or as it was before."""
    if path.suffix.lower() == ".csv":
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
        write(path, buffer.getvalue())
        return
    write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _cell(value: Any) -> Any:
    """A refusal's score is an empty cell; lists and objects are JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict, bool)) else value
