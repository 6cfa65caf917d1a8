"""What a finetuning study works on, and what it reads of a model: trait scores, states, what the tuning cost."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from personalab.lm.activations import last_prompt_activations
from personalab.lm.chat import as_messages
from personalab.lm.interventions import Intervention
from personalab.lm.lora_data import Dialogue, LoraSettings, read_dialogues, tier_settings
from personalab.lm.models import load_model
from personalab.measure.answers import answer_all, score_answers
from personalab.measure.capability import multiple_choice, prose_nll
from personalab.records.artifacts import load_steering_block
from personalab.records.datasets import dataset_path
from personalab.records.items import Item, load_items, load_mmlu, load_prose
from personalab.records.rows import MAIN_TRAITS
from personalab.records.upstream import Trait, load_trait_artifacts
from personalab.studies.contrast import load_trait_vectors
from personalab.tiers import GLOBAL_SEED, current_tier

MAX_TOKENS = 32  # of an answer, as in Section 4
PROSE_TOKENS = 8_192
N_ROWS = 75  # of each set, on a laptop: what 24 finetunes leave time for
DECIMALS = 4  # kept of states and losses


@dataclass
class Subject:
    """A model to finetune, the trait vectors to read it by, and how.

    Attributes:
        vectors: by trait, [L, d], a row a block: all traits, of which the main three are scored.
        block: where shifts are read and single-block interventions act.
        questions: by trait, those whose answers are scored: no finetuning and no choice sees them.
        calibration: by trait, others, on which an intervention is chosen.
        n_rows: of each dataset; the same questions in its three versions.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    vectors: Mapping[str, Float[Tensor, "L d"]]
    block: int
    settings: LoraSettings
    questions: Mapping[str, Sequence[str]]
    calibration: Mapping[str, Sequence[str]]
    items: Sequence[Item]
    prose: Sequence[str]
    n_rows: int = N_ROWS
    prose_tokens: int = PROSE_TOKENS
    root: Path | None = None  # of the datasets, as `dataset_path` takes it

    @cached_property
    def base_states(self) -> Float[Tensor, "d"]:
        """Mean state of the last prompt tokens before any finetuning."""
        return self.prompt_state(self.model)

    def dialogues(self, category: str, version: str) -> list[Dialogue]:
        """The drawn rows of one dataset."""
        found = read_dialogues(dataset_path(category, version, self.root))
        order = random.Random(f"{GLOBAL_SEED} {category}").sample(range(len(found)), len(found))
        return [found[i] for i in sorted(order[: self.n_rows])]

    def prompt_state(self, model: PreTrainedModel) -> Float[Tensor, "d"]:
        """Mean state at the last prompt token over all scored questions, after `block`."""
        asked = [as_messages(None, q) for t in self.questions for q in self.questions[t]]
        return last_prompt_activations(model, self.tokenizer, asked, [self.block])[:, 0].mean(dim=0)

    def scores(
        self,
        model: PreTrainedModel,
        traits: Sequence[str] = MAIN_TRAITS,
        interventions: Sequence[Intervention] = (),
        *,
        calibration: bool = False,
        coherence: bool = False,
    ) -> dict[str, Any]:
        """Trait scores of answers without a system prompt, question by question; None where the judge gives none."""
        asked = [(t, q) for t in traits for q in (self.calibration if calibration else self.questions)[t]]
        texts = answer_all(
            model,
            self.tokenizer,
            [as_messages(None, q) for _, q in asked],
            max_tokens=MAX_TOKENS,
            interventions=interventions,
        )
        found: dict[str, Any] = {}
        for trait in traits:
            rows = [(q, text) for (t, q), text in zip(asked, texts, strict=True) if t == trait]
            scored = score_answers(trait, *map(list, zip(*rows, strict=True)), coherence=coherence)
            found[trait] = plain(scored.trait)
            if coherence:
                found[f"{trait} coherence"] = plain(scored.coherence)
        return found

    def cost(self, model: PreTrainedModel, interventions: Sequence[Intervention] = ()) -> dict[str, Any]:
        """Items right (0 or 1 each), and nats a token of prose, window by window."""
        right = multiple_choice(model, self.tokenizer, self.items, interventions)
        nll = prose_nll(model, self.tokenizer, self.prose, interventions, n_tokens=self.prose_tokens)
        return {"right": [int(x) for x in right], "nll": plain(nll)}


def plain(values: np.ndarray | Tensor | Sequence[float]) -> list[float | None]:
    """For JSON: rounded, None where there is no number."""
    return [None if np.isnan(x) else round(float(x), DECIMALS) for x in np.asarray(values, dtype=float)]


def load_subject(n_rows: int = N_ROWS) -> Subject:
    """The current tier's trait model with its vectors, artifacts and settings."""
    model, tokenizer = load_model("trait")
    extract, evaluation = load_trait_artifacts("extract"), load_trait_artifacts("eval")

    def questions(split: Mapping[str, Trait]) -> dict[str, Sequence[str]]:
        return {trait: split[trait].questions for trait in MAIN_TRAITS}

    return Subject(
        model,
        tokenizer,
        load_trait_vectors(),
        load_steering_block(),
        tier_settings(),
        questions(evaluation),
        questions(extract),
        load_items() if current_tier().embedded else load_mmlu(),
        load_prose(),
        n_rows,
    )


def provenance(subject: Subject) -> dict[str, Any]:
    """What a result file says about how it came about."""
    return {
        "tier": current_tier().name,
        "model": current_tier().trait_model,
        "dtype": str(next(subject.model.parameters()).dtype).removeprefix("torch."),
        "seed": GLOBAL_SEED,
        "block": subject.block,
        "n_rows": subject.n_rows,
    }


def unit_rows(vectors: Mapping[str, Float[Tensor, "L d"]], block: int) -> dict[str, Float[Tensor, "d"]]:
    """Each trait's direction at one block, of norm 1."""
    return {trait: torch.nn.functional.normalize(v[block].float(), dim=0) for trait, v in vectors.items()}
