"""The endpoint: order, cache, retries, scripted replies, and batching inside the embedded transport.

The remote side is a server on 127.0.0.1; the embedded side runs a fake model, but for one slow check.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest

from personalab import endpoint, paths, tiers
from personalab.endpoint import (
    cache,
    client,
    generate_response,
    generate_responses_parallel,
    make_client,
    scripted_replies,
    transport,
)
from personalab.generation import Completion

ROOT = paths.ROOT
KEY = "sk-very-secret-0123456789"


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Echo."}, {"role": "user", "content": text}]


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """No test sees the machine's keys, `.env` or cache."""
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENROUTER_API_KEY", "PERSONALAB_RESPONSE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PERSONALAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(tiers, "_active", tiers.TIERS["cpu"])


# --- a server on this machine ---


def reply_json(text: str | None, finish: str | None = "stop") -> dict:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


@dataclass
class Server:
    """Records request bodies; `answer(body, headers)` returns status, JSON and headers."""

    url: str
    answer: Callable[[dict, Mapping], tuple[int, dict, dict]]
    bodies: list[dict] = field(default_factory=list)

    def asked(self, text: str) -> int:
        return sum(body["messages"][-1]["content"] == text for body in self.bodies)


def echo(body: dict, headers: Mapping) -> tuple[int, dict, dict]:
    return 200, reply_json(f"{body['messages'][-1]['content']}/{body['seed']}"), {}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            record.bodies.append(body)
            status, reply, headers = record.answer(body, self.headers)
            content = json.dumps(reply).encode()
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


def test_replies_come_in_input_order(server: Server) -> None:
    def slow_for_early_ones(body: dict, headers: Mapping) -> tuple[int, dict, dict]:
        time.sleep(0.02 * (5 - int(body["messages"][-1]["content"])))
        return echo(body, headers)

    server.answer = slow_for_early_ones
    assert texts(generate_responses_parallel([ask(str(i)) for i in range(6)])) == list("012345")


def test_max_workers_bounds_the_calls_in_flight(server: Server) -> None:
    running, peak, lock = 0, 0, threading.Lock()

    def answer(body: dict, headers: Mapping) -> tuple[int, dict, dict]:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return echo(body, headers)

    server.answer = answer
    generate_responses_parallel([ask(str(i)) for i in range(9)], max_workers=3)
    assert peak == 3


def test_batch_error_comes_last_and_a_second_run_repeats_only_failures(server: Server) -> None:
    def no_odd_ones(body: dict, headers: Mapping) -> tuple[int, dict, dict]:
        odd = int(body["messages"][-1]["content"]) % 2
        return (400, {"error": {"message": "odd"}}, {}) if odd else echo(body, headers)

    conversations = [ask(str(i)) for i in range(8)]
    server.answer = no_odd_ones
    with pytest.raises(
        endpoint.BatchError, match=r"4 of 8 calls failed(.|\n)*conversation 1(.|\n)*run again"
    ) as caught:
        generate_responses_parallel(conversations)
    assert [r is None for r in caught.value.results] == [False, True] * 4
    assert list(caught.value.errors) == [1, 3, 5, 7]
    assert all(isinstance(e, openai.BadRequestError) for e in caught.value.errors.values())
    assert len(server.bodies) == 8  # nothing was given up early, and a 400 is not retried

    server.answer = echo
    assert texts(generate_responses_parallel(conversations)) == list("01234567")
    assert [server.asked(str(i)) for i in range(8)] == [1, 2] * 4


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_transient_failures_are_retried_after_the_time_the_server_asks_for(server: Server, status: int) -> None:
    server.answer = fail_first(1, status, {"Retry-After": "0.1"})
    start = time.monotonic()
    assert texts([generate_response(ask("a"))]) == ["a"]
    assert time.monotonic() - start >= 0.1
    assert server.asked("a") == 2


def test_backoff_needs_no_help_from_the_server(server: Server) -> None:
    server.answer = fail_first(1)
    assert texts([generate_response(ask("a"))]) == ["a"]


