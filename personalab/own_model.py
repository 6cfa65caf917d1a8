"""A model of your own, in the order of the sections: its axis and traits found, watched, steered, capped, screened.

    from personalab.own_model import axis, cap, loaded, monitor, screen, steer, trait_vector

    model = loaded("Qwen/Qwen2.5-0.5B-Instruct")  # or a folder, or (model, tokenizer) as transformers loads them
    vector = trait_vector(model, "sycophantic", folder="out")
    print(steer(model, vector, folder="out"))

Every function returns an `Outcome`: what was found, beside baselines and controls, with n and intervals. With `folder`
it also leaves there `<name>.html` (one page, which needs nothing but itself), `<name>.json` and, where it makes
vectors, `<name>.safetensors`; nothing is written anywhere else. Answers come from that model, on this machine; they are
judged by the embedded judge, or by the one that `PERSONALAB_JUDGE_MODEL` names. `python -m personalab axis --help` and
so on do the same from the command line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab import __version__
from personalab.figures.base import collected, plot_rates
from personalab.figures.by_block import plot_by_block
from personalab.figures.report import page, plot_ranks
from personalab.figures.steering import plot_monitor, plot_steering
from personalab.lm.lora_data import Dialogue, read_dialogues
from personalab.lm.models import load_named
from personalab.measure.outcome import Outcome
from personalab.measure.separation import Curve
from personalab.records.upstream import Trait
from personalab.setup.weights import LANGUAGE_MODEL
from personalab.studies.own_axis import study_axis, study_cap
from personalab.studies.own_files import Direction, fitting, keep, public_name
from personalab.studies.own_screen import study_screen
from personalab.studies.own_trait import find_trait, study_trait_vector
from personalab.studies.own_use import COEFFICIENTS, study_monitor, study_steer
from personalab.tiers import EMBEDDED_MODEL, TRAIT_ORGANISM, local_tier


class Loaded(NamedTuple):
    """A model in memory, its tokenizer, what reports call it, and the weights' revision ("" if unknown)."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str = ""


Model = Loaded | tuple[PreTrainedModel, PreTrainedTokenizerBase] | str | Path
Vector = Outcome | str | Path


def loaded(model: Model) -> Loaded:
    """A model ready for the other functions: load it once where you call several.

    Args:
        model: an id on the hub, a folder, the name of an embedded model, or a model and its tokenizer.

    Raises:
        ValueError: if there is no such model, it is none of these, or it has no chat template.
    """
    if isinstance(model, Loaded):
        return model
    if isinstance(model, str | Path):
        name = os.path.expanduser(model)
        lm, tokenizer = load_named(name, local_tier(name))
    elif isinstance(model, tuple) and len(model) == 2 and isinstance(model[1], PreTrainedTokenizerBase):
        lm, tokenizer = model
        name = lm.config._name_or_path or tokenizer.name_or_path
    else:
        raise ValueError(f"model must be an id, a folder, or (model, tokenizer), not {type(model).__name__}.")
    if not tokenizer.chat_template:
        raise ValueError(
            f"{public_name(name)} has no chat template, so it is no chat model: name its instruct version, or set "
            "tokenizer.chat_template and give (model, tokenizer)."
        )
    return Loaded(lm.eval(), tokenizer, public_name(name), _revision(lm, name))


def _revision(model: PreTrainedModel, name: str) -> str:
    """The commit that the hub's weights are of, or the embedded model's release."""
    embedded = name in (EMBEDDED_MODEL, TRAIT_ORGANISM)
    return LANGUAGE_MODEL.revision if embedded else getattr(model.config, "_commit_hash", None) or ""


def axis(
    model: Model,
    *,
    n_questions: int = 6,
    n_roles: int | None = None,
    block: int | None = None,
    max_tokens: int = 40,
    folder: Path | str | None = None,
) -> Outcome:
    """The Assistant Axis, unit norm at every block, towards the Assistant; measured on other roles and questions.

    Args:
        n_roles: how many of the 30 roles (default: all).
        block: whose numbers are reported (default: at 70 % of the depth).
        folder: where files go (default: nowhere).

    Raises:
        ValueError: for a model that cannot be found, a block that does not exist, or too few questions or roles.
    """
    lm = loaded(model)
    found, curves = study_axis(
        lm.model, lm.tokenizer, n_questions=n_questions, n_roles=n_roles, block=block, max_tokens=max_tokens
    )
    return _kept(found, lm, folder, lambda: _plot_blocks("axis", curves, found.block))


def trait_vector(
    model: Model,
    trait: str | Path | Trait,
    *,
    description: str | None = None,
    n_questions: int = 8,
    n_test: int = 12,
    block: int | None = None,
    max_tokens: int = 40,
    folder: Path | str | None = None,
) -> Outcome:
    """The vector of a trait at every block, towards the trait, as long as the difference of the two means.

    Args:
        trait: one of the course's ("sycophantic"), the path of a trait's JSON file, a `Trait`, or with `description`
            any adjective.
        description: one sentence about how the trait shows.
        n_questions, n_test: to extract from (each under five pairs of instructions), and to test on.
        block, folder: as for `axis`, the block at 57 % of the depth.

    Raises:
        ValueError: as `axis`; if no pair of answers is effective; for a trait without prompts.
    """
    known, tests = find_trait(trait, description)
    lm = loaded(model)
    found, curves = study_trait_vector(
        lm.model, lm.tokenizer, known, tests, n_questions=n_questions, n_test=n_test, block=block, max_tokens=max_tokens
    )
    return _kept(found, lm, folder, lambda: _plot_blocks(known.name, curves, found.block))


