"""Sections 1 and 2 on any model: its Assistant Axis, and a cap along it, each beside what could explain it away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.lm.activations import mean_response_activations
from personalab.lm.interventions import Cap, Intervention
from personalab.lm.models import n_blocks
from personalab.measure.baselines import word_scores
from personalab.measure.capability import multiple_choice, prose_nll
from personalab.measure.outcome import Example, Ledger, Outcome, over, sizes, spread, statistic
from personalab.measure.separation import Curve, separation
from personalab.records.items import load_items, load_prose
from personalab.records.prompts import Jailbreak, load_jailbreaks
from personalab.studies.axes import RoleStates, role_states, typical_states
from personalab.studies.capping import CALIBRATION_TOKENS
from personalab.studies.jailbreaks import Scores, answer_jailbreaks, answered, score_roleplay
from personalab.studies.matched import matched_random_caps
from personalab.tiers import GLOBAL_SEED

AXIS_DEPTH = 0.7  # share of the blocks: where Section 1 reads the axis of the embedded model
CAP_DEPTHS = (0.4, 0.87)  # the run of blocks that the sweep of `studies.capping` chose on the embedded model
ABOUT_AXIS = (
    "The mean state of default answers minus that of answers in roles. The numbers are those of an axis from one half "
    "of the roles and questions, on the other half: the chance that a default answer lies nearer to the Assistant than "
    "one in a role."
)
ABOUT_CAP = (
    "A floor under the projection of every token, and how often prompts that ask for a character, some of them "
    "villains, still pull the model out of its persona. It counts role-play, not harm. Random caps remove as much "
    "along other directions."
)
N_RANDOM = 20  # random directions; the central 95 % of fewer say little


class HeldOut(NamedTuple):
    """What an axis has not seen: answers in the other half of the roles, and as defaults, to the other questions."""

    rows: Bool[np.ndarray, "n"]
    axis: Float[Tensor, "L d"]


def random_directions(n: int, d: int, seed: int = GLOBAL_SEED) -> Float[Tensor, "n d"]:
    """Unit vectors, uniform on the sphere."""
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def study_axis(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    n_questions: int = 6,
    n_roles: int | None = None,
    block: int | None = None,
    max_tokens: int = 40,
) -> tuple[Outcome, Mapping[str, Curve]]:
    """The axis of all answers, and how well that of one half of roles and questions separates the other half.

    Returns:
        The outcome, whose vectors have unit norm and point to the Assistant; and AUC by block.

    Raises:
        ValueError: for fewer than four questions or roles, of which each half needs two, or a block that is not there.
    """
    if n_questions < 4 or (n_roles is not None and n_roles < 4):
        raise ValueError(f"n_questions={n_questions}, n_roles={n_roles}: at least 4 of each, two for each half.")
    block = checked_block(model, block, AXIS_DEPTH)
    found = role_states(model, tokenizer, n_questions, n_roles, max_tokens)
    held, ledger = _held_out(found), Ledger()
    curve = _separated(ledger, found, held, block)
    _controls(ledger, model, tokenizer, found, held, block)
    outcome = Outcome(
        "axis",
        "Assistant Axis",
        ABOUT_AXIS,
        block,
        found.axis(),
        "towards the Assistant",
        ledger.rows,
        ledger.notes,
        _examples(found, held, block),
        sizes(
            model, answers=len(found.role), questions=n_questions, roles=int(found.role.max()) + 1, tokens=max_tokens
        ),
        metadata={"scale": "unit norm", "n": len(found.role)},
    )
    return outcome, {"axis": curve}


def checked_block(model: PreTrainedModel, block: int | None, depth: float) -> int:
    """The block asked for, or the one at this share of the model's depth.

    Raises:
        ValueError: for a block that does not exist.
    """
    n = n_blocks(model)
    if block is not None and not 0 <= block < n:
        raise ValueError(f"block={block} does not exist: this model has blocks 0 to {n - 1}.")
    return min(round(depth * n), n - 1) if block is None else block


def _fitted(found: RoleStates) -> Bool[np.ndarray, "n"]:
    """Every second question; of the roles, every second one."""
    return (found.question % 2 == 0) & ((found.role < 0) | (found.role % 2 == 0))


def _held_out(found: RoleStates) -> HeldOut:
    n_roles = int(found.role.max()) + 1
    even = np.arange(0, found.n_units)
    units: Int[np.ndarray, "k"] = np.array([u for u in even if (u if u < n_roles else u - n_roles) % 2 == 0])
    rows = (found.question % 2 == 1) & ((found.role < 0) | (found.role % 2 == 1))
    return HeldOut(rows, found.axis(units))


def _separated(ledger: Ledger, found: RoleStates, held: HeldOut, block: int) -> Curve:
    """The axis, and word counts fitted on the same half of the answers; returns the axis's AUC by block."""
    positive, questions, n = found.role[held.rows] < 0, found.question[held.rows].tolist(), int(held.rows.sum())
    along = torch.einsum("nld,ld->nl", found.states[torch.from_numpy(held.rows)], held.axis)
    texts = np.array([c[-1]["content"] for c in found.conversations], dtype=object)
    fitted = _fitted(found)
    words = word_scores(list(texts[fitted]), found.role[fitted] < 0, list(texts[held.rows]))
    by_block = separation(along, positive, questions)
    beside = separation(torch.stack([along[:, block], torch.from_numpy(words).float()], dim=1), positive, questions)
    ledger.add("result", "AUC of the axis", lambda: by_block.at(block), n, "answers")
    ledger.add("baseline", "AUC of word counts", lambda: beside.at(1), n, "answers")
    ledger.add("difference", "AUC, axis minus word counts", lambda: beside.difference(0, 1), n, "answers")
    return by_block.curve


