"""The bonus of Section 4 on any model: which rows of training data lean towards a trait, before any training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.judging.rubrics import TRAITS
from personalab.lm.activations import mean_response_activations
from personalab.lm.lora_data import Dialogue, example_of
from personalab.lm.lora_loss import assistant_loss
from personalab.measure.answers import answer_all, score_answers
from personalab.measure.outcome import Example, Ledger, Outcome, sizes, spread, statistic
from personalab.records.upstream import Trait
from personalab.studies.own_axis import N_RANDOM, random_directions
from personalab.studies.screening import exchange, word_columns

FEWEST = 10  # rows that a rank correlation is worth computing of
SHOWN_ROWS = 3


def study_screen(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    trait: Trait,
    vectors: Float[Tensor, "L d"],
    dialogues: Sequence[Dialogue],
    *,
    block: int,
    max_tokens: int = 40,
) -> tuple[Outcome, dict[str, Float[np.ndarray, "n"]]]:
    """Projection difference of every row: its answer's mean state minus that of the model's own, along the vector.

    Returns:
        The outcome, whose table holds every row, the most suspicious first; and by name what ranks them: "projection
        difference", "judge", ….

    Raises:
        ValueError: for fewer than ten rows.
    """
    if len(dialogues) < FEWEST:
        raise ValueError(f"{len(dialogues)} rows of data are too few to screen: at least {FEWEST} are needed.")
    prompts, pairs = [d.messages[:-1] for d in dialogues], [exchange(d) for d in dialogues]
    texts = answer_all(model, tokenizer, prompts, max_tokens=max_tokens)
    own = [[*p, {"role": "assistant", "content": t if t.strip() else "."}] for p, t in zip(prompts, texts, strict=True)]
    states, own_states = (
        mean_response_activations(model, tokenizer, c, [block])[:, 0] for c in ([d.messages for d in dialogues], own)
    )
    direction = F.normalize(vectors[block].float(), dim=0)
    judged = score_answers(trait, *map(list, zip(*pairs, strict=True)), coherence=False).trait
    ranks = {"projection difference": ((states - own_states) @ direction).numpy()}
    ranks["projection alone"] = (states @ direction).numpy()
    ranks |= _dull_ranks(trait, [answer for _, answer in pairs], _losses(model, tokenizer, dialogues))
    ledger = Ledger()
    _correlations(ledger, ranks, judged, (states - own_states) @ random_directions(N_RANDOM, states.shape[1]).T)
    if trait.name not in TRAITS:
        ledger.notes.append(f"word counts: there are no written contrasts for the trait {trait.name!r} to fit them on.")
    table = _table(ranks["projection difference"], judged, pairs)
    ends = [("most suspicious", row) for row in table[:SHOWN_ROWS]] + [("least suspicious", row) for row in table[-1:]]
    outcome = Outcome(
        f"screen-{trait.name}",
        f"Screening: {trait.name}",
        "Every row of the data is ranked by how much further its answer lies along the vector than the model's own "
        "answer to the same question. Below: how well that ranking, and duller ones, agree with the judge's.",
        block,
        rows=ledger.rows,
        notes=ledger.notes,
        examples=[
            Example(f"{label}: row {row['row']}, {row['difference']:+.2f}", row["question"], row["answer"])
            for label, row in ends
        ],
        sizes=sizes(model, rows=len(dialogues), tokens=max_tokens),
        table=table,
    )
    return outcome, ranks | {"judge": judged}


def _dull_ranks(
    trait: Trait, answers: Sequence[str], losses: Float[np.ndarray, "n"]
) -> dict[str, Float[np.ndarray, "n"]]:
    """What ranks rows without any vector; words only where there are written contrasts of the trait to fit them on."""
    words = {"word counts": word_columns(trait.name, [answers])[0]} if trait.name in TRAITS else {}
    length = np.array([float(len(answer.split())) for answer in answers])
    return {**words, "loss of the untrained model": losses, "length in words": length}


def _table(
    difference: Float[np.ndarray, "n"], judged: Float[np.ndarray, "n"], pairs: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Every row of the data, counted from 1, the most suspicious first."""
    return [
        {"row": int(i) + 1, "difference": round(float(difference[i]), 3),
         "judge": None if np.isnan(judged[i]) else float(judged[i]), "question": pairs[i][0], "answer": pairs[i][1]}
        for i in np.argsort(-difference, kind="stable")
    ]  # fmt: skip


@torch.inference_mode()
def _losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dialogues: Sequence[Dialogue]
) -> Float[np.ndarray, "n"]:
    """Nats a token of each answer."""
    return np.array([assistant_loss(model, [example_of(d, tokenizer)]).item() for d in dialogues])


def _correlations(
    ledger: Ledger,
    ranks: dict[str, Float[np.ndarray, "n"]],
    judged: Float[np.ndarray, "n"],
    chance: Float[Tensor, "n v"],
) -> None:
    known = np.flatnonzero(~np.isnan(judged))

    def agreement(values: np.ndarray, i: np.ndarray) -> float:
        x, y = values[known[i]], judged[known[i]]
        if not (np.ptp(x) and np.ptp(y)):
            return float("nan")
        return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])  # scipy's own takes five times as long

    n = len(known)
    for place, (name, values) in enumerate(ranks.items()):
        found = statistic(n, lambda i, values=values: agreement(values, i))  # type: ignore[misc]
        ledger.add("baseline" if place else "result", f"rank correlation with the judge, {name}", found, n, "rows")
    first = ranks["projection difference"]
    for name in ("word counts", "length in words"):
        if name in ranks:
            found = statistic(n, lambda i, name=name: agreement(first, i) - agreement(ranks[name], i))  # type: ignore[misc]
            ledger.add("difference", f"rank correlation, difference minus {name}", found, n, "rows")
    sizes_of = [abs(agreement(column, np.arange(n))) for column in chance.numpy().T]
    ledger.add(
        "control", "size along random directions (middle 95 %)", lambda: spread(sizes_of), N_RANDOM, "directions"
    )
