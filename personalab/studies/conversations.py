"""Conversations with scripted users: the user's turns are written, the model's are its own.

python -m personalab transcripts      # makes assistant-axis/transcripts/ from assistant-axis/scenarios.json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.files import write
from personalab.lm.activations import pool
from personalab.lm.chat import Message, turn_spans
from personalab.lm.interventions import Intervention
from personalab.lm.models import load_model
from personalab.measure.answers import answer_all
from personalab.records.clones import ASSISTANT_AXIS
from personalab.records.prompts import load_scenarios
from personalab.setup.machine import compute_for_the_record
from personalab.studies.capping import caps, load_capping_config
from personalab.tiers import current_tier

MAX_TOKENS = 60  # an answer; our choice: long enough to drift, short enough for ten turns of context


def converse(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    scripts: Sequence[Sequence[str]],
    interventions: Sequence[Intervention] = (),
    *,
    max_tokens: int = MAX_TOKENS,
) -> list[list[Message]]:
    """One conversation a script: its user turns, each followed by the model's answer to all that came before.

    Conversations run side by side, turn by turn. An empty answer is kept as "...".
    """
    conversations: list[list[Message]] = [[] for _ in scripts]
    for turn in range(max(map(len, scripts), default=0)):
        here = [i for i, script in enumerate(scripts) if turn < len(script)]
        for i in here:
            conversations[i].append({"role": "user", "content": scripts[i][turn]})
        asked = [conversations[i] for i in here]
        texts = answer_all(model, tokenizer, asked, max_tokens=max_tokens, interventions=interventions)
        for conversation, text in zip(asked, texts, strict=True):
            conversation.append({"role": "assistant", "content": text.strip() or "..."})
    return conversations


def turn_projections(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[Message]],
    axis: Float[Tensor, "d"],
    block: int,
) -> list[list[float]]:
    """Projection on `axis` of every assistant turn's mean activation after `block`: one pass a conversation."""
    encoded = [turn_spans(c, tokenizer) for c in conversations]
    return [(means[:, 0] @ axis).tolist() for means in pool(model, encoded, [block])]


def make() -> None:
    """Hold every conversation, project it, write it."""
    compute_for_the_record()
    tier, scenarios, config = current_tier(), load_scenarios(), load_capping_config()
    model, tokenizer = load_model("capping")
    chosen, block = config["chosen"], config["steering"]["layer"]
    axis = config["vectors"]["axis"]["vector"]
    model_name = tier.capping_model.rpartition("/")[2]
    drift = [(d, i, s) for d, scripts in scenarios.persona_drift.items() for i, s in enumerate(scripts)]
    drift_names = [f"persona_drift/{d}" + (f"_{i + 1}" if i else "") for d, i, _ in drift]
    cases = scenarios.case_studies
    plain = converse(model, tokenizer, [*(s for *_, s in drift), *cases.values()])
    capped = converse(model, tokenizer, list(cases.values()), caps(config, chosen))
    names = drift_names + [f"case_studies/{model_name}/{c}_unsteered" for c in cases]
    names += [f"case_studies/{model_name}/{c}_capped" for c in cases]
    conversations = plain + capped
    for name, conversation, projections in zip(
        names, conversations, turn_projections(model, tokenizer, conversations, axis, block), strict=True
    ):
        record: dict[str, Any] = {"model": tier.capping_model, "turns": len(projections)}
        if name.endswith("_capped"):
            record["steering_config"] = {"experiment_id": chosen}
        record |= {"conversation": conversation, "projections": [round(p, 3) for p in projections]}
        path = ASSISTANT_AXIS / "transcripts" / f"{name}.json"
        write(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(names)} transcripts")