def test_timeouts_are_retried(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT", openai.Timeout(0.2))
    client._kept.cache_clear()

    def hang_once(body: dict, headers: Mapping) -> tuple[int, dict, dict]:
        if len(server.bodies) == 1:
            time.sleep(0.6)
        return echo(body, headers)

    server.answer = hang_once
    assert texts([generate_response(ask("a"))]) == ["a"]
    assert len(server.bodies) == 2
    client._kept.cache_clear()


def test_an_unreachable_server_is_an_error_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_RETRIES", 0)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(endpoint.BatchError, match="refused"):
        generate_responses_parallel([ask("a")])


@pytest.mark.parametrize(
    ("reply", "finish"),
    [(None, "stop"), (None, None), ("", None), ("", "length"), ("half", "content_filter")],
)
def test_a_reply_without_text_is_an_error(server: Server, reply: str | None, finish: str | None) -> None:
    server.answer = lambda body, headers: (200, reply_json(reply, finish), {})
    with pytest.raises(endpoint.NoContentError):
        generate_response(ask("a"))
    assert not list(paths.cache_dir().rglob("*.json"))


def test_a_reply_without_choices_is_an_error_with_the_reason(server: Server) -> None:
    server.answer = lambda body, headers: (200, {"error": {"message": "upstream is down"}}, {})
    with pytest.raises(endpoint.NoContentError, match="upstream is down"):
        generate_response(ask("a"))


def test_a_model_may_choose_to_say_nothing(server: Server) -> None:
    server.answer = lambda body, headers: (200, reply_json("", "stop"), {})
    assert generate_response(ask("a")) == ""
    assert generate_response(ask("a")) == ""
    assert len(server.bodies) == 1


def test_wrong_input_is_refused_before_anything_is_sent(server: Server) -> None:
    assert generate_responses_parallel([]) == []
    for wrong in (
        ask("a"),
        "hello",
        [[]],
        [[{"role": "user"}]],
        [[{"role": "user", "content": None}]],
        [ask("a"), "b"],
    ):
        with pytest.raises(TypeError, match="Conversation"):
            generate_responses_parallel(wrong)
    with pytest.raises(TypeError, match="Conversation"):
        generate_response([ask("a")])
    assert server.bodies == []


# --- the disk cache ---


def test_nothing_is_asked_twice(server: Server) -> None:
    conversations = [ask("a"), ask("b"), ask("a")]
    first = generate_responses_parallel(conversations)
    assert generate_responses_parallel(conversations) == first
    assert generate_response(ask("a")) == first[0]
    assert len(server.bodies) == 3


def test_repeats_are_separate_samples_whose_seeds_do_not_depend_on_the_neighbours(server: Server) -> None:
    alone = generate_responses_parallel([ask("a")] * 3)
    assert len(set(alone)) == 3
    mixed = generate_responses_parallel([ask("b"), ask("a"), ask("a")])
    assert mixed[1:] == alone[:2]
    assert all(0 <= body["seed"] < 2**31 for body in server.bodies)


@pytest.mark.parametrize("change", [{"temperature": 0.1}, {"max_tokens": 5}, {"model": "other"}, {"seed": 1}])
def test_another_request_is_another_key(server: Server, change: dict) -> None:
    assert generate_response(ask("a")) != generate_response(ask("a"), **change)
    assert len(server.bodies) == 2


def test_another_endpoint_is_another_key(server: Server) -> None:
    generate_response(ask("a"))
    generate_response(ask("a"), client=make_client(server.url.replace("127.0.0.1", "localhost")))
    assert len(server.bodies) == 2


def test_the_cache_can_be_switched_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONALAB_RESPONSE_CACHE", "off")
    assert generate_response(ask("a")) == generate_response(ask("a"))
    assert len(server.bodies) == 2
    assert not (paths.cache_dir() / "responses").exists()


@pytest.mark.parametrize("damage", [b"", b'{"content": "cut o', b"[]", b'{"content": null}', b"\xff\xfe"])
def test_a_damaged_file_is_named_and_replaced(server: Server, damage: bytes) -> None:
    reply = generate_response(ask("a"))
    (path,) = paths.cache_dir().rglob("*.json")
    path.write_bytes(damage)
    with pytest.warns(UserWarning, match=re.escape(str(path))):
        assert generate_response(ask("a")) == reply
    assert generate_response(ask("a")) == reply
    assert len(server.bodies) == 2


def test_a_cache_that_cannot_be_written_costs_no_answer(server: Server) -> None:
    (paths.cache_dir() / "responses").write_text("a file where a folder should be")
    with pytest.warns(UserWarning):
        assert texts([generate_response(ask("a"))]) == ["a"]


def test_an_interrupted_batch_keeps_what_it_paid_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupt:
        def __init__(self, **_: object) -> None: ...
        def __enter__(self) -> Interrupt:
            return self

        def __exit__(self, *_: object) -> None: ...
        def update(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr("personalab.endpoint.parallel.tqdm", Interrupt)
    server.answer = lambda body, headers: (time.sleep(0.05), echo(body, headers))[1]
    with pytest.raises(KeyboardInterrupt):
        generate_responses_parallel([ask(str(i)) for i in range(50)], max_workers=2)
    time.sleep(0.2)
    assert 1 <= len(server.bodies) < 10
    assert len(list(paths.cache_dir().rglob("*.json"))) == len(server.bodies)


# --- scripted replies ---


def test_a_script_answers_every_client_and_leaves_no_trace(server: Server) -> None:
    early = make_client()
    with scripted_replies(lambda messages, model: f"{model}: {messages[-1]['content']}") as script:
        assert generate_responses_parallel([ask("a"), ask("b")], model="m") == ["m: a", "m: b"]
        for api in (early, make_client()):
            chat = api.chat.completions.create(model="n", messages=ask("c"))
            assert chat.choices[0].message.content == "n: c"
        with pytest.raises(openai.NotFoundError):
            early.embeddings.create(model="n", input="d")
    assert sorted(script.calls, key=str)[0] == (ask("a"), "m")
    assert len(script.calls) == 4
    assert server.bodies == []
    assert texts(generate_responses_parallel([ask("a")], model="m")) == ["a"]  # and the cache was not touched


def test_a_script_needs_neither_key_nor_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "_active", tiers.TIERS["a100"])
    with scripted_replies(lambda messages, model: model):
        assert generate_response(ask("a")) == tiers.TIERS["a100"].response_model


def test_a_script_takes_precedence_over_cached_replies(server: Server) -> None:
    generate_response(ask("a"))
    with scripted_replies(lambda messages, model: "scripted"):
        assert generate_response(ask("a")) == "scripted"


def test_a_failing_script_fails_its_own_calls_at_once(server: Server) -> None:
    def reply(messages: list[dict], model: str) -> str:
        if messages[-1]["content"] == "bad":
            raise KeyError("no such thing")
        return "fine"

    start = time.monotonic()
    with (
        scripted_replies(reply) as script,
        pytest.raises(endpoint.BatchError, match="no such thing") as caught,
    ):
        generate_responses_parallel([ask("good"), ask("bad"), ask("good")])
    assert caught.value.results == ["fine", None, "fine"]
    assert isinstance(caught.value.errors[1], openai.InternalServerError)
    assert len(script.calls) == 3
    assert time.monotonic() - start < 0.35  # no back-off, though this client would retry


def test_a_script_must_return_text() -> None:
    with (
        scripted_replies(lambda messages, model: 3),
        pytest.raises(openai.InternalServerError, match="string"),
    ):  # type: ignore[arg-type,return-value]
        generate_response(ask("a"))


@pytest.mark.parametrize("workers", [1, 4, 10])
def test_scripted_calls_run_as_concurrently_as_asked(workers: int) -> None:
    with scripted_replies(lambda messages, model: time.sleep(0.05) or "x") as script:
        generate_responses_parallel([ask(str(i)) for i in range(20)], max_workers=workers)
    assert script.peak_concurrency == workers


def test_scripts_nest_and_are_closed_after_errors(server: Server) -> None:
    with scripted_replies(lambda messages, model: "outer"):
        with pytest.raises(ZeroDivisionError), scripted_replies(lambda messages, model: "inner"):
            assert generate_response(ask("a")) == "inner"
            raise ZeroDivisionError
        assert generate_response(ask("a")) == "outer"
    assert texts([generate_response(ask("a"))]) == ["a"]


# --- keys and settings ---


def test_keys_stay_out_of_errors_and_cache(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def tell_on(body: dict, headers: Mapping) -> tuple[int, dict, dict]:
        assert headers["Authorization"] == f"Bearer {KEY}"
        return (401, {"error": {"message": f"wrong key {KEY}"}}, {}) if body["model"] == "bad" else echo(body, headers)

    server.answer = tell_on
    with pytest.raises(endpoint.BatchError) as caught:
        generate_responses_parallel([ask("a")], model="bad")
    assert "wrong key [API key]" in str(caught.value)
    assert KEY not in repr(caught.value)
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    generate_response(ask("a"))
    files = [path for path in paths.cache_dir().rglob("*") if path.is_file()]
    assert files and not any(KEY.encode() in path.read_bytes() for path in files)
    assert KEY not in repr(make_client())


def test_dotenv_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "_active", tiers.TIERS["a100"])
    (paths.ROOT / ".env").write_text(f"\ufeffOPENROUTER_API_KEY={KEY}$x\n", encoding="utf-8")
    api = make_client()
    assert (str(api.base_url), api.api_key) == (client.OPENROUTER_URL + "/", KEY + "$x")
    monkeypatch.setenv("OPENROUTER_API_KEY", "from-environment\n")
    assert make_client().api_key == "from-environment"
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.example.com/v1")
    with pytest.raises(endpoint.MissingKeyError, match="OPENAI_API_KEY") as caught:
        make_client()  # OpenRouter's key goes nowhere else
    assert KEY not in str(caught.value) and str(paths.ROOT / ".env") in str(caught.value)
    assert make_client(api_key="given").api_key == "given"


def test_only_the_openai_key_means_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "_active", tiers.TIERS["colab"])
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert str(make_client().base_url) == client.OPENAI_URL + "/"