def monitor(
    model: Model, vector: Vector, *, n_questions: int = 6, max_tokens: int = 40, folder: Path | str | None = None
) -> Outcome:
    """Whether the state before an answer foretells its score, beside the grade of the system prompt alone.

    Args:
        vector: what `trait_vector` returned, or its `.safetensors` file.

    Raises:
        ValueError: for a vector that does not fit the model.
    """
    lm = loaded(model)
    of, trait = _of_trait(vector, lm)
    questions = of.questions[:n_questions]
    found, seen = study_monitor(
        lm.model, lm.tokenizer, trait, questions, of.vectors, block=of.block, max_tokens=max_tokens
    )
    return _kept(
        found, lm, folder, lambda: plot_monitor({trait.name: seen.projections}, {trait.name: seen.scores}), of.notes
    )


def steer(
    model: Model,
    vector: Vector,
    *,
    coefficients: Sequence[float] = COEFFICIENTS,
    n_questions: int = 8,
    n_random: int = 3,
    max_tokens: int = 40,
    folder: Path | str | None = None,
) -> Outcome:
    """What adding the vector does to the trait's score and to coherence, beside random vectors of the same length.

    Args:
        vector: as for `monitor`.
        coefficients: of the vector as it is; 0 is always among them.
        n_random: random vectors of the same length.

    Raises:
        ValueError: as `monitor`, and without a coefficient above 0.
    """
    lm = loaded(model)
    of, trait = _of_trait(vector, lm)
    found, seen = study_steer(
        lm.model, lm.tokenizer, trait, of.questions[:n_questions], of.vectors,
        block=of.block, coefficients=coefficients, n_random=n_random, max_tokens=max_tokens,
    )  # fmt: skip

    def draw() -> None:
        scores, coherence, coherent, mixed = (
            {trait.name: values} for values in (seen.scores, seen.coherence, seen.coherent, seen.shuffled)
        )
        random = {trait.name: ([0.0, seen.best], seen.random)}
        plot_steering(seen.coefficients, scores, coherence, coherent, mixed, random)

    return _kept(found, lm, folder, draw, of.notes)


def cap(
    model: Model,
    vector: Vector | None = None,
    *,
    blocks: Sequence[int] | None = None,
    percentile: float = 0.25,
    n_prompts: int = 24,
    n_items: int = 60,
    n_tokens: int = 2048,
    max_tokens: int = 40,
    folder: Path | str | None = None,
) -> Outcome:
    """A floor on the projection along the axis: what it does to role-play and what it costs, beside random caps.

    Args:
        vector: what `axis` returned, or its `.safetensors` file (default: an axis is made first, and kept in `folder`).
        blocks: where the caps act (default: from 40 to 87 % of the depth).
        percentile: of the default persona's projections, where the floor lies.
        n_prompts, n_items, n_tokens: of held-out prompts, multiple-choice items, and prose.

    Raises:
        ValueError: as `axis`, and for a vector that does not fit the model.
    """
    lm = loaded(model)
    made = axis(lm, max_tokens=max_tokens, folder=folder) if vector is None else vector
    of = fitting(made, lm.model, lm.name, lm.revision)
    found, out = study_cap(
        lm.model, lm.tokenizer, of.vectors, blocks=blocks, percentile=percentile,
        n_prompts=n_prompts, n_items=n_items, n_tokens=n_tokens, max_tokens=max_tokens,
    )  # fmt: skip
    return _kept(found, lm, folder, lambda: plot_rates(out, "share out of persona"), of.notes)


def screen(
    model: Model,
    vector: Vector,
    data: Path | str | Sequence[Dialogue],
    *,
    n_rows: int | None = None,
    max_tokens: int = 40,
    folder: Path | str | None = None,
) -> Outcome:
    """Rows of training data ranked by how far they lean towards the trait, before any training, beside duller rankings.

    Args:
        vector: as for `monitor`.
        data: JSON Lines of conversations (`{"messages": [...]}`), or dialogues.
        n_rows: only the first so many (default: all).

    Raises:
        ValueError: as `monitor`, and for fewer than ten rows; DataError for a malformed file, naming the line.
    """
    dialogues = read_dialogues(data) if isinstance(data, str | Path) else list(data)
    lm = loaded(model)
    of, trait = _of_trait(vector, lm)
    found, ranks = study_screen(
        lm.model, lm.tokenizer, trait, of.vectors, dialogues[:n_rows], block=of.block, max_tokens=max_tokens
    )
    return _kept(found, lm, folder, lambda: plot_ranks(ranks, trait.name), of.notes)


def _of_trait(vector: Vector, lm: Loaded) -> tuple[Direction, Trait]:
    of = fitting(vector, lm.model, lm.name, lm.revision)
    if of.trait is None:
        raise ValueError(
            "These vectors are no trait's: give what trait_vector returned, or the file that it left. Vectors of other "
            "programs take the name with them: python -m personalab convert FILE OUT --trait evil --block 19."
        )
    return of, of.trait


def _plot_blocks(name: str, curves: Mapping[str, Curve], block: int) -> None:
    if curves:
        plot_by_block(
            {name: curves},
            "AUC, held-out answers",
            chosen={name: block},
            chosen_name="block of the numbers",
            reference=0.5,
            reference_name="chance",
        )


def _kept(
    found: Outcome, lm: Loaded, folder: Path | str | None, draw: Callable[[], None], notes: Sequence[str] = ()
) -> Outcome:
    """The outcome under the model's name; with a folder, also on disk, with its figures."""
    told = {"revision": lm.revision} if lm.revision else {}
    metadata, sizes = {**found.metadata, **told}, {**found.sizes, **told}
    found = replace(found, model=lm.name, notes=[*notes, *found.notes], metadata=metadata, sizes=sizes)
    if folder is not None:
        with collected() as pictures:
            draw()
        keep(found, Path(folder), page(found, pictures, __version__))
    return found
