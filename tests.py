"""Checks for your answers: each notebook calls `tests.test_<exercise>(your_function)`; thin, over `graders`."""

from graders.section_1.characterize_axis import test_characterize_axis
from graders.section_1.compute_cosine_similarity_matrix import test_compute_cosine_similarity_matrix
from graders.section_1.compute_cosine_similarity_matrix_centered import test_compute_cosine_similarity_matrix_centered
from graders.section_1.extract_persona_vectors import test_extract_persona_vectors
from graders.section_1.extract_response_activations import test_extract_response_activations
from graders.section_1.extract_response_activations_batched import test_extract_response_activations_batched
from graders.section_1.format_messages_response_index import test_format_messages_response_index
from graders.section_1.generate_all_responses import test_generate_all_responses
from graders.section_1.judge_role_response import test_judge_role_response
from graders.section_1.parse_score import test_parse_score
from graders.section_1.pca_decompose_persona_vectors import test_pca_decompose_persona_vectors
from graders.section_2.activation_capper import test_activation_capper
from graders.section_2.compute_capping_thresholds import test_compute_capping_thresholds
from graders.section_2.compute_turn_projections import test_compute_turn_projections
from graders.section_2.conversation_analyzer_project import test_conversation_analyzer_project
from graders.section_2.extract_interventions import test_extract_interventions
from graders.section_2.generate_with_steering_basic import test_generate_with_steering_basic
from graders.section_2.matched_random_caps import test_matched_random_caps
from graders.section_2.rate_delusion_risk import test_rate_delusion_risk
from graders.section_2.record_hidden_shapes import test_record_hidden_shapes
from graders.section_2.return_layers import test_return_layers
from graders.section_2.run_capping_experiment import test_run_capping_experiment
from graders.section_2.visualize_transcript_drift import test_visualize_transcript_drift
from graders.section_3.construct_system_prompt import test_construct_system_prompt
from graders.section_3.extract_all_layer_activations import test_extract_all_layer_activations
from graders.section_3.extract_contrastive_vectors import test_extract_contrastive_vectors
from graders.section_3.filter_effective_pairs import test_filter_effective_pairs
from graders.section_3.generate_contrastive_responses import test_generate_contrastive_responses
from graders.section_3.generate_trait_artifacts import test_generate_trait_artifacts
from graders.section_3.half_split_cosine import test_half_split_cosine
from graders.section_3.lexical_baseline import test_lexical_baseline
from graders.section_3.prompt_leakage import test_prompt_leakage
from graders.section_3.score_coherence import test_score_coherence
from graders.section_3.score_trait_response import test_score_trait_response
from graders.section_3.select_layer import test_select_layer
from graders.section_3.top_sae_features import test_top_sae_features
from graders.section_4.activation_steerer import test_activation_steerer
from graders.section_4.compute_trait_projections import test_compute_trait_projections
from graders.section_4.generate_with_steerer import test_generate_with_steerer
from graders.section_4.last_prompt_projections import test_last_prompt_projections
from graders.section_4.run_steering_experiment import test_run_steering_experiment
from graders.section_4.run_trait_pipeline import test_run_trait_pipeline
from graders.section_4.trait_similarity_matrix import test_trait_similarity_matrix
from graders.section_4.within_between_correlation import test_within_between_correlation
from graders.section_4_bonus.finetuning_shift import test_finetuning_shift
from graders.section_4_bonus.projection_difference import test_projection_difference
from graders.section_4_bonus.projection_intervention import test_projection_intervention
from graders.section_4_bonus.steering_intervention import test_steering_intervention

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
    "test_finetuning_shift",
    "test_format_messages_response_index",
    "test_generate_all_responses",
    "test_generate_contrastive_responses",
    "test_generate_trait_artifacts",
    "test_generate_with_steerer",
    "test_generate_with_steering_basic",
    "test_half_split_cosine",
    "test_judge_role_response",
    "test_last_prompt_projections",
    "test_lexical_baseline",
    "test_matched_random_caps",
    "test_parse_score",
    "test_pca_decompose_persona_vectors",
    "test_projection_difference",
    "test_projection_intervention",
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
    "test_steering_intervention",
    "test_top_sae_features",
    "test_trait_similarity_matrix",
    "test_visualize_transcript_drift",
    "test_within_between_correlation",
]