def test_a_missing_key_names_variable_and_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "_active", tiers.TIERS["a100"])
    with pytest.raises(endpoint.MissingKeyError, match=r"OPENROUTER_API_KEY(.|\n)*\.env"):
        generate_response(ask("a"))
    assert make_client("http://localhost:8000/v1").api_key  # a server of one's own needs none


def test_cpu_stays_embedded_whatever_keys_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    api = make_client()
    assert client.is_embedded(api) and api.api_key != KEY
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:11434/v1")
    assert not client.is_embedded(make_client())


# --- the embedded transport ---


@dataclass
class FakeModel:
    """Echoes text and seed, and records the batches it was given."""

    delay: float = 0.0
    batches: list[list] = field(default_factory=list)

    def __call__(self, requests: list) -> list[Completion]:
        self.batches.append(list(requests))
        time.sleep(self.delay)
        for request in requests:
            if request.messages[-1]["content"] == "too long":
                raise ValueError("Request 0 exceeds the context")
            if request.messages[-1]["content"] == "broken":
                raise RuntimeError("out of memory")
        return [Completion(f"{r.messages[-1]['content']}/{r.seed}", 7, 3, "stop") for r in requests]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    fake = FakeModel()
    monkeypatch.setitem(transport.BACKENDS, tiers.EMBEDDED_MODEL, fake)
    return fake


