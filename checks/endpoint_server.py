"""A chat server on 127.0.0.1 for the endpoint's checks, and settings that hide this machine's own."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from personalab import paths, tiers


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Echo."}, {"role": "user", "content": text}]


@pytest.fixture
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """No test sees the machine's keys, `.env` or cache."""
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENROUTER_API_KEY", "PERSONALAB_RESPONSE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PERSONALAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(tiers, "_active", tiers.TIERS["cpu"])


def reply_json(text: object, finish: str | None = "stop", model: str = "m") -> dict:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": model, "choices": [choice]}


@dataclass
class Server:
    """Records request bodies; `answer(body, headers)` returns status, JSON (or bytes as they are) and headers."""

    url: str
    answer: Callable[[dict, Mapping], tuple[int, Any, dict]]
    bodies: list[dict] = field(default_factory=list)

    def asked(self, text: str) -> int:
        return sum(body["messages"][-1]["content"] == text for body in self.bodies)


def echo(body: dict, headers: Mapping) -> tuple[int, dict, dict]:
    return 200, reply_json(f"{body['messages'][-1]['content']}/{body.get('seed')}", model=body["model"]), {}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            record.bodies.append(body)
            status, reply, headers = record.answer(body, self.headers)
            content = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": len(content),
                **headers,
            }.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None: ...

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None: ...  # a client that timed out

    http = Quiet(("127.0.0.1", 0), Handler)
    record = Server(f"http://127.0.0.1:{http.server_address[1]}/v1", echo)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("OPENAI_BASE_URL", record.url)
    yield record
    http.shutdown()
    http.server_close()


def fail_first(n: int, status: int = 503, headers: dict | None = None) -> Callable:
    """Answers each text only after `n` failures."""
    seen: dict[str, int] = {}

    def answer(body: dict, _: Mapping) -> tuple[int, dict, dict]:
        text = body["messages"][-1]["content"]
        seen[text] = seen.get(text, 0) + 1
        if seen[text] <= n:
            return status, {"error": {"message": "busy"}}, headers or {}
        return echo(body, {})

    return answer


def texts(replies: list[str]) -> list[str]:
    return [reply.split("/")[0] for reply in replies]


def eventually(condition: Callable[[], object]) -> None:
    """Wait until it holds; however busy the machine is, only what never happens fails."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "this never came about"
        time.sleep(0.01)
