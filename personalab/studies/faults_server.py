"""Servers on this machine, for `faults`: chat completions that fail as servers do, and a package index. Both count."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from personalab.endpoint.wire import completion

MODEL = "stand-in"
PROCESS = "x-process"  # header: who asks

Sent = tuple[int, dict[str, str], bytes]  # status, headers, body


def answer_to(text: str) -> str:
    """What the server answers when it does not fail."""
    return f"The answer to {text} is {hashlib.sha256(text.encode()).hexdigest()[:16]}."


def _whole(text: str) -> bytes:
    return completion(MODEL, answer_to(text)).content


def _changed(text: str, **choice: object) -> bytes:
    body = json.loads(_whole(text))
    body["choices"][0] |= choice
    return json.dumps(body).encode()


def _fault(kind: str, text: str) -> Sent | None:
    """What goes over the wire instead of the answer; None: the connection is closed."""
    if kind.isdigit():
        return int(kind), {"retry-after": "0"} if kind == "429" else {}, b'{"error": {"message": "busy"}}'
    if kind == "body cut short":
        content = _whole(text)
        return 200, {"content-length": str(len(content))}, content[: len(content) // 2]
    bodies = {
        "web page, 200": b"<html><body>Back in a minute</body></html>",
        "plain text, 200": b"upstream timed out",
        "half an object, 200": _whole(text)[:90],
        "event stream, 200": b'data: {"choices": []}\n\ndata: [DONE]\n\n',
        "null, 200": b"null",
        "message: null": _changed(text, message=None),
        "content filtered": _changed(
            text, message={"role": "assistant", "content": None}, finish_reason="content_filter"
        ),
        "no choices": json.dumps({"id": "x", "choices": [], "error": {"message": "upstream"}}).encode(),
    }
    return (200, {}, bodies[kind]) if kind in bodies else None


KINDS = (
    *("429", "500", "502", "503", "body cut short", "closed connection", "web page, 200", "plain text, 200"),
    *("half an object, 200", "event stream, 200", "null, 200", "message: null", "content filtered", "no choices"),
)


class ChatServer:
    """Fails at a share of all tries; which, and how, is drawn from the text asked and the number of the try.

    Attributes:
        paid: per process and text, how many whole answers went out: each is an answer to pay for.
        faults: per kind, how many tries failed so.
        tries: per text, how often it was asked.
    """

    def __init__(self, share: float, seed: int) -> None:
        self.share, self.seed, self.url = share, seed, ""
        self.paid, self.faults, self.tries = Counter[tuple[str, str]](), Counter[str](), Counter[str]()
        self._lock = threading.Lock()

    def paid_by(self, process: int | None) -> list[str]:
        """The texts whose answers went out to a process, each as often as it did."""
        return [text for who, text in list(self.paid.elements()) if who == str(process)]

    def reply(self, process: str, text: str) -> Sent | None:
        """What to send to a process that asks `text`."""
        with self._lock:
            self.tries[text] += 1
            luck = random.Random(f"{self.seed}/{text}/{self.tries[text]}")
            if luck.random() >= self.share:
                self.paid[process, text] += 1
                return 200, {}, _whole(text)
            kind = luck.choice(KINDS)
            self.faults[kind] += 1
            return _fault(kind, text)

    @contextmanager
    def running(self) -> Iterator[ChatServer]:
        """While open, it listens at `url`."""

        class Handler(_Quiet):
            def do_POST(handler) -> None:
                body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
                handler.send(self.reply(handler.headers.get(PROCESS, ""), body["messages"][-1]["content"]))

        with _listening(Handler) as address:
            self.url = f"{address}/v1"
            yield self


@contextmanager
def package_index(wheel: Path) -> Iterator[tuple[str, Counter[str]]]:
    """While open, a package index with one wheel: its address, to which the caller adds the id of its process, and how
    often that fetched the wheel."""
    project, content, fetched = wheel.name.split("-")[0].replace("_", "-"), wheel.read_bytes(), Counter[str]()

    class Handler(_Quiet):
        def do_GET(handler) -> None:
            if handler.path.endswith(".whl"):
                fetched[handler.path.split("/")[1]] += 1
                handler.send((200, {"content-type": "application/zip"}, content))
            else:
                digest = hashlib.sha256(content).hexdigest()
                page = f'<a href="/{handler.path.split("/")[1]}/{wheel.name}#sha256={digest}">{wheel.name}</a>'
                found = project in handler.path
                handler.send((200 if found else 404, {"content-type": "text/html"}, page.encode()))

    with _listening(Handler) as address:
        yield address, fetched


class _Quiet(BaseHTTPRequestHandler):
    def send(self, sent: Sent | None) -> None:
        if sent is None:
            self.close_connection = True
            return
        status, headers, body = sent
        self.send_response(status)
        for name, value in ({"content-type": "application/json", "content-length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None: ...  # a client that was killed


@contextmanager
def _listening(handler: type[_Quiet]) -> Iterator[str]:
    server = _Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