def test_concurrent_calls_are_batched(model: FakeModel) -> None:
    replies = generate_responses_parallel([ask(str(i)) for i in range(150)])
    assert texts(replies) == [str(i) for i in range(150)]
    assert len(model.batches) <= 8
    assert max(map(len, model.batches)) <= transport.MAX_BATCH


def test_clients_of_a_learner_are_batched_too(model: FakeModel) -> None:
    def call(i: int) -> str:
        api = make_client()
        return api.chat.completions.create(model=tiers.EMBEDDED_MODEL, messages=ask(str(i))).choices[0].message.content

    model.delay = 0.1
    with ThreadPoolExecutor(32) as pool:
        assert texts(list(pool.map(call, range(32)))) == [str(i) for i in range(32)]
    assert len(model.batches) <= 6


def test_replies_do_not_depend_on_order_or_neighbours(model: FakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONALAB_RESPONSE_CACHE", "off")
    conversations = [ask(str(i % 20)) for i in range(40)]
    forward = generate_responses_parallel(conversations)
    backward = generate_responses_parallel(conversations[::-1])
    assert sorted(forward) == sorted(backward)
    assert forward[:20] == [generate_response(c) for c in conversations[:20]]
    assert len(set(forward)) == 40


def test_a_batch_is_sorted_by_length(model: FakeModel) -> None:
    model.delay = 0.2
    generate_responses_parallel([ask("x" * (1 + i % 100)) for i in range(200)])
    lengths = [[len(r.messages[-1]["content"]) for r in batch] for batch in model.batches]
    assert all(batch == sorted(batch) for batch in lengths)


def test_requests_and_usage_pass_through(model: FakeModel) -> None:
    completion = make_client().chat.completions.create(
        model=tiers.EMBEDDED_MODEL,
        messages=ask("a"),
        max_completion_tokens=9,
        temperature=0,
        seed=5,
        n=1,
        top_p=1,
    )
    ((request,),) = model.batches
    assert (request.max_tokens, request.temperature, request.seed) == (9, 0.0, 5)
    assert request.messages == ask("a")
    assert completion.choices[0].finish_reason == "stop"
    assert (completion.usage.prompt_tokens, completion.usage.total_tokens) == (7, 10)
    assert tiers.EMBEDDED_MODEL in [m.id for m in make_client().models.list()]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "pirate", "content": "a"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, "content"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": "9"}, "max_completion_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"seed": 0.5}, "seed"),
        ({"n": 2}, "n"),
        ({"stream": True}, "stream"),
        ({"top_p": 0.9}, "top_p"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"stop": ["x"]}, "stop"),
    ],
)
def test_a_bad_field_is_named(model: FakeModel, change: dict, named: str) -> None:
    with pytest.raises(openai.BadRequestError, match=f"'[a-z0-9.]*{named}'"):
        make_client().chat.completions.create(**{"model": tiers.EMBEDDED_MODEL, "messages": ask("a"), **change})
    assert model.batches == []


