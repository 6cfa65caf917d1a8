"""Typed loaders for the upstream repositories' file formats: every error names the file and the field.

A clone of the upstream `assistant-axis` repository has the same layout, so `root` may point at it.
Unknown fields are kept in `extra`; missing ones are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel

from personalab.paths import ROOT
from personalab.records.schema import DataError, read_as, read_jsonl

ASSISTANT_AXIS = ROOT / "assistant-axis"
PERSONA_VECTORS = ROOT / "persona_vectors"
N_PROMPTS = 5  # prompts a role or trait has, in the papers and here

T = TypeVar("T")


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


def _all_five(prompts: list[T]) -> list[T]:
    if len(prompts) != N_PROMPTS:
        raise ValueError(f"must hold {N_PROMPTS} prompts, found {len(prompts)}")
    return prompts


class _Prompt(BaseModel):
    pos: str


class _Pair(_Prompt):
    neg: str


class _RoleFile(BaseModel, extra="allow"):
    instruction: Annotated[list[_Prompt], AfterValidator(_all_five)]
    questions: tuple[str, ...] = ()
    eval_prompt: str | None = None


class _TraitFile(BaseModel, extra="allow"):
    instruction: Annotated[list[_Pair], AfterValidator(_all_five)]
    questions: tuple[str, ...]
    eval_prompt: str


class _Said(BaseModel):
    role: Literal["user", "assistant"]
    content: str


class _TranscriptFile(BaseModel, extra="allow"):
    conversation: tuple[_Said, ...]
    model: str | None = None
    projections: tuple[float, ...] | None = None


class _Question(BaseModel):
    id: int
    question: str


def load_role(path: Path | str) -> Role:
    """One role file: `{"instruction": [{"pos": str} x5], "questions"?, "eval_prompt"?}`.

    Raises:
        DataError: if the file is missing, is not JSON, or lacks a field.
    """
    file = read_as(path, _RoleFile)
    prompts = tuple(prompt.pos for prompt in file.instruction)
    return Role(Path(path).stem, prompts, file.questions, file.eval_prompt, file.model_extra or {})


def load_roles(root: Path | str = ASSISTANT_AXIS) -> dict[str, Role]:
    """Every role under `data/roles/instructions`, by name, in alphabetical order (`default` among them).

    Raises:
        DataError: if there are none, or one lacks a field.
    """
    return {p.stem: load_role(p) for p in _json_files(Path(root) / "data" / "roles" / "instructions")}


def load_role_groups(root: Path | str = ASSISTANT_AXIS) -> dict[str, list[str]]:
    """Names of the roles by group (`assistant_like`, `mid_range`, `fantastical`); ours, upstream has none."""
    return read_as(Path(root) / "data" / "roles" / "groups.json", dict[str, list[str]])


def load_descriptions(path: Path | str) -> dict[str, str]:
    """`role_list.json` or `trait_list.json`: a sentence about each, by name."""
    return read_as(path, dict[str, str])


def load_trait(path: Path | str) -> Trait:
    """One trait file: `{"instruction": [{"pos", "neg"} x5], "questions": [str], "eval_prompt": str}`.

    Raises:
        DataError: if the file is missing, is not JSON, or lacks a field.
    """
    file = read_as(path, _TraitFile)
    positive, negative = (tuple(getattr(pair, side) for pair in file.instruction) for side in ("pos", "neg"))
    return Trait(Path(path).stem, positive, negative, file.questions, file.eval_prompt, file.model_extra or {})


def load_traits(root: Path | str = ASSISTANT_AXIS) -> dict[str, Trait]:
    """Every trait under `data/traits/instructions`, by name, in alphabetical order.

    Raises:
        DataError: if there are none, or one lacks a field.
    """
    return {p.stem: load_trait(p) for p in _json_files(Path(root) / "data" / "traits" / "instructions")}


def load_trait_artifacts(split: str, root: Path | str = PERSONA_VECTORS) -> dict[str, Trait]:
    """The trait files under `data_generation/trait_data_<split>`, by name; split is "extract" or "eval".

    Raises:
        DataError: if there are none, or one lacks a field.
    """
    return {p.stem: load_trait(p) for p in _json_files(Path(root) / "data_generation" / f"trait_data_{split}")}


def load_questions(root: Path | str = ASSISTANT_AXIS) -> list[str]:
    """The extraction questions, in the order of their ids.

    Raises:
        DataError: for a malformed line, naming its number, or an id that comes twice.
    """
    path = Path(root) / "data" / "extraction_questions.jsonl"
    by_id: dict[int, str] = {}
    for where, line in read_jsonl(path, _Question).items():
        if line.id in by_id:
            raise DataError(f"{path}, {where}: field 'id' must be one that no other line has, not {line.id}.")
        by_id[line.id] = line.question
    return [by_id[key] for key in sorted(by_id)]


def load_transcript(path: Path | str) -> Transcript:
    """One transcript: `{"conversation": [{"role", "content"}], "model"?, "projections"?}`.

    Raises:
        DataError: if a turn's role is neither `user` nor `assistant`, or its content is not text.
    """
    file = read_as(path, _TranscriptFile)
    turns = tuple(
        {"role": said.role, "content": strip_internal_state(said.content) if said.role == "user" else said.content}
        for said in file.conversation
    )
    return Transcript(turns, file.model, file.projections or None, file.model_extra or {})


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
