"""Checks for your answers: each notebook calls `tests.test_<exercise>(your_function)`; thin, over `graders`."""

from graders.section_1_geometry import (
    test_characterize_axis,
    test_compute_cosine_similarity_matrix,
    test_compute_cosine_similarity_matrix_centered,
    test_pca_decompose_persona_vectors,
)
from graders.section_1_text import (
    test_format_messages_response_index,
    test_generate_all_responses,
    test_judge_role_response,
    test_parse_score,
)
from graders.section_1_vectors import (
    test_extract_persona_vectors,
    test_extract_response_activations,
    test_extract_response_activations_batched,
)
from graders.section_2_blocks import test_record_hidden_shapes, test_return_layers
from graders.section_2_capper import test_activation_capper
from graders.section_2_interventions import test_extract_interventions
from graders.section_2_monitoring import test_compute_turn_projections, test_conversation_analyzer_project
from graders.section_2_replay import test_run_capping_experiment
from graders.section_2_steering import test_generate_with_steering_basic
from graders.section_2_thresholds import test_compute_capping_thresholds
from graders.section_2_transcripts import test_rate_delusion_risk, test_visualize_transcript_drift

__all__ = [
    "test_activation_capper",
    "test_characterize_axis",
    "test_compute_capping_thresholds",
    "test_compute_cosine_similarity_matrix",
    "test_compute_cosine_similarity_matrix_centered",
    "test_compute_turn_projections",
    "test_conversation_analyzer_project",
    "test_extract_interventions",
    "test_extract_persona_vectors",
    "test_extract_response_activations",
    "test_extract_response_activations_batched",
    "test_format_messages_response_index",
    "test_generate_all_responses",
    "test_generate_with_steering_basic",
    "test_judge_role_response",
    "test_parse_score",
    "test_pca_decompose_persona_vectors",
    "test_rate_delusion_risk",
    "test_record_hidden_shapes",
    "test_return_layers",
    "test_run_capping_experiment",
    "test_visualize_transcript_drift",
]
