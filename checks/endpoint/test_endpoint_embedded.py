"""Batching inside the embedded transport: a fake model, but for one slow check."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import openai
import pytest
from endpoint_server import ask, eventually, texts

from personalab import endpoint, paths, tiers
from personalab.endpoint import (
    engine,
    generate_response,
    generate_responses_parallel,
    make_client,
    transport,
)
from personalab.lm.generation import Completion
from personalab.setup.machine import dtype_name

pytestmark = pytest.mark.usefixtures("own_settings")

ROOT = paths.ROOT


@dataclass
class FakeModel:
    """Echoes text and seed, records the batches it was given, and answers once `go` is set."""

    delay: float = 0.0
    batches: list[list] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.go.set()

    def __call__(self, requests: list) -> list[Completion]:
        self.batches.append(list(requests))
        time.sleep(self.delay)
        self.go.wait()
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
    assert len(model.batches) < 50  # far fewer than calls, also on a busy machine
    assert max(map(len, model.batches)) <= transport.MAX_BATCH


def test_clients_of_a_learner_are_batched_too(model: FakeModel) -> None:
    def call(i: int) -> str:
        api = make_client()
        return api.chat.completions.create(model=tiers.EMBEDDED_MODEL, messages=ask(str(i))).choices[0].message.content

    model.delay = 0.1
    with ThreadPoolExecutor(32) as pool:
        assert texts(list(pool.map(call, range(32)))) == [str(i) for i in range(32)]
    assert len(model.batches) <= 16


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
    model.go.clear()
    with ThreadPoolExecutor(2) as pool:
        begun = pool.submit(generate_response, ask("a"))
        eventually(lambda: model.batches)
        waiting = pool.submit(generate_response, ask("b"))
        eventually(lambda: len(transport.EMBEDDED._waiting) == 2)
        transport.EMBEDDED.cancel_waiting()
        model.go.set()
        assert texts([begun.result()]) == ["a"]
        with pytest.raises(openai.InternalServerError, match="Interrupted"):
            waiting.result()
    assert len(model.batches) == 1


def test_a_change_of_the_judge_leaves_the_models_answers_valid() -> None:
    assert engine.engine(tiers.EMBEDDED_JUDGE) != engine.engine(tiers.EMBEDDED_MODEL)


def test_stale_answers_are_not_served_after_a_change_of_engine(
    model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_response(ask("a"))
    generate_response(ask("a"))
    monkeypatch.setattr(engine, "_source_hash", lambda entry: "edited")
    generate_response(ask("a"))
    here = dtype_name(tiers.current_tier().dtype)
    monkeypatch.setenv("PERSONALAB_DTYPE", "float32" if here != "float32" else "bfloat16")
    generate_response(ask("a"))
    assert len(model.batches) == 3


CHILD = """
import os, sys, types
generation = sys.modules["personalab.lm.generation"] = types.ModuleType("generation")  # the real one loads torch
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
