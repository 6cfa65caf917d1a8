"""The `openai` client, whatever stands behind it: the embedded model, OpenRouter, vLLM, Ollama, …"""

from __future__ import annotations

import functools
import io
import os
from urllib.parse import urlsplit

import httpx2
import openai
from dotenv import dotenv_values

from personalab import files, paths, tiers
from personalab.endpoint.scripted import ScriptableTransport, active_script
from personalab.endpoint.transport import EMBEDDED, EMBEDDED_URL

OPENROUTER_URL = "https://openrouter.ai/api/v1"
OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "no-key-needed"
MAX_RETRIES = 6  # our choice: about 24 s of exponential back-off in all, unless Retry-After asks for other waits
TIMEOUT = openai.Timeout(300, connect=10)  # seconds; our choice: enough for a long answer from a busy server


class MissingKeyError(RuntimeError):
    """A server needs an API key and none is set."""


class _Network(httpx2.BaseTransport):
    """The openai package's own HTTP client as a transport: a bare `HTTPTransport` ignores proxy variables.

    Redirects that keep a POST a POST (307, 308) are followed; the others would turn it into a GET, and are errors.
    """

    def __init__(self) -> None:
        self._client = openai.DefaultHttpxClient()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = self._client.send(request, stream=True, follow_redirects=False)
        if response.status_code in (307, 308) and response.next_request:
            response.close()
            response = self._client.send(response.next_request, stream=True, follow_redirects=False)
        return response

    def close(self) -> None:
        self._client.close()


def make_client(base_url: str | None = None, api_key: str | None = None) -> openai.OpenAI:
    """An `openai.OpenAI` client for the current tier.

    Without `base_url` and without `OPENAI_BASE_URL`, the `cpu` tier answers in process and ignores keys; so do `local`
    and `colab`, whose models answer in process whatever `OPENAI_BASE_URL` says, which is then the judge's. `a100` goes
    to OpenRouter (`OPENROUTER_API_KEY`), or to OpenAI if only `OPENAI_API_KEY` is set. Variables come from the
    environment, then from `.env` in the repository's root. A plain `http://` URL is taken for a server of your own
    (vLLM, Ollama) and needs no key. Rate limits, server errors and timeouts are retried.

    Raises:
        MissingKeyError: if the server needs a key and none is set, naming the variable and the file.
        ValueError: for a base URL without scheme or host.
    """
    return _build(*_resolve(base_url, api_key))


def shared_client(model: str | None = None) -> openai.OpenAI:
    """The client for the current settings, kept between calls, since connections are worth keeping.

    Args:
        model: what will be asked: a judge of your own stands behind a server also where answers come from this process.
    """
    return _kept(*_resolve(None, None, model), os.getpid())


def is_embedded(client: openai.OpenAI) -> bool:
    """Whether the client answers in process."""
    return str(client.base_url).rstrip("/") == EMBEDDED_URL


@functools.lru_cache(maxsize=8)
def _kept(base_url: str, api_key: str, pid: int) -> openai.OpenAI:  # sockets must not cross a fork, hence pid
    return _build(base_url, api_key)


def _build(base_url: str, api_key: str) -> openai.OpenAI:
    embedded = base_url == EMBEDDED_URL
    transport = ScriptableTransport(EMBEDDED if embedded else _Network())
    return openai.OpenAI(
        base_url=base_url,
        api_key=api_key,
        timeout=None if embedded else TIMEOUT,
        max_retries=0 if embedded else MAX_RETRIES,
        http_client=httpx2.Client(transport=transport),
    )


def _resolve(base_url: str | None, api_key: str | None, model: str | None = None) -> tuple[str, str]:
    """Base URL and key from the arguments, the environment, `.env` and the tier, in this order."""
    file = paths.workplace() / ".env"
    in_file = dotenv_values(stream=io.StringIO(files.dotenv_text(paths.workplace())), interpolate=False)
    settings = {**in_file, **os.environ}
    openrouter_key, openai_key, default_url = (
        (settings.get(name) or "").strip() for name in ("OPENROUTER_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL")
    )
    tier = tiers.current_tier()
    here = tier.answers_here and (tier.judged_here or model != tier.judge_model)
    if here and tier.name != "cpu":
        default_url = ""
    base_url = base_url or default_url
    if base_url == EMBEDDED_URL or (not base_url and here):
        return EMBEDDED_URL, NO_KEY
    base_url = base_url or (OPENAI_URL if openai_key and not openrouter_key else OPENROUTER_URL)
    url = urlsplit(base_url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(
            f"OPENAI_BASE_URL is {base_url!r}, and no address of a server: it begins with https:// or http:// and "
            "usually ends in /v1, as in http://localhost:8000/v1."
        )
    at_openrouter = url.hostname == urlsplit(OPENROUTER_URL).hostname
    key = api_key or (at_openrouter and openrouter_key) or openai_key
    if key and not key.isascii():
        raise ValueError(
            f"The API key for {url.hostname} holds a character that no key has, such as an ellipsis or a curly quote: "
            f"copy it again, into the environment or {file}."
        )
    if not key and url.scheme != "http" and active_script() is None:
        variable = "OPENROUTER_API_KEY" if at_openrouter else "OPENAI_API_KEY"
        raise MissingKeyError(
            f"No API key for {url.hostname}. Set {variable} in the environment, or write {variable}=… into "
            f"{file}. For a server of your own set OPENAI_BASE_URL. The cpu tier needs neither."
        )
    return base_url, key or NO_KEY
