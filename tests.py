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

__all__ = [
    "test_characterize_axis",
    "test_compute_cosine_similarity_matrix",
    "test_compute_cosine_similarity_matrix_centered",
    "test_extract_persona_vectors",
    "test_extract_response_activations",
    "test_extract_response_activations_batched",
    "test_format_messages_response_index",
    "test_generate_all_responses",
    "test_judge_role_response",
    "test_parse_score",
    "test_pca_decompose_persona_vectors",
]