def test_an_unknown_model_is_answered_with_the_known_ones(model: FakeModel) -> None:
    with pytest.raises(openai.NotFoundError, match=f"'gpt-9'.*{tiers.EMBEDDED_MODEL}"):
        generate_response(ask("a"), model="gpt-9")


def test_one_impossible_request_does_not_fail_its_neighbours(model: FakeModel) -> None:
    with pytest.raises(endpoint.BatchError, match="exceeds the context") as caught:
        generate_responses_parallel([ask("a"), ask("too long"), ask("b")])
    assert list(caught.value.errors) == [1]
    assert isinstance(caught.value.errors[1], openai.BadRequestError)


def test_the_worker_survives_a_failure_and_does_not_repeat_it(model: FakeModel) -> None:
    with pytest.raises(openai.InternalServerError, match="out of memory"):
        generate_response(ask("broken"))
    assert len(model.batches) == 1
    assert texts([generate_response(ask("a"))]) == ["a"]


def test_waiting_requests_can_be_dropped(model: FakeModel) -> None:
    model.delay = 0.3
    with ThreadPoolExecutor(2) as pool:
        begun = pool.submit(generate_response, ask("a"))
        time.sleep(0.15)
        waiting = pool.submit(generate_response, ask("b"))
        time.sleep(0.05)
        transport.EMBEDDED.cancel_waiting()
        assert texts([begun.result()]) == ["a"]
        with pytest.raises(openai.InternalServerError, match="Interrupted"):
            waiting.result()
    assert len(model.batches) == 1


def test_a_change_of_the_judge_leaves_the_models_answers_valid() -> None:
    assert cache.engine(tiers.EMBEDDED_JUDGE) != cache.engine(tiers.EMBEDDED_MODEL)


def test_stale_answers_are_not_served_after_a_change_of_engine(
    model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_response(ask("a"))
    generate_response(ask("a"))
    monkeypatch.setattr(cache, "_source_hash", lambda judge: "edited")
    generate_response(ask("a"))
    monkeypatch.setenv("PERSONALAB_DTYPE", "float32" if tiers.current_tier().dtype != "float32" else "bfloat16")
    generate_response(ask("a"))
    assert len(model.batches) == 3


CHILD = """
import os, sys, types
generation = sys.modules["personalab.generation"] = types.ModuleType("generation")  # the real one loads torch
generation.Request = lambda messages, **settings: types.SimpleNamespace(messages=messages, **settings)
from personalab import tiers
from personalab.endpoint import generate_response, transport
done = types.SimpleNamespace(text="ok", finish="stop", n_prompt=1, n_tokens=1)
transport.BACKENDS[tiers.EMBEDDED_MODEL] = lambda requests: [done for _ in requests]
def ask(text):
    return generate_response([{"role": "user", "content": text}])
assert ask("parent") == "ok"
if hasattr(os, "fork"):
    child = os.fork()
    if child == 0:
        os._exit(0 if ask("child") == "ok" else 1)
    assert os.waitpid(child, 0)[1] == 0
print("done")
"""


def test_a_process_can_fork_and_exits_without_waiting_for_the_worker() -> None:
    run = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (run.returncode, run.stdout.strip()) == (0, "done"), run.stderr


@pytest.mark.slow
def test_the_embedded_model_answers_and_repeats_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real weights are in the real cache
    monkeypatch.setenv("PERSONALAB_RESPONSE_CACHE", "off")
    monkeypatch.setattr(tiers, "_active", tiers.TIERS["cpu"])
    question = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    assert "Paris" in generate_response(question, max_tokens=16, temperature=0)
    replies = generate_responses_parallel([question] * 3 + [ask("Tell me a story.")], max_tokens=16, temperature=1.5)
    assert len(set(replies)) >= 3
    assert len(generate_responses_parallel([ask("Tell me a story.")], max_tokens=16)) == 1
