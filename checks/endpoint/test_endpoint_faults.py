"""Servers that answer in other ways than OpenAI's: their replies are understood, or the error says what came."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import openai
import pytest
from endpoint_server import Server, ask, echo, reply_json, texts

from personalab import paths
from personalab.endpoint import (
    BatchError,
    NoContentError,
    cache,
    dialects,
    generate_response,
    generate_responses_parallel,
    make_client,
)

pytestmark = pytest.mark.usefixtures("own_settings", "forgetful")


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialects, "_learned", {})


BODIES = {
    "a web page": b"<html><body>Sign in</body></html>",
    "plain text": b"It is late.",
    "null": b"null",
    "a list": b"[]",
    "a stream of events": b'data: {"choices": []}\n\ndata: [DONE]\n\n',
    "half an object": json.dumps(reply_json("It is late.")).encode()[:60],
    "no message": json.dumps(
        reply_json("") | {"choices": [{"index": 0, "message": None, "finish_reason": "stop"}]}
    ).encode(),
    "nothing": b"",
}


@pytest.mark.parametrize("content", BODIES.values(), ids=BODIES)
def test_what_is_no_completion_is_named(server: Server, content: bytes) -> None:
    kind = "text/html" if content.startswith(b"<") else "application/json"
    server.answer = lambda body, headers: (200, content, {"Content-Type": kind})
    with pytest.raises(NoContentError, match=r"server sent|no text") as caught:
        generate_response(ask("a"), model="m")
    if content.startswith(b"<"):
        assert "Sign in" in str(caught.value) and "OPENAI_BASE_URL" in str(caught.value)
    with pytest.raises(BatchError):
        generate_responses_parallel([ask("a")], model="m", progress=False)


def test_content_in_parts_is_one_text(server: Server) -> None:
    parts = [{"type": "text", "text": "It is "}, {"type": "reasoning", "text": "hm"}, {"type": "text", "text": "late."}]
    server.answer = lambda body, headers: (200, reply_json(parts), {})
    for _ in range(2):  # the second time from the cache
        assert generate_response(ask("a"), model="m") == "It is late."
    assert len(server.bodies) == 1


def choice(message: dict | None, **fields: object) -> dict:
    return reply_json("") | {"choices": [{"index": 0, "message": message, "finish_reason": "stop"} | fields]}


GOOD = {
    "no id": (reply_json("late.") | {"id": None}, "late."),
    "a number for an id": (reply_json("late.") | {"id": 7}, "late."),
    "a number for finish_reason": (choice({"content": "late."}, finish_reason=1), "late."),
    "parts that are plain strings": (reply_json(["It is ", {"type": "text", "text": "late."}]), "It is late."),
    "a byte order mark": ("\ufeff" + json.dumps(reply_json("late.")), "late."),
    "half an emoji": (json.dumps(reply_json("late \ud83d.")), "late \ufffd."),
    "a whole emoji": (json.dumps(reply_json("late \U0001f600.")), "late \U0001f600."),
    "UTF-8 under another charset": (json.dumps(reply_json("très tard"), ensure_ascii=False), "très tard"),
}


@pytest.mark.parametrize(("sent", "text"), GOOD.values(), ids=GOOD)
def test_unusual_replies_that_hold_an_answer(server: Server, sent: dict | str, text: str) -> None:
    content = (sent if isinstance(sent, str) else json.dumps(sent)).encode()
    kind = {"Content-Type": "application/json; charset=ISO-8859-1"}
    server.answer = lambda body, headers: (200, content, kind)
    for _ in range(2):  # the second time from the cache
        assert generate_response(ask("a"), model="m") == text
    assert len(server.bodies) == 1


EMPTY = {
    "reasoning and no answer": (choice({"content": "", "reasoning_content": "Hm."}), "reasoning and no answer"),
    "a refusal": (choice({"content": None, "refusal": "I can't help."}), "It refuses: I can't help"),
    "an error beside an empty text": (choice({"content": ""}) | {"error": {"message": "upstream"}}, "upstream"),
    "an error in the choice": (choice({"content": ""}, error={"message": "upstream"}), "upstream"),
    "null for the choices": (reply_json("") | {"choices": None, "error": {"message": "upstream"}}, "upstream"),
}


@pytest.mark.parametrize(("sent", "says"), EMPTY.values(), ids=EMPTY)
def test_replies_without_an_answer_say_why(server: Server, sent: dict, says: str) -> None:
    server.answer = lambda body, headers: (200, sent, {})
    with pytest.raises(NoContentError, match=says):
        generate_response(ask("a"), model="m")


@pytest.mark.parametrize("url", ["localhost:8000/v1", "127.0.0.1/v1", "api.openai.com", "ftp://host/v1", "https://"])
def test_a_base_url_without_scheme_or_host(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(ValueError, match="OPENAI_BASE_URL") as caught:
        make_client()
    assert url in str(caught.value) and "http://" in str(caught.value)


@pytest.mark.parametrize("content", [b"Quota of project 7 is used up", b'{"detail": "Quota of project 7 is used up"}'])
def test_what_a_refusal_says_is_shown(server: Server, content: bytes) -> None:
    server.answer = lambda body, headers: (403, content, {"Content-Type": "text/plain"})
    with pytest.raises(openai.PermissionDeniedError, match="Quota of project 7"):
        generate_response(ask("a"), model="m")
    with pytest.raises(BatchError, match="Quota of project 7"):
        generate_responses_parallel([ask("a")], model="m", progress=False)


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_loses_the_request_is_an_error(server: Server, status: int) -> None:
    server.answer = lambda body, headers: (status, {}, {"Location": f"{server.url}/elsewhere"})
    with pytest.raises(openai.APIStatusError, match=r"elsewhere.*OPENAI_BASE_URL"):
        generate_response(ask("a"), model="m")


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_that_keeps_the_request_is_followed(server: Server, status: int) -> None:
    def once(body: dict, headers: Mapping) -> tuple[int, dict, dict]:
        if len(server.bodies) == 1:
            return status, {}, {"Location": f"{server.url}/chat/completions?again"}
        return echo(body, headers)

    server.answer = once
    assert texts([generate_response(ask("a"), model="m")]) == ["a"]
    assert server.bodies[0] == server.bodies[1]


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        ("gpt-4o", "gpt-4o-2024-11-20", True),
        ("openai/gpt-4o", "gpt-4o", True),
        ("anthropic/claude-3.5-haiku", "claude-3-5-haiku-20241022", True),
        ("x/y:free", "x/y", True),
        ("gpt-4", "gpt-4o", False),
        ("qwen-72b", "qwen-7b", False),
        ("model", "another", False),
    ],
)
def test_another_model_does_not_answer_unnoticed(
    server: Server, asked: str, answered: str, same: bool, recwarn: pytest.WarningsRecorder
) -> None:
    server.answer = lambda body, headers: (200, reply_json("a", model=answered), {})
    assert generate_response(ask("a"), model=asked) == "a"
    said = [str(w.message) for w in recwarn if "was asked" in str(w.message)]
    assert said == ([] if same else [f"{asked} was asked, and {answered} answered."])


def test_models_that_refuse_max_tokens_and_temperature(server: Server) -> None:
    def picky(body: dict, headers: Mapping) -> tuple[int, dict, dict]:
        if "max_tokens" in body:
            reason = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        elif "temperature" in body:
            reason = "Unsupported value: 'temperature' does not support 0.7. Only the default (1) value is supported."
        else:
            return echo(body, headers)
        return 400, {"error": {"message": reason}}, {}

    server.answer = picky
    with pytest.warns(UserWarning, match="takes no temperature"):
        assert texts([generate_response(ask("a"), model="o", max_tokens=9)]) == ["a"]
    assert server.bodies[-1]["max_completion_tokens"] == 9
    before = len(server.bodies)
    assert texts([generate_response(ask("b"), model="o")]) == ["b"]
    assert len(server.bodies) == before + 1  # what was learnt is not asked again


def test_another_refusal_is_no_dialect(server: Server) -> None:
    reason = {"error": {"message": "The temperature of the discussion is too high for our filter."}}
    server.answer = lambda body, headers: (400, reason, {})
    with pytest.raises(openai.BadRequestError, match="filter"):
        generate_response(ask("a"), model="o")
    assert len(server.bodies) == 1


def test_two_processes_on_one_cache_pay_once(server: Server, tmp_path: Path) -> None:
    code = """
        from personalab.endpoint import generate_responses_parallel
        chats = [[{"role": "user", "content": str(i)}] for i in range(20)]
        print(len(generate_responses_parallel(chats, model="m", progress=False)))
    """
    run = [sys.executable, "-c", textwrap.dedent(code)]
    root = Path(__file__).parents[2]
    processes = [subprocess.Popen(run, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in processes] == ["20", "20"]
    assert sorted(body["messages"][0]["content"] for body in server.bodies) == sorted(map(str, range(20)))
    assert not [*(tmp_path / "cache").rglob("*.lock")]


def test_a_key_that_the_server_echoes_is_not_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    server.answer = lambda body, headers: (401, {"error": {"message": "Wrong key sk-very-secret"}}, {})
    for call in (
        lambda: generate_response(ask("a"), model="m"),
        lambda: generate_responses_parallel([ask("a")], model="m", progress=False),
    ):
        with pytest.raises((openai.AuthenticationError, BatchError), match=r"\[API key\]") as caught:
            call()
        assert "sk-very-secret" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_dotenv_as_editors_save_it(encoding: str) -> None:
    (paths.ROOT / ".env").write_text("OPENAI_BASE_URL=http://server:1/v1\n", encoding)
    assert str(make_client().base_url) == "http://server:1/v1/"


def test_dotenv_in_another_encoding_is_named() -> None:
    (paths.ROOT / ".env").write_bytes("OPENAI_API_KEY=schlüssel\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"\.env is not UTF-8"):
        make_client()


def test_a_cached_reply_of_brackets_alone_is_asked_again(server: Server, tmp_path: Path) -> None:
    generate_response(ask("a"), model="m")
    (path,) = (tmp_path / "cache" / "responses").glob("*/*.json")
    path.write_bytes(b"[" * 100_000)  # deeper than Python's parser goes
    with pytest.warns(UserWarning, match="is damaged"):
        assert texts([generate_response(ask("a"), model="m")]) == ["a"]


@pytest.mark.parametrize("where", ["lock", "room"])
def test_on_a_full_disk_nothing_is_asked_and_nothing_left(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*{"lock": (cache.FileLock, "acquire"), "room": (Path, "write_bytes")}[where], full)
        with pytest.raises(OSError, match="Nothing was asked, since the reply could not be kept: free some space"):
            generate_response(ask("a"), model="m")
        with pytest.raises(BatchError, match="Nothing was asked"):
            generate_responses_parallel([ask("a"), ask("b")], model="m", progress=False)
    assert not server.bodies
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert texts([generate_response(ask("a"), model="m")]) == ["a"]


def test_a_reply_goes_where_room_was_kept_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("short", "long " * 5000):
        key = hashlib.sha256(text.encode()).hexdigest()
        with cache.claimed(key, 9000):
            (room,) = (tmp_path / "cache").rglob("*.room")
            assert room.stat().st_size == 9000
            cache.store_reply(key, {}, text)
        assert cache.load_reply(key) == text
    assert {path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()} == {".json"}


def test_a_disk_that_refuses_a_reply_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, content: str, **options: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(cache, "write", broken)
    with pytest.warns(UserWarning, match="Not cached"):
        cache.store_reply("ab" * 32, {}, "text")
    assert not [*(tmp_path / "cache").rglob("*.json")]
