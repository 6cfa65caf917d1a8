"""What a server sent back: the text of a chat completion, whatever shape it has, or an error that says what came."""

from __future__ import annotations

import codecs
import math
import re
import warnings
from typing import Any

from pydantic import BaseModel, Field, ValidationError

_HALF_PAIR = re.compile(  # of a UTF-16 surrogate pair, as JSON escapes it
    rb"(?<!\\)\\u[dD][89abAB][\da-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][\da-fA-F]{2})(?<!\\)\\u[dD][c-fC-F][\da-fA-F]{2}"
)


class NoContentError(RuntimeError):
    """A reply without text: filtered, failed upstream, no completion, or `max_tokens` spent on hidden reasoning."""


class _Part(BaseModel):
    """A piece of content; some servers send a list of them."""

    type: str = "text"
    text: str | None = None


class _Message(BaseModel):
    content: str | list[_Part | str] | None = None
    refusal: str | None = None
    reasoning: Any = None
    reasoning_content: Any = None


class _Choice(BaseModel):
    message: _Message | None = None
    finish_reason: Any = None
    logprobs: Any = None
    error: Any = None


class Reply(BaseModel):
    """A chat completion, as far as we read it."""

    id: Any = ""
    model: Any = None
    choices: list[_Choice] | None = None
    error: Any = None


def parse_reply(content: bytes, kind: str, asked: str) -> Reply:
    """The completion in the body of a response with status 200.

    Args:
        content: JSON, which is UTF-8 whatever the header says; half of a surrogate pair (an emoji that `max_tokens`
            cut in two) becomes U+FFFD.
        kind: its content type.
        asked: the model that was asked.

    Raises:
        NoContentError: if it is none (a web page, a stream of events, half of an object); shows how it begins.
    """
    try:
        reply = Reply.model_validate_json(_HALF_PAIR.sub(rb"\\ufffd", content.removeprefix(codecs.BOM_UTF8)))
    except ValidationError:
        streams = content.lstrip().startswith(b"data:")
        what = "a stream of events" if streams else f"no chat completion ({kind or 'text'})"
        shown = content[:120].decode(errors="replace")
        raise NoContentError(
            f"{asked}: the server sent {what}: {shown!r}. Is OPENAI_BASE_URL the address of an API? It usually "
            "ends in /v1."
        ) from None
    if reply.model and not _same_model(asked, str(reply.model)):
        warnings.warn(f"{asked} was asked, and {reply.model} answered.", stacklevel=2)
    return reply


def text_of(reply: Reply, asked: str) -> str:
    """The reply's text: empty only where the model chose to say nothing (`finish_reason` "stop").

    Raises:
        NoContentError: if there is no text to use.
    """
    name = reply.model or asked
    if not reply.choices or (
        reply.error and not _text(reply.choices[0].message)
    ):  # OpenRouter reports some upstream failures this way, with status 200
        reason = "no reason given" if reply.error is None else reply.error
        raise NoContentError(f"{name} sent no reply: {reason}.")
    choice = reply.choices[0]
    finish, content = str(choice.finish_reason), _text(choice.message)
    if content is None or finish in ("content_filter", "error") or (not content and finish != "stop"):
        refusal = f" It refuses: {choice.message.refusal}" if choice.message and choice.message.refusal else ""
        raise NoContentError(f"{name} sent no text to use (finish_reason {finish}): {content!r:.80}.{refusal[:200]}")
    if not content and choice.error:
        raise NoContentError(f"{name} sent no text, but an error: {choice.error!s:.200}.")
    if not content and choice.message and (choice.message.reasoning or choice.message.reasoning_content):
        raise NoContentError(f"{name} sent reasoning and no answer: raise max_tokens, or turn its reasoning off.")
    return content


class _Candidate(BaseModel):
    token: str
    logprob: float


class _Position(BaseModel):
    top_logprobs: list[_Candidate] = Field(min_length=1)


class _Logprobs(BaseModel):
    content: list[_Position] = Field(min_length=1)


def first_token_probabilities(reply: Reply, asked: str) -> dict[str, float]:
    """Probability of each of the likeliest first tokens, as far as the server tells.

    Raises:
        NoContentError: if it tells none.
    """
    try:
        first = _Logprobs.model_validate(reply.choices[0].logprobs if reply.choices else None).content[0]
    except ValidationError:
        raise NoContentError(
            f"{reply.model or asked} sent no top_logprobs, so there is no expectation over its number tokens. Ask a "
            "server that gives them (OpenAI, vLLM), or read the reply: unset PERSONALAB_JUDGE_EXPECTATION."
        ) from None
    found: dict[str, float] = {}
    for candidate in first.top_logprobs:
        found[candidate.token] = found.get(candidate.token, 0.0) + math.exp(min(candidate.logprob, 0.0))
    return found


def _text(message: _Message | None) -> str | None:
    """The message's text, of all its parts."""
    content = message.content if message else None
    if not isinstance(content, list):
        return content
    parts = [_Part(text=part) if isinstance(part, str) else part for part in content]
    return "".join(part.text or "" for part in parts if part.type in ("text", "output_text"))


def _same_model(asked: str, answered: str) -> bool:
    """Whether the names differ by provider, tag or date at most: "openai/gpt-4o" and "gpt-4o-2024-11-20"."""

    def plain(name: str) -> str:
        return re.sub(r"[^a-z0-9]", "", name.lower().rsplit("/", 1)[-1].split(":")[0])

    return re.fullmatch(rf"{plain(asked)}(?:\d{{3,8}}|latest|preview)*", plain(answered)) is not None
