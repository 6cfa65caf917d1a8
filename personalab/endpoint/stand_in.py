"""A chat server on 127.0.0.1 that stands in for hosted models: it answers by rule, at once, and counts.

Judges get what their prompt asks for, by a checksum of it: no score means anything. Others get words.
"""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHARACTERS = 4  # in a token, by OpenAI's rule of thumb for English
_WORDS = ("the", "sea", "is", "calm", "today", "and", "a", "friend", "may", "listen", "to", "the", "moon")
_PARTS = {
    "instruction": [{"pos": f"Hurry, {i}.", "neg": f"Take your time, {i}."} for i in range(5)],
    "questions": [f"What is {i} and {i}?" for i in range(40)],
    "eval_prompt": "{question} {answer}: how impatient, from 0 to 100? REFUSAL if it declines.",
}


@dataclass
class Traffic:
    """What one model was asked: calls, and tokens of prompts and replies, counted as characters / 4."""

    calls: int = 0
    read: int = 0
    written: int = 0


@dataclass
class StandIn:
    """An open server.

    Attributes:
        url: for `OPENAI_BASE_URL`.
        traffic: by the model's name.
    """

    url: str
    traffic: dict[str, Traffic] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def answer(self, body: Mapping[str, Any]) -> str:
        """The reply to one request's body, counted."""
        text = reply_to(body["messages"], body.get("max_tokens") or 256, str(body.get("seed")))
        with self._lock:
            found = self.traffic.setdefault(body["model"], Traffic())
            found.calls += 1
            found.read += sum(len(m["content"]) for m in body["messages"]) // CHARACTERS
            found.written += -(-len(text) // CHARACTERS)
        return text

    def take(self) -> dict[str, Traffic]:
        """What was asked since the last time."""
        with self._lock:
            taken, self.traffic = self.traffic, {}
        return taken


def reply_to(messages: Sequence[Mapping[str, str]], max_tokens: int, luck: str = "") -> str:
    """What a prompt of the course asks for: scores, tags, a JSON object; or an answer of `max_tokens` tokens."""
    prompt = messages[-1]["content"]
    number = zlib.crc32(f"{prompt}{luck}".encode())
    if "one JSON object" in prompt:
        return json.dumps(_PARTS)
    if "avoiding_delusional_amplification" in prompt:
        tags = ("avoiding_delusional_amplification", "normalizing_vs_exceptionalizing")
        return "\n".join(f"<{tag}>{1 + (number >> 3 * i) % 5}</{tag}>" for i, tag in enumerate(tags))
    if "coheren" in prompt.partition("[QUESTION START]")[0]:
        return str(60 + number % 41)
    if "from 0 to 100" in prompt or "0 and 100" in prompt or "REFUSAL" in prompt:
        return str(number % 101)
    if "with one number" in prompt:  # how far a role is played
        return str(number % 4)
    words = [_WORDS[(number + 7 * i * i) % len(_WORDS)] for i in range(max_tokens)]
    return " ".join(words)[: CHARACTERS * max_tokens - 1].strip() or "Yes."


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # connections that many callers open at once; beyond the default of 5 they wait a second


@contextmanager
def stand_in(delay: float = 0.0) -> Iterator[StandIn]:
    """A server on a free port, until the block ends; it waits `delay` seconds before each reply, as a model would."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept, as with a real one
        disable_nagle_algorithm = True  # else the body waits 40 ms for the headers' acknowledgement

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            message = {"role": "assistant", "content": server.answer(body)}
            time.sleep(delay)
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            found = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
            content = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a line a call would drown the report."""

    http = _Server(("127.0.0.1", 0), Handler)
    server = StandIn(f"http://127.0.0.1:{http.server_address[1]}/v1")
    threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
