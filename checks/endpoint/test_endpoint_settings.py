"""Scripted replies, keys and settings."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from endpoint_server import Server, ask, echo, eventually, texts

from personalab import endpoint, paths, tiers
from personalab.endpoint import (
    client,
    generate_response,
    generate_responses_parallel,
    make_client,
    scripted_replies,
)

pytestmark = pytest.mark.usefixtures("own_settings")

KEY = "sk-very-secret-0123456789"


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
    assert [body["messages"] for body in script.bodies] == [messages for messages, _ in script.calls]
    assert [body.get("temperature") for body in script.bodies] == [0.7, 0.7, None, None]
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

    with (
        scripted_replies(reply) as script,
        pytest.raises(endpoint.BatchError, match="no such thing") as caught,
    ):
        generate_responses_parallel([ask("good"), ask("bad"), ask("good")])
    assert caught.value.results == ["fine", None, "fine"]
    assert isinstance(caught.value.errors[1], openai.InternalServerError)
    assert len(script.calls) == 3  # no second try, though this client would retry


def test_a_script_must_return_text() -> None:
    with (
        scripted_replies(lambda messages, model: 3),
        pytest.raises(openai.InternalServerError, match="string"),
    ):  # type: ignore[arg-type,return-value]
        generate_response(ask("a"))


@pytest.mark.parametrize("workers", [1, 4, 10])
def test_scripted_calls_run_as_concurrently_as_asked(workers: int) -> None:
    def reply(messages: list, model: str) -> str:
        eventually(lambda: script.peak_concurrency >= workers)  # however busy the machine
        return "x"

    with scripted_replies(reply) as script:
        generate_responses_parallel([ask(str(i)) for i in range(20)], max_workers=workers)
    assert script.peak_concurrency == workers


def test_a_script_has_no_part_in_calls_from_before(server: Server) -> None:
    def busy_once(body: dict, headers: Mapping) -> tuple[int, dict, dict]:
        first = len(server.bodies) == 1
        return (503, {}, {"retry-after-ms": "300"}) if first else echo(body, headers)

    server.answer = busy_once
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(generate_response, ask("early"))
        eventually(lambda: server.bodies)
        with scripted_replies(lambda messages, model: "scripted") as script:
            assert texts([early.result()]) == ["early"]
            assert generate_response(ask("late")) == "scripted"
    assert script.calls == [(ask("late"), script.calls[0][1])]
    assert server.asked("early") == 2


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
    monkeypatch.setattr(tiers, "_active", tiers.TIERS["a100"])
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
