"""Hosted models that cannot be asked: the variable, the server, and what to do."""

from __future__ import annotations

import pytest
from endpoint_server import Server

from personalab import tiers
from personalab.endpoint.hosted_models import check_hosted, hosted_models
from personalab.endpoint.stand_in import stand_in

pytestmark = pytest.mark.usefixtures("own_settings")
A100 = tiers.TIERS["a100"]


def refusing(status: int, message: str, only: str = "") -> object:
    def answer(body: dict, headers: object) -> tuple[int, dict, dict]:
        if only and body["model"] != only:
            return 200, {"choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}}]}, {}
        return status, {"error": {"message": message}}, {}

    return answer


def test_each_is_asked_once(server: Server) -> None:
    lines = check_hosted(A100)
    assert [body["model"] for body in server.bodies] == [A100.response_model, A100.judge_model]
    assert "PERSONALAB_RESPONSE_MODEL" in lines[0] and A100.judge_model in lines[1]
    assert all(body["max_tokens"] <= 16 for body in server.bodies)


def test_the_tier_decides_who_is_hosted() -> None:
    assert hosted_models(tiers.TIERS["cpu"]) == hosted_models(tiers.TIERS["colab"]) == {}
    judged_elsewhere = tiers.use_tier("colab", judge_model="judge-x")
    assert hosted_models(judged_elsewhere) == {"PERSONALAB_JUDGE_MODEL": "judge-x"}
    assert list(hosted_models(A100)) == ["PERSONALAB_RESPONSE_MODEL", "PERSONALAB_JUDGE_MODEL"]


@pytest.mark.parametrize(
    ("status", "message", "advice"),
    [
        (404, "no such model", "Set PERSONALAB_JUDGE_MODEL to a model that this server has"),
        (400, "judge-x is not a valid model ID", "Set PERSONALAB_JUDGE_MODEL to a model that this server has"),
        (401, "no auth credentials found", "OPENAI_API_KEY"),
        (403, "not for you", "OPENAI_API_KEY"),
    ],
)
def test_what_is_wrong_is_named(server: Server, status: int, message: str, advice: str) -> None:
    tier = tiers.use_tier("a100", judge_model="judge-x")
    server.answer = refusing(status, message, only="judge-x")
    with pytest.raises(ValueError, match=r"PERSONALAB_JUDGE_MODEL='judge-x' at http://127\.0") as refused:
        check_hosted(tier)
    assert message in str(refused.value) and advice in str(refused.value)
    assert sum(body["model"] == "judge-x" for body in server.bodies) == 1  # a wrong name stays wrong


def test_no_server_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"PERSONALAB_RESPONSE_MODEL='google/gemma-2-27b-it' cannot be .*No API key"):
        check_hosted(tiers.use_tier("a100"))
    with stand_in() as gone:
        monkeypatch.setenv("OPENAI_BASE_URL", gone.url)
        assert len(check_hosted(A100)) == 2 and gone.traffic[A100.judge_model].calls == 1
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")  # where nobody listens
    with pytest.raises(ValueError, match="Set OPENAI_BASE_URL to a server that runs"):
        check_hosted(A100)


@pytest.mark.parametrize("body", [{"choices": []}, {"error": {"message": "upstream is down"}, "choices": []}])
def test_a_success_without_an_answer_is_none(server: Server, body: dict) -> None:
    server.answer = lambda sent, headers: (
        200,
        {"id": "x", "object": "chat.completion", "model": sent["model"], **body},
        {},
    )
    with pytest.raises(ValueError, match=r"PERSONALAB_RESPONSE_MODEL=.* sends no chat completion"):
        check_hosted(A100)


def test_a_password_in_the_address_is_not_printed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url.replace("://", "://me:hush@"))
    assert not any("hush" in line for line in check_hosted(A100))
    server.answer = refusing(404, "no such model")
    with pytest.raises(ValueError) as refused:
        check_hosted(A100)
    assert "hush" not in str(refused.value)


def test_a_key_with_a_curly_quote_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-abc\u2026")
    with pytest.raises(ValueError, match="an ellipsis or a curly quote"):
        check_hosted(A100)
