"""Scripted replies: a function answers every chat completion of the process, inside the HTTP transport."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2

from personalab.endpoint import wire

Message = dict[str, str]
Reply = Callable[[list[Message], str], str]

SCRIPTED_ID = "chatcmpl-scripted"  # marks replies that must not reach the response cache

_lock = threading.Lock()
_open: list[ScriptedReplies] = []


class ScriptedReplies:
    """What was asked while a script was open.

    Attributes:
        calls: `(messages, model)` of every call, in order of arrival.
        bodies: the whole requests, in the same order.
        peak_concurrency: the largest number of calls that were being answered at the same time.
    """

    def __init__(self, reply: Reply) -> None:
        self.calls: list[tuple[list[Message], str]] = []
        self.bodies: list[dict[str, object]] = []
        self.peak_concurrency = 0
        self._running = 0
        self._reply = reply

    def respond(self, request: httpx2.Request) -> httpx2.Response:
        """The reply, made in the caller's thread; an exception in it becomes status 500, never retried."""
        if not request.url.path.endswith("/chat/completions"):
            return wire.failure(404, f"scripted_replies answers chat completions only, not {request.url.path}.")
        body = json.loads(request.read())
        messages, model = body["messages"], body["model"]
        with _lock:
            self.calls.append((messages, model))
            self.bodies.append(body)
            self._running += 1
            self.peak_concurrency = max(self.peak_concurrency, self._running)
        try:
            text = self._reply([dict(m) for m in messages], model)
            if not isinstance(text, str):
                raise TypeError(f"a scripted reply must be a string, not {type(text).__name__}")
            return wire.completion(model, text, reply_id=SCRIPTED_ID)
        except Exception as error:
            return wire.failure(500, f"{type(error).__name__}: {error}")
        finally:
            with _lock:
                self._running -= 1


@contextmanager
def scripted_replies(reply: Reply) -> Iterator[ScriptedReplies]:
    """While open, `reply(messages, model)` answers every call of every client that `make_client` ever made.

    Neither a model nor the network nor the response cache is touched. Calls run in their callers' threads, so
    `reply` must be thread-safe. An exception in `reply` makes that one call fail. The innermost script wins.
    """
    script = ScriptedReplies(reply)
    with _lock:
        _open.append(script)
    try:
        yield script
    finally:
        with _lock:
            _open.remove(script)


def active_script() -> ScriptedReplies | None:
    """The innermost open script, if any."""
    with _lock:
        return _open[-1] if _open else None


class ScriptableTransport(httpx2.BaseTransport):
    """Passes requests on to `inner`, unless a script is open."""

    def __init__(self, inner: httpx2.BaseTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The script's reply, else the inner transport's.

        A second try is not the script's, which is never asked twice: it belongs to a call from before (one of an
        interrupted cell, say), whose reply comes from where it was asked.
        """
        retry = request.headers.get("x-stainless-retry-count", "0") != "0"
        script = None if retry else active_script()
        return script.respond(request) if script else self._inner.handle_request(request)

    def close(self) -> None:
        """Close the inner transport."""
        self._inner.close()
