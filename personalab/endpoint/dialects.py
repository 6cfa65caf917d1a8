"""What servers disagree about: a request that one refuses is sent again the way it asks for, and that is remembered."""

from __future__ import annotations

import re
import warnings
from typing import Any

import openai

from personalab.endpoint.replies import Reply, parse_reply

_OPTIONAL = ("temperature", "seed", "max_tokens")
_REFUSES = re.compile(
    r"not support|unsupported|only the default|not allowed|not permitted|unknown|unrecognized|extra", re.I
)
_learned: dict[
    tuple[str, str], dict[str, str | None]
] = {}  # (server, model) -> field -> its other name, None: leave out


def send(client: openai.OpenAI, body: dict[str, Any]) -> Reply:
    """One chat completion, in the server's dialect.

    `max_tokens` becomes `max_completion_tokens` for a model that asks for it; a field that a model refuses
    (`temperature`, `seed`) is left out, with a warning.

    Raises:
        openai.OpenAIError: if the call fails for good, its message without the key.
        NoContentError: if what came is no chat completion.
    """
    learned = _learned.setdefault((str(client.base_url), body["model"]), {})
    for _ in range(1 + len(_OPTIONAL)):
        try:
            raw = client.chat.completions.with_raw_response.create(**_translated(body, learned))
            return parse_reply(raw.content, raw.headers.get("content-type", ""), body["model"])
        except openai.BadRequestError as error:
            if not (change := _asked_change(_translated(body, learned), str(error))):
                raise _without_key(error, client.api_key) from error.__cause__
            learned.update(change)
        except openai.APIError as error:
            raise _without_key(error, client.api_key) from error.__cause__
    raise AssertionError("each round changes another field")


def _translated(body: dict[str, Any], learned: dict[str, str | None]) -> dict[str, Any]:
    return {new: value for name, value in body.items() if (new := learned.get(name, name)) is not None}


def _asked_change(body: dict[str, Any], reason: str) -> dict[str, str | None] | None:
    """What a refusal asks to change about `body`, None where it is about something else."""
    if "max_tokens" in body and "max_completion_tokens" in reason:
        return {"max_tokens": "max_completion_tokens"}
    for name in _OPTIONAL:
        if name in body and re.search(rf"\b{name}\b", reason) and _REFUSES.search(reason):
            warnings.warn(
                f"{body['model']} takes no {name}: it is left out. The server says: {reason[:200]}", stacklevel=3
            )
            return {name: None}
    return None


def _without_key(error: openai.APIError, key: str) -> openai.APIError:
    """The error with what the server says and where a redirect leads in its message, and without the key, if echoed."""
    message = str(error)
    if isinstance(error, openai.APIStatusError):
        headers, text = error.response.headers, error.response.text
        if error.response.is_redirect:
            message += f" The server moved to {headers.get('location')}: set OPENAI_BASE_URL to its new address."
        elif " - " not in message:  # openai found no message in the body
            message += f" {' '.join(text.split())[:300]}"
    message = message.replace(key, "[API key]")
    error.message, error.args = message, (message,)
    return error
