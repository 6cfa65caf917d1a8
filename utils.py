"""Everything the notebooks import that is provided; thin, over `personalab`."""

from personalab.activations import mean_response_activations
from personalab.artifacts import load_artifact, save_artifact
from personalab.capping import (
    answer_jailbreaks,
    caps,
    load_capping_config,
    load_jailbreaks,
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
from personalab.results import record
from personalab.stats import bootstrap_interval, jackknife_interval, permutation_p
from personalab.tiers import current_tier, use_tier
from personalab.tiny import load_tiny_model
from personalab.vectors import load_vectors, save_vectors

__all__ = [
    "Ablate",
    "BatchError",
    "Cap",
    "Steer",
    "answer_jailbreaks",
    "applied",
    "as_messages",
    "bootstrap_interval",
    "capping_conditions",
    "capping_cost",
    "caps",
    "current_tier",
    "d_model",
    "decoder_blocks",
    "generate_response",
    "generate_responses_parallel",
    "jackknife_interval",
    "judge_model",
    "load_artifact",
    "load_capping_config",
    "load_items",
    "load_jailbreaks",
    "load_model",
    "load_prose",
    "load_questions",
    "load_role_groups",
    "load_roles",
    "load_tiny_model",
    "load_traits",
    "load_transcript",
    "load_transcripts",
    "load_vectors",
    "load_voices",
    "make_client",
    "mean_response_activations",
    "multiple_choice",
    "n_blocks",
    "permutation_p",
    "plot_drift",
    "plot_null",
    "plot_persona_space",
    "plot_rates",
    "plot_similarity_line",
    "plot_similarity_matrix",
    "plot_sweep",
    "plot_tradeoff",
    "prose_nll",
    "record",
    "release",
    "render_prompt",
    "save_artifact",
    "save_vectors",
    "score_responses",
    "score_roleplay",
    "scripted_replies",
    "show_side_by_side",
    "threshold_to_cap",
    "turn_spans",
    "typical_states",
    "use_tier",
]


def judge_model() -> str:
    """Name of the current tier's judge, as the chat endpoint knows it."""
    return current_tier().judge_model
