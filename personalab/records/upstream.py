"""Typed loaders for the upstream repositories' file formats: every error names the file and the field.

A clone of an upstream repository has the same layout, so `root` may point at it, or the environment for all loaders
(`personalab.records.clones`). Unknown fields are kept in `extra`; missing ones are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel

from personalab.records.clones import ASSISTANT_AXIS, PERSONA_VECTORS, clone_of, located, named, root_of
from personalab.records.schema import DataError, read_as, read_jsonl
from personalab.tiers import current_tier

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


def load_role(path: Path | str, model_name: str | None = None) -> Role:
    """One role file: `{"instruction": [{"pos": str} x5], "questions"?, "eval_prompt"?}`.

    Args:
        model_name: in place of `{model_name}` in a prompt (default: the current tier's persona model, "SmolLM").

    Raises:
        DataError: if the file is missing, is not JSON, or lacks a field.
    """
    file = read_as(path, _RoleFile)
    prompts = tuple(named(prompt.pos, model_name) for prompt in file.instruction)
    return Role(Path(path).stem, prompts, file.questions, file.eval_prompt, file.model_extra or {})


def load_roles(root: Path | str | None = None, model_name: str | None = None) -> dict[str, Role]:
    """Every role under `data/roles/instructions`, by name, in alphabetical order (`default` among them).

    Args:
        root: default: the clone that the environment names, else this course's own; so for all loaders here.
        model_name: see `load_role`.

    Raises:
        DataError: if there are none, or one lacks a field.
    """
    return {p.stem: load_role(p, model_name) for p in _role_files(root)}


def load_role_groups(root: Path | str | None = None) -> dict[str, list[str]]:
    """Names of the roles by group (`assistant_like`, `mid_range`, `fantastical`), of those roles that `root` has.

    Upstream has no groups: a clone's roles are grouped as ours of the same name are.
    """
    roles = {path.stem for path in _role_files(root)}
    groups = read_as(located("data/roles/groups.json", root, ASSISTANT_AXIS), dict[str, list[str]])
    return {group: [name for name in names if name in roles] for group, names in groups.items()}


def load_descriptions(path: Path | str) -> dict[str, str]:
    """`role_list.json` or `trait_list.json`: a sentence about each, by name."""
    return read_as(path, dict[str, str])


def load_trait(path: Path | str) -> Trait:
    """One trait file: `{"instruction": [{"pos", "neg"} x5], "questions": [str], "eval_prompt": str}`.

    Raises:
        DataError: if the file is missing, is not JSON, or lacks a field.
    """
    file = read_as(path, _TraitFile)
    positive, negative = (tuple(named(getattr(pair, side)) for pair in file.instruction) for side in ("pos", "neg"))
    return Trait(Path(path).stem, positive, negative, file.questions, file.eval_prompt, file.model_extra or {})


def load_traits(root: Path | str | None = None) -> dict[str, Trait]:
    """Every trait under `data/traits/instructions`, by name, in alphabetical order.

    Raises:
        DataError: if there are none, or one lacks a field.
    """
    folder = root_of(root, ASSISTANT_AXIS) / "data" / "traits" / "instructions"
    return {p.stem: load_trait(p) for p in _json_files(folder)}


def load_trait_artifacts(split: str, root: Path | str | None = None) -> dict[str, Trait]:
    """The trait files under `data_generation/trait_data_<split>`, by name; split is "extract" or "eval".

    Raises:
        DataError: if there are none, or one lacks a field.
    """
    folder = root_of(root, PERSONA_VECTORS) / "data_generation" / f"trait_data_{split}"
    return {p.stem: load_trait(p) for p in _json_files(folder)}


def load_questions(root: Path | str | None = None) -> list[str]:
    """The extraction questions, in the order of their ids.

    Raises:
        DataError: for a malformed line, naming its number, or an id that comes twice.
    """
    path = root_of(root, ASSISTANT_AXIS) / "data" / "extraction_questions.jsonl"
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


def load_transcripts(root: Path | str | None = None) -> dict[str, Transcript]:
    """Every transcript under `transcripts/`, by its path there without suffixes, e.g. `persona_drift/coding`.

    A clone that the environment names lies over ours: its file comes in place of one of the same path.
    """
    roots = [Path(root)] if root is not None else [ASSISTANT_AXIS, clone_of(ASSISTANT_AXIS)]
    found: dict[str, Transcript] = {}
    for folder in (r / "transcripts" for r in roots if r is not None):
        # Upstream has a file that ends in ".json.json".
        paths = {p.relative_to(folder).as_posix().replace(".json", ""): p for p in sorted(folder.rglob("*.json"))}
        found |= {name: load_transcript(path) for name, path in paths.items()}
    return found


def load_case_studies(model: str | None = None, root: Path | str | None = None) -> dict[str, Transcript]:
    """The case studies of one model, by scenario, e.g. `delusion_capped`.

    Args:
        model: its id, as the files name it (default: the current tier's capping model, else the first that is there).

    Raises:
        DataError: if there are none of that model, naming those that there are.
    """
    found: dict[str, dict[str, Transcript]] = {}
    for name, transcript in load_transcripts(root).items():
        kind, folder, scenario = (*name.split("/"), "", "")[:3]
        if kind == "case_studies" and scenario:
            found.setdefault(transcript.model or folder, {})[scenario] = transcript
    wanted = model or current_tier().capping_model
    if wanted in found:
        return found[wanted]
    if model is not None or not found:
        raise DataError(f"There are no case studies of {wanted}; there are those of {', '.join(found) or 'no model'}.")
    print(f"case studies: of {next(iter(found))}, there are none of {wanted}")
    return next(iter(found.values()))


def strip_internal_state(text: str) -> str:
    """Text without `<INTERNAL_STATE>…</INTERNAL_STATE>` notes; an unclosed one runs to the end of the text."""
    text = re.sub(r"<INTERNAL_STATE>.*?(</INTERNAL_STATE>|\Z)", "", text, flags=re.DOTALL)
    return text.replace("</INTERNAL_STATE>", "").strip()


def _role_files(root: Path | str | None) -> list[Path]:
    return _json_files(root_of(root, ASSISTANT_AXIS) / "data" / "roles" / "instructions")


def _json_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError(f"{folder} holds no .json files: is the root right?")
    return files
