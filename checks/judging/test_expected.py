"""The score as an expectation over number tokens: by hand, and through a stand-in server with log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from endpoint_server import Server, ask, reply_json

from personalab import tiers
from personalab.endpoint import BatchError, generate_first_token_probabilities
from personalab.judging.expected import expected_score
from personalab.measure.answers import EXPECTATION, score_answers

BY_HAND = [
    ({"80": 0.5, "90": 0.5}, 85.0),
    ({"80": 0.4, " 80": 0.1, "\u012090": 0.5}, 85.0),
    ({"100": 0.2, "0": 0.1, "I": 0.7}, 200 / 3),
    ({"20": 0.2, "I": 0.8}, None),  # 0.2 of the probability is on numbers
    ({"REFUSAL": 0.9, "20": 0.1}, None),
    ({"20": 0.5, "101": 0.3, "2.5": 0.1, "eighty": 0.1}, 20.0),
    ({"0": 0.99}, 0.0),
    ({}, None),
]


@pytest.mark.parametrize(("probabilities", "score"), BY_HAND)
def test_the_mean_over_number_tokens(probabilities: dict[str, float], score: float | None) -> None:
    assert expected_score(probabilities) == (None if score is None else pytest.approx(score))


def test_a_judge_that_spells_numbers_digit_by_digit_is_refused() -> None:
    with pytest.raises(ValueError, match="digit by digit"):
        expected_score({"8": 0.7, "9": 0.2, "7": 0.1})
    assert expected_score({"2": 0.5, "3": 0.5}, 0, 3) == 2.5


def gives(top: Mapping[str, float]) -> Callable[[dict, Mapping], tuple[int, dict, dict]]:
    """A server's answer: these tokens with these probabilities come first."""
    tokens = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in top.items()]

    def answer(body: dict, headers: Mapping) -> tuple[int, dict, dict]:
        reply = reply_json(max(top, key=lambda token: top[token]), finish="length", model=body["model"])
        reply["choices"][0]["logprobs"] = {"content": [tokens[0] | {"top_logprobs": tokens}]}
        return 200, reply, {}

    return answer


@pytest.fixture
def judged(own_settings: None, server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A tier whose judge is the stand-in server."""
    tier = tiers.TIERS["a100"]
    monkeypatch.setattr(tiers, "_active", tier)
    server.answer = gives({"80": 0.6, "20": 0.3, "I": 0.1})
    return server


def test_the_server_is_asked_as_in_the_paper_and_once(judged: Server) -> None:
    for _ in range(2):  # the second time from the cache
        (found,) = generate_first_token_probabilities([ask("a")], progress=False)
        assert found == pytest.approx({"80": 0.6, "20": 0.3, "I": 0.1})
    (body,) = judged.bodies
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"], body["temperature"]) == (True, 20, 1, 0.0)


def test_scores_are_expectations_only_where_asked_for(judged: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("evil", ["One?", "Two?"], ["I would.", " "])
    found = score_answers(*given, expectation=True)
    np.testing.assert_allclose(found.trait, [60.0, 0.0])
    monkeypatch.setenv(EXPECTATION, "on")
    np.testing.assert_allclose(score_answers(*given).coherence, [60.0, 0.0])
    asked = len(judged.bodies)
    judged.answer = lambda body, headers: (200, reply_json("80", model=body["model"]), {})
    np.testing.assert_array_equal(score_answers(*given, expectation=False).trait, [80.0, 0.0])
    assert not any("logprobs" in body for body in judged.bodies[asked:])


def test_few_numbers_are_no_score(judged: Server, capsys: pytest.CaptureFixture[str]) -> None:
    judged.answer = gives({"REFUSAL": 0.9, "20": 0.1})
    assert np.isnan(score_answers("evil", ["One?"], ["I won't."], coherence=False, expectation=True).trait).all()
    assert "1 of 1 replies" in capsys.readouterr().out


@pytest.mark.parametrize("logprobs", [None, {"content": None}, {"content": []}, {"tokens": ["80"]}])
def test_a_server_without_logprobs_is_named(judged: Server, logprobs: object) -> None:
    reply = reply_json("80")
    reply["choices"][0]["logprobs"] = logprobs
    judged.answer = lambda body, headers: (200, reply, {})
    with pytest.raises(BatchError, match=r"no top_logprobs.*PERSONALAB_JUDGE_EXPECTATION"):
        score_answers("evil", ["One?"], ["I would."], expectation=True)


@pytest.mark.usefixtures("own_settings")
def test_the_embedded_judge_has_none() -> None:
    with pytest.raises(ValueError, match="embedded judge"):
        score_answers("evil", ["One?"], ["I would."], expectation=True)
    with pytest.raises(ValueError, match="embedded models"):
        generate_first_token_probabilities([ask("a")])
