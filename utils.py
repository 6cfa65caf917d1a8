"""Everything the notebooks import that is provided; thin, over `personalab`."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from personalab.endpoint import (
    BatchError,
    generate_response,
    generate_responses_parallel,
    make_client,
    scripted_replies,
)
from personalab.figures.assistant_axis import plot_drift, plot_sweep, show_side_by_side
from personalab.figures.base import plot_null, plot_rates
from personalab.figures.by_block import plot_by_block
from personalab.figures.capping import plot_ablation, plot_tradeoff
from personalab.figures.persona_space import plot_persona_space, plot_similarity_line, plot_similarity_matrix
from personalab.figures.playground import Playground
from personalab.figures.steering import plot_conditions, plot_monitor, plot_steering
from personalab.figures.trait_axis import plot_trait_axis
from personalab.judging import score_responses
from personalab.judging.replies import read_score
from personalab.lm.activations import last_prompt_activations, mean_response_activations
from personalab.lm.chat import as_messages, render_prompt, turn_spans
from personalab.lm.interventions import Ablate, Cap, Steer, applied
from personalab.lm.models import d_model, decoder_blocks, load_model, n_blocks, release
from personalab.lm.noting import noting
from personalab.lm.tiny import load_tiny_model
from personalab.measure.answers import (
    COHERENCE_PROMPT,
    answer_questions,
    contrastive_answers,
    score_answers,
)
from personalab.measure.auc import auc_with_interval
from personalab.measure.baselines import difference_of_means, mean_token_embeddings, word_scores
from personalab.measure.capability import load_voices, multiple_choice, prose_nll
from personalab.measure.crossed import crossed_interval
from personalab.measure.intervals import bca_interval, bootstrap_interval, jackknife_interval, measure, permutation_p
from personalab.measure.separation import (
    Curve,
    Separation,
    joined,
    mean_by_question,
    mean_separation,
    permuted_differences,
    separation,
)
from personalab.records.artifacts import load_artifact, load_axis_of_section_1, load_steering_block, save_artifact
from personalab.records.items import load_items, load_prose
from personalab.records.prompts import load_graded_prompts, load_jailbreaks
from personalab.records.published import load_published_traits
from personalab.records.results import record
from personalab.records.steps import load_or_generate, steps_dir, steps_in
from personalab.records.transfer import load_transfer_texts
from personalab.records.upstream import (
    load_case_studies,
    load_questions,
    load_role_groups,
    load_roles,
    load_trait_artifacts,
    load_traits,
    load_transcript,
    load_transcripts,
)
from personalab.records.vectors import load_vectors, save_vectors
from personalab.sae.files import find_sae, load_sae, sae_block
from personalab.sae.statistics import (
    Text,
    dead_features,
    explained_variance,
    l0,
    max_activating,
    read_text,
    spliced_losses,
    squared_errors,
    token_activations,
)
from personalab.setup.machine import one_thread
from personalab.studies.axes import measure_axes, role_states, typical_states
from personalab.studies.capping import caps, load_capping_config, threshold_to_cap
from personalab.studies.capping_cost import capping_conditions, capping_cost
from personalab.studies.contrast import PARAPHRASED, load_trait_vectors, save_trait_vectors, traits_that_work
from personalab.studies.jailbreaks import answer_jailbreaks, answered, score_roleplay
from personalab.studies.matched import removed_norms, turn_batch
from personalab.studies.trait_parts import compose_trait_artifact
from personalab.tiers import current_tier, use_tier

if TYPE_CHECKING:
    from personalab.course.progress import Progress

__all__ = [
    "COHERENCE_PROMPT",
    "PARAPHRASED",
    "Ablate",
    "BatchError",
    "Cap",
    "Curve",
    "Playground",
    "Separation",
    "Steer",
    "answer_jailbreaks",
    "answer_questions",
    "answered",
    "applied",
    "as_messages",
    "auc_with_interval",
    "bca_interval",
    "bootstrap_interval",
    "capping_conditions",
    "capping_cost",
    "caps",
    "compose_trait_artifact",
    "contrastive_answers",
    "crossed_interval",
    "current_tier",
    "d_model",
    "dead_features",
    "decoder_blocks",
    "difference_of_means",
    "explained_variance",
    "find_sae",
    "finetuning_tools",
    "generate_response",
    "generate_responses_parallel",
    "jackknife_interval",
    "joined",
    "judge_model",
    "l0",
    "last_prompt_activations",
    "load_artifact",
    "load_axis_of_section_1",
    "load_capping_config",
    "load_case_studies",
    "load_graded_prompts",
    "load_items",
    "load_jailbreaks",
    "load_model",
    "load_or_generate",
    "load_prose",
    "load_published_traits",
    "load_questions",
    "load_role_groups",
    "load_roles",
    "load_sae",
    "load_sae_texts",
    "load_steering_block",
    "load_tiny_model",
    "load_trait_artifacts",
    "load_trait_vectors",
    "load_traits",
    "load_transcript",
    "load_transcripts",
    "load_transfer_texts",
    "load_vectors",
    "load_voices",
    "make_client",
    "max_activating",
    "mean_by_question",
    "mean_response_activations",
    "mean_separation",
    "mean_token_embeddings",
    "measure",
    "measure_axes",
    "multiple_choice",
    "n_blocks",
    "noting",
    "one_thread",
    "permutation_p",
    "permuted_differences",
    "plot_ablation",
    "plot_by_block",
    "plot_conditions",
    "plot_drift",
    "plot_monitor",
    "plot_null",
    "plot_persona_space",
    "plot_rates",
    "plot_similarity_line",
    "plot_similarity_matrix",
    "plot_steering",
    "plot_sweep",
    "plot_tradeoff",
    "plot_trait_axis",
    "progress",
    "prose_nll",
    "read_score",
    "read_text",
    "record",
    "release",
    "removed_norms",
    "render_prompt",
    "role_states",
    "sae_block",
    "save_artifact",
    "save_trait_vectors",
    "save_vectors",
    "score_answers",
    "score_responses",
    "score_roleplay",
    "scripted_replies",
    "separation",
    "show_side_by_side",
    "spliced_losses",
    "squared_errors",
    "steps_dir",
    "steps_in",
    "threshold_to_cap",
    "token_activations",
    "traits_that_work",
    "turn_batch",
    "turn_spans",
    "typical_states",
    "use_tier",
    "word_scores",
]


def judge_model() -> str:
    """Name of the current tier's judge, as the chat endpoint knows it."""
    return current_tier().judge_model


def load_sae_texts(split: Literal["train", "held_out"]) -> list[Text]:
    """The texts that the embedded model's autoencoder was trained on, or those kept back from it."""
    from personalab.studies.sae_training import load_texts  # brings in the finetuning engine, which takes seconds

    return load_texts(split)


def finetuning_tools() -> ModuleType:
    """What the bonus of Section 4 is provided with: `personalab.bonus`."""
    return importlib.import_module("personalab.bonus")  # brings in the engine, which takes seconds


def progress() -> "Progress":
    """Which exercises pass in your workbook, and which is next: a small table, kept across sessions."""
    return importlib.import_module("personalab.course.progress").progress()
