"""OpenAI's JSON, as far as this package speaks it: requests read, completions and errors written."""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Literal

import httpx2  # what the openai client speaks since its version 3
from pydantic import BaseModel, Field, ValidationError

One = Annotated[float, Field(ge=1, le=1)]
Count = Annotated[int, Field(gt=0)]


class Turn(BaseModel, strict=True):
    """One message."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatBody(BaseModel, strict=True, extra="forbid"):
    """A request. A field that we don't support is refused, unless its value changes nothing."""

    model: str
    messages: list[Turn] = Field(min_length=1)
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: float | None = Field(None, ge=0, allow_inf_nan=False)
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    user: str | None = None
    n: Literal[1] | None = None
    stream: Literal[False] | None = None
    top_p: One | None = None


class Refusal(Exception):
    """Why a request gets no completion: HTTP status, reason, and the field at fault."""

    def __init__(self, status: int, reason: str, param: str | None = None) -> None:
        super().__init__(reason)
        self.status, self.param = status, param


def parse(content: bytes) -> ChatBody:
    """The checked request.

    Raises:
        Refusal: 400 naming the first field that is missing, wrong or not supported.
    """
    try:
        return ChatBody.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = ".".join(map(str, first["loc"])) or "body"
        reason = "not supported by the embedded endpoint" if first["type"] == "extra_forbidden" else first["msg"]
        raise Refusal(400, f"Bad request: '{param}': {reason}.", param) from None


def completion(
    model: str, text: str, finish: str = "stop", n_prompt: int = 0, n_tokens: int = 0, reply_id: str = ""
) -> httpx2.Response:
    """A chat completion."""
    body = {
        "id": reply_id or f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish},
        ],
        "usage": {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_tokens,
            "total_tokens": n_prompt + n_tokens,
        },
    }
    return httpx2.Response(200, json=body)


def failure(status: int, reason: str, param: str | None = None) -> httpx2.Response:
    """An error. Its header tells the openai client that trying again is useless."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": reason, "type": kind, "param": param, "code": None}
    return httpx2.Response(status, json={"error": error}, headers={"x-should-retry": "false"})
