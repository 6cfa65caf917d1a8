"""Everything the notebooks import that is provided; thin, over `personalab`."""

from typing import Literal

from personalab.activations import last_prompt_activations, mean_response_activations
from personalab.answers import contrastive_answers
from personalab.artifact_blocks import compose_trait_artifact
from personalab.artifacts import load_artifact, save_artifact
from personalab.block_plots import plot_by_block
from personalab.capping import (
    answer_jailbreaks,
    caps,
    load_capping_config,
    load_jailbreaks,
    measure_axes,
    score_roleplay,
    threshold_to_cap,
    typical_states,
)
from personalab.capping_cost import capping_conditions, capping_cost
from personalab.chat import as_messages, render_prompt, turn_spans
from personalab.data import (
    load_questions,
    load_role_groups,
    load_roles,
    load_trait_artifacts,
    load_traits,
    load_transcript,
    load_transcripts,
)
from personalab.endpoint import (
    BatchError,
    generate_response,
    generate_responses_parallel,
    make_client,
    scripted_replies,
)
from personalab.evaluation import load_items, load_prose, load_voices, multiple_choice, prose_nll
from personalab.interventions import Ablate, Cap, Steer, applied
from personalab.judging import score_responses
from personalab.models import d_model, decoder_blocks, load_model, n_blocks, release
from personalab.playground import Playground
from personalab.plots import (
    plot_drift,
    plot_null,
    plot_persona_space,
    plot_rates,
    plot_similarity_line,
    plot_similarity_matrix,
    plot_sweep,
    plot_tradeoff,
    show_side_by_side,
)
from personalab.results import measure, record
from personalab.sae import load_sae, sae_block
from personalab.sae_statistics import (
    Text,
    dead_features,
    explained_variance,
    l0,
    max_activating,
    spliced_losses,
    squared_errors,
    token_activations,
)
from personalab.sae_statistics import read as read_text
from personalab.separation import Curve, joined, mean_by_question, permuted_differences, separation
from personalab.stats import bootstrap_interval, jackknife_interval, permutation_p
from personalab.steering import COHERENCE_PROMPT, answer_questions, load_graded_prompts, score_answers
from personalab.steering_plots import plot_conditions, plot_monitor, plot_steering
from personalab.steps import load_or_generate, steps_dir, steps_in
from personalab.tiers import current_tier, use_tier
from personalab.tiny import load_tiny_model
from personalab.trait_vectors import load_trait_vectors, save_trait_vectors
from personalab.vectors import load_vectors, save_vectors

__all__ = [
    "COHERENCE_PROMPT",
    "Ablate",
    "BatchError",
    "Cap",
    "Curve",
    "Playground",
    "Steer",
    "answer_jailbreaks",
    "answer_questions",
    "applied",
    "as_messages",
    "bootstrap_interval",
    "capping_conditions",
    "capping_cost",
    "caps",
    "compose_trait_artifact",
    "contrastive_answers",
    "current_tier",
    "d_model",
    "dead_features",
    "decoder_blocks",
    "explained_variance",
    "generate_response",
    "generate_responses_parallel",
    "jackknife_interval",
    "joined",
    "judge_model",
    "l0",
    "last_prompt_activations",
    "load_artifact",
    "load_capping_config",
    "load_graded_prompts",
    "load_items",
    "load_jailbreaks",
    "load_model",
    "load_or_generate",
    "load_prose",
    "load_questions",
    "load_role_groups",
    "load_roles",
    "load_sae",
    "load_sae_texts",
    "load_tiny_model",
    "load_trait_artifacts",
    "load_trait_vectors",
    "load_traits",
    "load_transcript",
    "load_transcripts",
    "load_vectors",
    "load_voices",
    "make_client",
    "max_activating",
    "mean_by_question",
    "mean_response_activations",
    "measure",
    "measure_axes",
    "multiple_choice",
    "n_blocks",
    "permutation_p",
    "permuted_differences",
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
    "prose_nll",
    "read_text",
    "record",
    "release",
    "render_prompt",
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
    "turn_spans",
    "typical_states",
    "use_tier",
]


def judge_model() -> str:
    """Name of the current tier's judge, as the chat endpoint knows it."""
    return current_tier().judge_model


def load_sae_texts(split: Literal["train", "held_out"]) -> list[Text]:
    """The texts that the embedded model's autoencoder was trained on, or those kept back from it."""
    from personalab.sae_training import load_texts  # brings in the finetuning engine, which takes seconds

    return load_texts(split)