def _controls(
    ledger: Ledger,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    found: RoleStates,
    held: HeldOut,
    block: int,
) -> None:
    """Random directions on the same answers; the axis on identical texts, under the same prompts."""
    place = np.flatnonzero(held.rows)
    positive, questions = found.role[place] < 0, found.question[place].tolist()
    states = found.states[torch.from_numpy(place)][:, block]
    random = separation(states @ random_directions(N_RANDOM, states.shape[1]).T, positive, questions)
    ledger.add("control", "AUC of random directions (middle 95 %)", lambda: spread(random.auc), N_RANDOM, "directions")
    text = {int(found.question[i]): found.conversations[i][-1] for i in place[positive]}
    same = [i for i in place.tolist() if int(found.question[i]) in text]
    read = [[*found.conversations[i][:-1], text[int(found.question[i])]] for i in same]
    alone = mean_response_activations(model, tokenizer, read, [block])[:, 0] @ held.axis[block]
    prompts = separation(alone[:, None], found.role[same] < 0, found.question[same].tolist())
    ledger.add(
        "control", "AUC on identical texts: what the prompt alone leaves", lambda: prompts.at(0), len(same), "readings"
    )


def _examples(found: RoleStates, held: HeldOut, block: int) -> list[Example]:
    """The nearest default and the two farthest roles of the held-out answers."""
    place = np.flatnonzero(held.rows)
    order = place[np.argsort((found.states[torch.from_numpy(place)][:, block] @ held.axis[block]).numpy())]
    chosen = [("farthest from the Assistant", order[0]), ("next", order[1]), ("nearest", order[-1])]
    return [
        Example.of(label, found.conversations[i][:-1], found.conversations[i][-1]["content"]) for label, i in chosen
    ]


