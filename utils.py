"""Everything the notebooks import that is provided; thin, over `personalab`."""

from personalab.activations import mean_response_activations
from personalab.artifacts import load_artifact, save_artifact
from personalab.chat import as_messages
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
from personalab.judging import score_responses
from personalab.models import d_model, decoder_blocks, load_model, n_blocks, release
from personalab.plots import plot_null, plot_persona_space, plot_similarity_line, plot_similarity_matrix
from personalab.results import record
from personalab.stats import bootstrap_interval, jackknife_interval, permutation_p
from personalab.tiers import current_tier, use_tier
from personalab.tiny import load_tiny_model
from personalab.vectors import load_vectors, save_vectors

__all__ = [
    "BatchError",
    "as_messages",
    "bootstrap_interval",
    "current_tier",
    "d_model",
    "decoder_blocks",
    "generate_response",
    "generate_responses_parallel",
    "jackknife_interval",
    "judge_model",
    "load_artifact",
    "load_model",
    "load_questions",
    "load_role_groups",
    "load_roles",
    "load_tiny_model",
    "load_traits",
    "load_transcript",
    "load_transcripts",
    "load_vectors",
    "make_client",
    "mean_response_activations",
    "n_blocks",
    "permutation_p",
    "plot_null",
    "plot_persona_space",
    "plot_similarity_line",
    "plot_similarity_matrix",
    "record",
    "release",
    "save_artifact",
    "save_vectors",
    "score_responses",
    "scripted_replies",
    "use_tier",
]


def judge_model() -> str:
    """Name of the current tier's judge, as the chat endpoint knows it."""
    return current_tier().judge_model
