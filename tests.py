"""Checks for your answers: each notebook calls `tests.test_<exercise>(your_function)`; thin, over `graders`."""

from graders.section_1.geometry import (
    test_characterize_axis,
    test_compute_cosine_similarity_matrix,
    test_compute_cosine_similarity_matrix_centered,
    test_pca_decompose_persona_vectors,
)
from graders.section_1.text import (
    test_format_messages_response_index,
    test_generate_all_responses,
    test_judge_role_response,
    test_parse_score,
)
from graders.section_1.vectors import (
    test_extract_persona_vectors,
    test_extract_response_activations,
    test_extract_response_activations_batched,
)
from graders.section_2.activation_capper import test_activation_capper
from graders.section_2.generate_with_steering_basic import test_generate_with_steering_basic
from graders.section_2.interventions import test_extract_interventions
from graders.section_2.monitoring import test_compute_turn_projections, test_conversation_analyzer_project
from graders.section_2.record_hidden_shapes import test_record_hidden_shapes
from graders.section_2.return_layers import test_return_layers
from graders.section_2.run_capping_experiment import test_run_capping_experiment
from graders.section_2.thresholds import test_compute_capping_thresholds
from graders.section_2.transcripts import test_rate_delusion_risk, test_visualize_transcript_drift
from graders.section_3.activations import test_extract_all_layer_activations
from graders.section_3.artifacts import test_generate_trait_artifacts
from graders.section_3.layers import test_select_layer
from graders.section_3.leakage import test_prompt_leakage
from graders.section_3.pairs import test_filter_effective_pairs
from graders.section_3.prompts import test_construct_system_prompt
from graders.section_3.responses import test_generate_contrastive_responses
from graders.section_3.sae import test_top_sae_features
from graders.section_3.scores import test_score_coherence, test_score_trait_response
from graders.section_3.vectors import test_extract_contrastive_vectors
from graders.section_4.activation_steerer import test_activation_steerer
from graders.section_4.generate_with_steerer import test_generate_with_steerer
from graders.section_4.geometry import test_trait_similarity_matrix
from graders.section_4.projections import test_compute_trait_projections, test_last_prompt_projections
from graders.section_4.run_steering_experiment import test_run_steering_experiment
from graders.section_4.run_trait_pipeline import test_run_trait_pipeline

__all__ = [
    "test_activation_capper",
    "test_activation_steerer",
    "test_characterize_axis",
    "test_compute_capping_thresholds",
    "test_compute_cosine_similarity_matrix",
    "test_compute_cosine_similarity_matrix_centered",
    "test_compute_trait_projections",
    "test_compute_turn_projections",
    "test_construct_system_prompt",
    "test_conversation_analyzer_project",
    "test_extract_all_layer_activations",
    "test_extract_contrastive_vectors",
    "test_extract_interventions",
    "test_extract_persona_vectors",
    "test_extract_response_activations",
    "test_extract_response_activations_batched",
    "test_filter_effective_pairs",
    "test_format_messages_response_index",
    "test_generate_all_responses",
    "test_generate_contrastive_responses",
    "test_generate_trait_artifacts",
    "test_generate_with_steerer",
    "test_generate_with_steering_basic",
    "test_judge_role_response",
    "test_last_prompt_projections",
    "test_parse_score",
    "test_pca_decompose_persona_vectors",
    "test_prompt_leakage",
    "test_rate_delusion_risk",
    "test_record_hidden_shapes",
    "test_return_layers",
    "test_run_capping_experiment",
    "test_run_steering_experiment",
    "test_run_trait_pipeline",
    "test_score_coherence",
    "test_score_trait_response",
    "test_select_layer",
    "test_top_sae_features",
    "test_trait_similarity_matrix",
    "test_visualize_transcript_drift",
]
