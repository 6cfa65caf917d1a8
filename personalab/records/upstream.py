"""Typed loaders for the upstream repositories' file formats: every error names the file and the field.

A clone of the upstream `assistant-axis` repository has the same layout, so `root` may point at it.
Unknown fields are kept in `extra`; missing ones are refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from personalab.paths import ROOT

ASSISTANT_AXIS = ROOT / "assistant-axis"
PERSONA_VECTORS = ROOT / "persona_vectors"
N_PROMPTS = 5  # prompts a role or trait has, in the papers and here
N_GRADES = 8  # system prompts of a trait in the monitoring files, ours


class DataError(ValueError):
    """A data file that cannot be read as what it should be; the message names the file and the field."""


@dataclass(frozen=True)
class Role:
    """A character: five system prompts, and (upstream) its own questions and judge prompt."""

    name: str
    prompts: tuple[str, ...]
    questions: tuple[str, ...] = ()
    eval_prompt: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trait:
    """A trait: five contrastive pairs of system prompts, questions and a judge prompt."""

    name: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    questions: tuple[str, ...]
    eval_prompt: str
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Transcript:
    """A conversation of user and assistant turns, hidden `<INTERNAL_STATE>` notes removed."""

    conversation: tuple[dict[str, str], ...]
    model: str | None = None
    projections: tuple[float, ...] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def load_role(path: Path | str) -> Role:
    """One role file: `{"instruction": [{"pos": str} x5], "questions"?, "eval_prompt"?}`.

    Raises:
        DataError: if the file is missing, is not JSON, or lacks a field.
    """
    path = Path(path)
    record = _read_object(path)
    prompts = tuple(_text(p, "pos", path, f"instruction[{i}]") for i, p in enumerate(_pairs(record, path)))
    questions = tuple(_texts(record["questions"], path, "questions")) if "questions" in record else ()
    eval_prompt = _text(record, "eval_prompt", path) if "eval_prompt" in record else None
    return Role(path.stem, prompts, questions, eval_prompt, _extra(record, "instruction", "questions", "eval_prompt"))


def load_roles(root: Path | str = ASSISTANT_AXIS) -> dict[str, Role]:
    """Every role under `data/roles/instructions`, by name, in alphabetical order (`default` among them)."""
    return {p.stem: load_role(p) for p in _json_files(Path(root) / "data" / "roles" / "instructions")}


def load_role_groups(root: Path | str = ASSISTANT_AXIS) -> dict[str, list[str]]:
    """Names of the roles by group (`assistant_like`, `mid_range`, `fantastical`); ours, upstream has none."""
    path = Path(root) / "data" / "roles" / "groups.json"
    return {group: _texts(names, path, group) for group, names in _read_object(path).items()}


def load_descriptions(path: Path | str) -> dict[str, str]:
    """`role_list.json` or `trait_list.json`: a sentence about each, by name."""
    path = Path(path)
    record = _read_object(path)
    return {name: _text(record, name, path) for name in record}


def load_trait(path: Path | str) -> Trait:
    """One trait file: `{"instruction": [{"pos", "neg"} x5], "questions": [str], "eval_prompt": str}`.

    Raises:
        DataError: if the file is missing, is not JSON, or lacks a field.
    """
    path = Path(path)
    record = _read_object(path)
    pairs = _pairs(record, path)
    return Trait(
        name=path.stem,
        positive=tuple(_text(p, "pos", path, f"instruction[{i}]") for i, p in enumerate(pairs)),
        negative=tuple(_text(p, "neg", path, f"instruction[{i}]") for i, p in enumerate(pairs)),
        questions=tuple(_texts(_require(record, "questions", path), path, "questions")),
        eval_prompt=_text(record, "eval_prompt", path),
        extra=_extra(record, "instruction", "questions", "eval_prompt"),
    )


def load_traits(root: Path | str = ASSISTANT_AXIS) -> dict[str, Trait]:
    """Every trait under `data/traits/instructions`, by name, in alphabetical order."""
    return {p.stem: load_trait(p) for p in _json_files(Path(root) / "data" / "traits" / "instructions")}


def load_trait_artifacts(split: str, root: Path | str = PERSONA_VECTORS) -> dict[str, Trait]:
    """The trait artifacts under `data_generation/trait_data_<split>`, by name; split is "extract" or "eval".

    Raises:
        DataError: if there are none, or one lacks a field.
    """
    return {p.stem: load_trait(p) for p in _json_files(Path(root) / "data_generation" / f"trait_data_{split}")}


def load_graded_prompts(trait: str, root: Path | str = PERSONA_VECTORS) -> list[str]:
    """Eight system prompts, from one that suppresses the trait to one that elicits it.

    Raises:
        DataError: if the file has no eight different texts for the trait.
    """
    path = Path(root) / "monitoring" / "graded_prompts.json"
    grades = json.loads(path.read_text(encoding="utf-8"))
    prompts = grades.get(trait, [])
    if len(set(prompts)) != N_GRADES or not all(isinstance(p, str) and p.strip() for p in prompts):
        raise DataError(f"{path}: {trait!r} needs {N_GRADES} different texts; the file has {', '.join(grades)}.")
    return prompts


def load_questions(root: Path | str = ASSISTANT_AXIS) -> list[str]:
    """The extraction questions, in the order of their ids.

    Raises:
        DataError: for a malformed line, naming its number, or an id that comes twice.
    """
    path = Path(root) / "data" / "extraction_questions.jsonl"
    by_id: dict[int, str] = {}
    for where, record in read_jsonl(path).items():
        question, key = _text(record, "question", path, where), _require(record, "id", path, where)
        if not isinstance(key, int) or key in by_id:
            raise DataError(f"{path}, {where}: field 'id' must be an integer that no other line has, not {key!r}.")
        by_id[key] = question
    return [by_id[key] for key in sorted(by_id)]


def read_jsonl(path: Path | str) -> dict[str, dict[str, Any]]:
    """The objects in a JSON Lines file, one a line, by where they stand ("line 3").

    Raises:
        DataError: if the file is missing, or a line is not a JSON object.
    """
    path = Path(path)
    lines = {f"line {n}": line for n, line in enumerate(_read_text(path).split("\n"), start=1) if line.strip()}
    return {where: _object(_parse(line, path, where), path, where) for where, line in lines.items()}


def load_transcript(path: Path | str) -> Transcript:
    """One transcript: `{"conversation": [{"role", "content"}], "model"?, "projections"?}`.

    Raises:
        DataError: if a turn's role is neither `user` nor `assistant`, or its content is not text.
    """
    path = Path(path)
    record = _read_object(path)
    turns = []
    for i, turn in enumerate(_list(record, "conversation", path)):
        where = f"conversation[{i}]"
        role = _text(_object(turn, path, where), "role", path, where)
        if role not in ("user", "assistant"):
            raise DataError(f"{path}, {where}: field 'role' must be 'user' or 'assistant', not {role!r}.")
        content = _text(turn, "content", path, where)
        turns.append({"role": role, "content": strip_internal_state(content) if role == "user" else content})
    projections = tuple(map(float, _list(record, "projections", path))) if record.get("projections") else None
    return Transcript(
        tuple(turns), record.get("model"), projections, _extra(record, "conversation", "model", "projections")
    )


def load_transcripts(root: Path | str = ASSISTANT_AXIS) -> dict[str, Transcript]:
    """Every transcript under `transcripts/`, by its path there without suffixes, e.g. `persona_drift/coding`."""
    folder = Path(root) / "transcripts"
    # Upstream has a file that ends in ".json.json".
    return {
        p.relative_to(folder).as_posix().replace(".json", ""): load_transcript(p)
        for p in sorted(folder.rglob("*.json"))
    }


def strip_internal_state(text: str) -> str:
    """Text without `<INTERNAL_STATE>…</INTERNAL_STATE>` notes; an unclosed one runs to the end of the text."""
    text = re.sub(r"<INTERNAL_STATE>.*?(</INTERNAL_STATE>|\Z)", "", text, flags=re.DOTALL)
    return text.replace("</INTERNAL_STATE>", "").strip()


def _json_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError(f"{folder} holds no .json files: is the root right?")
    return files


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}.") from None


def _parse(text: str, path: Path, where: str = "the file") -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, {where}: not valid JSON ({error}).") from None


def _read_object(path: Path) -> dict[str, Any]:
    return _object(_parse(_read_text(path), path), path, "the file")


def _object(value: Any, path: Path, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{path}, {where}: expected an object, found {type(value).__name__}.")
    return value


def _require(record: dict[str, Any], name: str, path: Path, where: str = "the file") -> Any:
    if name not in record:
        raise DataError(f"{path}, {where}: field {name!r} is missing.")
    return record[name]


def _text(record: Any, name: str, path: Path, where: str = "the file") -> str:
    value = _require(_object(record, path, where), name, path, where)
    if not isinstance(value, str):
        raise DataError(f"{path}, {where}: field {name!r} must be text, not {type(value).__name__}.")
    return value


def _list(record: dict[str, Any], name: str, path: Path) -> list[Any]:
    value = _require(record, name, path)
    if not isinstance(value, list):
        raise DataError(f"{path}: field {name!r} must be a list, not {type(value).__name__}.")
    return value


def _texts(value: Any, path: Path, name: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise DataError(f"{path}: field {name!r} must be a list of texts.")
    return value


def _pairs(record: dict[str, Any], path: Path) -> list[Any]:
    pairs = _list(record, "instruction", path)
    if len(pairs) != N_PROMPTS:
        raise DataError(f"{path}: field 'instruction' must hold {N_PROMPTS} prompts, found {len(pairs)}.")
    return pairs


def _extra(record: dict[str, Any], *known: str) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k not in known}
