"""What a server sent back: the text of a chat completion, whatever shape it has, or an error that says what came."""

from __future__ import annotations

import re
import warnings
from typing import Any

from pydantic import BaseModel, Field, ValidationError


class NoContentError(RuntimeError):
    """A reply without text: filtered, failed upstream, no completion, or `max_tokens` spent on hidden reasoning."""


class _Part(BaseModel):
    """A piece of content; some servers send a list of them."""

    type: str = "text"
    text: str | None = None


class _Message(BaseModel):
    content: str | list[_Part] | None = None


class _Choice(BaseModel):
    message: _Message | None = None
    finish_reason: str | None = None


class Reply(BaseModel):
    """A chat completion, as far as we read it."""

    id: str = ""
    model: str | None = None
    choices: list[_Choice] = Field(default_factory=list)
    error: Any = None


def parse_reply(content: str, kind: str, asked: str) -> Reply:
    """The completion in the body of a response with status 200.

    Args:
        kind: its content type.
        asked: the model that was asked.

    Raises:
        NoContentError: if it is none (a web page, a stream of events, half of an object); shows how it begins.
    """
    try:
        reply = Reply.model_validate_json(content)
    except ValidationError:
        streams = content.lstrip().startswith("data:")
        what = "a stream of events" if streams else f"no chat completion ({kind or 'text'})"
        raise NoContentError(
            f"{asked}: the server sent {what}: {content[:120]!r}. Is OPENAI_BASE_URL the address of an API? It usually "
            "ends in /v1."
        ) from None
    if reply.model and not _same_model(asked, reply.model):
        warnings.warn(f"{asked} was asked, and {reply.model} answered.", stacklevel=2)
    return reply


def text_of(reply: Reply, asked: str) -> str:
    """The reply's text: empty only where the model chose to say nothing (`finish_reason` "stop").

    Raises:
        NoContentError: if there is no text to use.
    """
    name = reply.model or asked
    if not reply.choices:  # OpenRouter reports some upstream failures this way, with status 200
        reason = "no reason given" if reply.error is None else reply.error
        raise NoContentError(f"{name} sent no reply: {reason}.")
    message, finish = reply.choices[0].message, str(reply.choices[0].finish_reason)
    content = message.content if message else None
    if isinstance(content, list):
        content = "".join(part.text or "" for part in content if part.type in ("text", "output_text"))
    if content is None or finish in ("content_filter", "error") or (not content and finish != "stop"):
        raise NoContentError(f"{name} sent no text to use (finish_reason {finish}): {content!r:.80}.")
    return content


def _same_model(asked: str, answered: str) -> bool:
    """Whether the names differ by provider, tag or date at most: "openai/gpt-4o" and "gpt-4o-2024-11-20"."""

    def plain(name: str) -> str:
        return re.sub(r"[^a-z0-9]", "", name.lower().rsplit("/", 1)[-1].split(":")[0])

    return re.fullmatch(rf"{plain(asked)}(?:\d{{3,8}}|latest|preview)*", plain(answered)) is not None
