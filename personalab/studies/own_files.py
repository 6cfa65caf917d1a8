"""What a study of one's own model leaves on disk, and its vectors read back: only if they fit the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from jaxtyping import Float
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from transformers import PreTrainedModel

from personalab.files import write_all
from personalab.lm.models import d_model, n_blocks
from personalab.measure.outcome import Outcome
from personalab.records.upstream import Trait
from personalab.records.vectors import load_vectors, save_vectors
from personalab.studies.own_trait import FEW, TRAIT_DEPTH, find_trait
from personalab.tiers import GLOBAL_SEED, current_tier

CONVENTION = "row = block"


@dataclass(frozen=True)
class Direction:
    """Vectors that fit a model: row `k` for the output of block `k`.

    Attributes:
        block: where they are read and act.
        trait: whose they are; None for an axis.
        questions: for trials, which extraction has not seen.
        notes: what a report must say of them.
    """

    vectors: Float[Tensor, "L d"]
    block: int
    trait: Trait | None
    questions: Sequence[str]
    notes: Sequence[str]


def public_name(model: str) -> str:
    """An id as it is; of a folder the last part, since a report may travel."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def keep(found: Outcome, folder: Path, page: str) -> None:
    """Write `<name>.html`, `<name>.json` and, if it has vectors, `<name>.safetensors`; no other file."""
    if found.vectors is not None:
        told = {"trait": asdict(found.trait), "questions": list(found.questions)} if found.trait else {}
        save_vectors(
            folder / f"{found.stem}.safetensors",
            {"vectors": found.vectors},
            model=found.model,
            convention=CONVENTION,
            seed=GLOBAL_SEED,
            block=found.block,
            sign=found.towards,
            judge=current_tier().judge_model,
            **found.metadata,
            **{key: json.dumps(value, ensure_ascii=False) for key, value in told.items()},
        )
    numbers = {
        "name": found.name,
        "model": found.model,
        "block": found.block,
        "rows": [row._asdict() for row in found.rows],
        "notes": list(found.notes),
        "sizes": dict(found.sizes),
        "examples": [example._asdict() for example in found.examples],
        "table": list(found.table),
    }
    text = json.dumps(numbers, indent=1, ensure_ascii=False) + "\n"
    write_all({folder / f"{found.stem}.html": page, folder / f"{found.stem}.json": text})


def fitting(vector: Outcome | str | Path, model: PreTrainedModel, name: str, revision: str = "") -> Direction:
    """Vectors of an outcome, or of the file that it left, if they are as deep and as wide as the model.

    Args:
        name, revision: of the model; vectors of another one of the same shape are taken, with a note.

    Raises:
        ValueError: for a file that is not there or not one of these, or vectors of another shape.
    """
    if isinstance(vector, Outcome):
        if vector.vectors is None:
            raise ValueError(f"The outcome {vector.name!r} has no vectors: give what axis or trait_vector returned.")
        found = Direction(vector.vectors, vector.block, vector.trait, vector.questions, ())
        told: Mapping[str, object] = {**vector.metadata, "model": vector.model}
        where = f"the outcome {vector.name!r}"
    else:
        (found, told), where = _read(Path(vector)), str(vector)
    shape, wanted = tuple(found.vectors.shape), (n_blocks(model), d_model(model))
    if shape != wanted:
        raise ValueError(
            f"{where} holds vectors of {shape[0]} blocks and width {shape[-1]}, made with {_maker(told)}; {name} has "
            f"{wanted[0]} blocks and width {wanted[1]}: make them with this model."
        )
    return replace(found, notes=_remarks(told, name, revision))


def _maker(told: Mapping[str, object]) -> str:
    return public_name(str(told.get("model", "an unknown model")))


def _remarks(told: Mapping[str, object], name: str, revision: str) -> list[str]:
    """What a report must say of vectors whose metadata these are."""
    notes, made_from = [], told.get("revision")
    if (made_with := _maker(told)) != name:
        notes.append(f"The vectors were made with {made_with}, not with this model.")
    elif made_from and revision and made_from != revision:
        notes.append(f"The vectors were made with revision {made_from} of {name}; this is {revision}.")
    pairs = str(told.get("n_pairs", FEW))
    if pairs.isdecimal() and int(pairs) < FEW:
        notes.append(f"The vector rests on {pairs} effective pairs only: it may have little to do with the trait.")
    return notes


def _read(path: Path) -> tuple[Direction, dict[str, str]]:
    """The vectors, and their file's metadata."""
    if path.suffix in (".pt", ".pth", ".gguf"):
        ours = path.with_suffix(".safetensors")
        raise ValueError(
            f'{path} is another program\'s: python -m personalab convert "{path}" "{ours}" '
            "--trait NAME --block K writes what can be read here."
        )
    if path.suffix != ".safetensors" or not path.is_file():
        raise ValueError(f"{path} is no .safetensors file: make one with trait_vector or axis and a folder.")
    tensors, metadata = load_vectors(path)
    if "vectors" not in tensors:
        raise ValueError(f"{path} holds no 'vectors' [L, d]: make it with trait_vector or axis and a folder.")
    told = metadata.get("trait", "")
    default = round(TRAIT_DEPTH * len(tensors["vectors"]))
    trait: Trait | None
    questions: Sequence[str]
    try:
        if told.startswith("{"):
            trait, questions = TypeAdapter(Trait).validate_json(told), json.loads(metadata["questions"])
        else:  # the course's own files name the trait alone
            trait, questions = find_trait(told) if told else (None, [])
        return Direction(tensors["vectors"], int(metadata.get("block", default)), trait, questions, ()), metadata
    except (ValidationError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path}: its metadata cannot be read ({error}): make it again with trait_vector, or with convert --trait."
        ) from None
