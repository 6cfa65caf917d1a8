"""Chat completions through the ordinary `openai` client: in process on `cpu`, from any server elsewhere."""

from personalab.endpoint.client import MissingKeyError, make_client
from personalab.endpoint.parallel import (
    BatchError,
    generate_first_token_probabilities,
    generate_response,
    generate_responses_parallel,
)
from personalab.endpoint.replies import NoContentError
from personalab.endpoint.scripted import ScriptedReplies, scripted_replies

__all__ = [
    "BatchError",
    "MissingKeyError",
    "NoContentError",
    "ScriptedReplies",
    "generate_first_token_probabilities",
    "generate_response",
    "generate_responses_parallel",
    "make_client",
    "scripted_replies",
]