def study_cap(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    axis: Float[Tensor, "L d"],
    *,
    blocks: Sequence[int] | None = None,
    percentile: float = 0.25,
    n_prompts: int = 24,
    n_items: int = 60,
    n_tokens: int = 2048,
    max_tokens: int = 40,
) -> tuple[Outcome, Mapping[str, Float[np.ndarray, "n"]]]:
    """A floor on the projection along the axis, on prompts that pull the model out of its persona, and its cost.

    Args:
        axis: towards the Assistant, of any length, row `k` for the output of block `k`.
        blocks: where the caps act (default: from 40 to 87 % of the depth).
        percentile: of the default persona's projections, where the floor lies (the paper's: 0.25).
        n_prompts, n_items, n_tokens: of held-out prompts, multiple-choice items and prose.

    Returns:
        The outcome, and by condition which answers are out of persona (1 or 0).

    Raises:
        ValueError: for a block that does not exist, or a percentile that is none.
    """
    if not 0 <= percentile <= 1:
        raise ValueError(f"percentile={percentile}: a share from 0 to 1.")
    axis, depth = F.normalize(axis.float(), dim=1), n_blocks(model)  # the papers' axes have lengths
    blocks = list(blocks or range(*(round(share * depth) for share in CAP_DEPTHS)) or [depth - 1])
    for b in blocks:
        checked_block(model, b, 0)
    typical = torch.einsum("nld,ld->nl", typical_states(model, tokenizer, blocks), axis[blocks])
    caps = [Cap(b, -axis[b], -torch.quantile(typical[:, j], percentile).item()) for j, b in enumerate(blocks)]
    calibration = load_jailbreaks("calibration")
    talks = answered(calibration, answer_jailbreaks(model, tokenizer, calibration, max_tokens=max_tokens))
    random = matched_random_caps(model, tokenizer, caps, talks, torch.Generator().manual_seed(GLOBAL_SEED))
    conditions: dict[str, Sequence[Intervention]] = {"plain": [], "capped": caps, "random caps": random}
    prompts = _spaced(load_jailbreaks("evaluation"), n_prompts)
    answers = {
        name: answer_jailbreaks(model, tokenizer, prompts, acts, max_tokens=max_tokens)
        for name, acts in conditions.items()
    }
    scores = {name: score_roleplay(prompts, texts) for name, texts in answers.items()}
    ledger = Ledger()
    _effects(ledger, scores)
    _costs(ledger, model, tokenizer, conditions, n_items, n_tokens)
    outcome = Outcome(
        "cap",
        "Capping along the Assistant Axis",
        ABOUT_CAP,
        blocks[0],
        rows=ledger.rows,
        notes=ledger.notes,
        examples=_changed(prompts, answers, scores),
        sizes=sizes(model, blocks=f"{blocks[0]} to {blocks[-1]}", percentile=percentile, prompts=len(prompts)),
    )
    return outcome, {name: s.out for name, s in scores.items()}


def _spaced(prompts: Sequence[Jailbreak], n: int) -> list[Jailbreak]:
    return list(prompts)[:: max(1, len(prompts) // n)][:n]


def _effects(ledger: Ledger, scores: Mapping[str, Scores]) -> None:
    n = len(scores["plain"].out)
    for kind, name in (("result", "capped"), ("baseline", "plain"), ("control", "random caps")):
        ledger.add(kind, f"share out of persona, {name}", over(scores[name].out), n, "prompts")  # type: ignore[arg-type]
    for other in ("plain", "random caps"):
        change = scores["capped"].out - scores[other].out
        ledger.add("difference", f"share out of persona, capped minus {other}", over(change), n, "prompts")
    for name in ("capped", "random caps"):
        change = scores[name].coherence - scores["plain"].coherence
        ledger.add("cost", f"coherence (0-100), {name} minus plain", over(change), n, "prompts")


def _costs(
    ledger: Ledger,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conditions: Mapping[str, Sequence[Intervention]],
    n_items: int,
    n_tokens: int,
) -> None:
    items, prose = load_items()[:n_items], load_prose()
    right = {name: multiple_choice(model, tokenizer, items, acts).astype(float) for name, acts in conditions.items()}
    nll = {
        name: prose_nll(model, tokenizer, prose, acts, n_tokens=n_tokens, skip=CALIBRATION_TOKENS)
        for name, acts in conditions.items()
    }
    for name in ("capped", "random caps"):
        what = f"multiple-choice items right, {name} minus plain"
        ledger.add("cost", what, over(right[name] - right["plain"]), len(items), "items")
        growth = nll[name] - nll["plain"]
        ratio = statistic(len(growth), lambda i, growth=growth: float(np.exp(growth[i].mean())))  # type: ignore[misc]
        ledger.add("cost", f"perplexity of prose, {name} over plain", ratio, len(growth), "windows")


def _changed(
    prompts: Sequence[Jailbreak], answers: Mapping[str, Sequence[str]], scores: Mapping[str, Scores]
) -> list[Example]:
    """Up to three prompts whose plain answer is out of persona and whose capped one is not, both answers."""
    chosen = [i for i in range(len(prompts)) if scores["plain"].out[i] and not scores["capped"].out[i]][:3]
    return [
        Example(name, prompts[i].messages[-1]["content"], answers[name][i])
        for i in chosen
        for name in ("plain", "capped")
    ]
