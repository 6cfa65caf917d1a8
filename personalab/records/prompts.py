"""This course's own prompts and scripts: typed loaders, whose errors name the file, the line and the field.

Upstream has none of these: where `root` is a clone without them, they are this course's (`personalab.records.clones`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from personalab.records.clones import ASSISTANT_AXIS, PERSONA_VECTORS, located
from personalab.records.schema import DataError, Turn, read_as, read_jsonl

ORGANISM = PERSONA_VECTORS / "organism"
N_GRADES = 8  # system prompts of a trait in the monitoring files


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


NotBlank = Annotated[str, AfterValidator(_not_blank)]


@dataclass(frozen=True)
class Jailbreak:
    """A conversation that pulls the model into a character, ending with the user's turn."""

    id: str
    kind: str
    character: str
    messages: tuple[Turn, ...]

    def __post_init__(self) -> None:
        if not self.messages or self.messages[-1]["role"] != "user":
            raise ValueError("field 'messages' must end with a user turn")


@dataclass(frozen=True)
class Scenarios:
    """What scripted users say, turn by turn: several scripts for each domain of drift, and one for each case study."""

    persona_drift: dict[str, list[list[str]]]
    case_studies: dict[str, list[str]]


@dataclass(frozen=True)
class OppositeAnswers:
    """One question, answered with a trait and with its opposite."""

    question: NotBlank
    positive: NotBlank
    negative: NotBlank


@dataclass(frozen=True)
class _Systems:
    positive: list[str]
    negative: list[str]


def load_jailbreaks(split: str, root: Path | str | None = None) -> list[Jailbreak]:
    """The prompts in `jailbreaks/<split>.jsonl`; split is "calibration" or "evaluation".

    Raises:
        DataError: if a file or a field is missing, or a conversation does not end with the user's turn.
    """
    return list(read_jsonl(located("jailbreaks", root, ASSISTANT_AXIS) / f"{split}.jsonl", Jailbreak).values())


def load_scenarios(root: Path | str | None = None) -> Scenarios:
    """The scripted users of the drift study and of the case studies, from `scenarios.json`.

    Raises:
        DataError: if the file or one of the two parts is missing.
    """
    return read_as(located("scenarios.json", root, ASSISTANT_AXIS), Scenarios)


def load_graded_prompts(trait: str, root: Path | str | None = None) -> list[str]:
    """Eight system prompts, from one that suppresses the trait to one that elicits it.

    Raises:
        DataError: if the file has no eight different texts for the trait.
    """
    path = located("monitoring", root, PERSONA_VECTORS) / "graded_prompts.json"
    grades = read_as(path, dict[str, list[str]])
    prompts = grades.get(trait, [])
    if len(set(prompts)) != N_GRADES or not all(map(str.strip, prompts)):
        raise DataError(f"{path}: {trait!r} needs {N_GRADES} different texts; the file has {', '.join(grades)}.")
    return prompts


def load_contrasts(trait: str, folder: Path | str = ORGANISM) -> list[OppositeAnswers]:
    """The question/answer pairs written for a trait: `dialogues/<trait>.jsonl`.

    Raises:
        DataError: naming the file, the line and the field that is missing, blank or not text.
    """
    return list(read_jsonl(Path(folder) / "dialogues" / f"{trait}.jsonl", OppositeAnswers).values())


def load_systems(folder: Path | str = ORGANISM) -> dict[str, dict[str, list[str]]]:
    """System prompts for and against every trait: `{trait: {"positive": [...], "negative": [...]}}`.

    Raises:
        DataError: if the file is missing, or a trait lacks one of the two.
    """
    systems = read_as(Path(folder) / "dialogues" / "systems.json", dict[str, _Systems])
    return {trait: {"positive": s.positive, "negative": s.negative} for trait, s in systems.items()}
