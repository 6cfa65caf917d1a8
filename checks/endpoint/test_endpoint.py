"""The endpoint against a server on 127.0.0.1: order, retries, errors, cache."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping

import openai
import pytest
from endpoint_server import Server, ask, echo, eventually, fail_first, reply_json, texts

from personalab import endpoint, paths
from personalab.endpoint import (
    client,
    generate_response,
    generate_responses_parallel,
    make_client,
)

pytestmark = pytest.mark.usefixtures("own_settings")


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
    monkeypatch.setattr(client, "TIMEOUT", openai.Timeout(0.5))
    client._kept.cache_clear()

    def hang_once(body: dict, headers: Mapping) -> tuple[int, dict, dict]:
        if len(server.bodies) == 1:
            time.sleep(1.5)
        return echo(body, headers)

    server.answer = hang_once
    assert texts([generate_response(ask("a"))]) == ["a"]
    assert len(server.bodies) >= 2  # more where the machine is so busy that an answer takes half a second
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


@pytest.mark.usefixtures("unchecked")
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
    replies = {generate_response(ask("a")), generate_response(ask("a"), **change)}
    assert len(server.bodies) == 2
    assert len(replies) == (1 if "model" in change else 2)  # two models share the luck of a request
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


def calls_in_flight() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")}


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
    workers = calls_in_flight()
    with pytest.raises(KeyboardInterrupt):
        generate_responses_parallel([ask(str(i)) for i in range(50)], max_workers=2)
    eventually(lambda: calls_in_flight() <= workers)
    assert len(list(paths.cache_dir().rglob("*.json"))) == len(server.bodies)  # what was begun is kept
    assert 1 <= len(server.bodies) < 10
