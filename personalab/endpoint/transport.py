"""An HTTP transport that answers chat completions in this process: no server, no port, no network.

Every client of the process shares one worker thread, which drains a queue into batches. Concurrent requests
are therefore generated together, and no model is ever run by two threads at once.
"""

from __future__ import annotations

import functools
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx2

from personalab import tiers
from personalab.endpoint import wire

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from personalab.lm.generation import Completion, Request

Backend = Callable[[Sequence["Request"]], Sequence["Completion"]]

EMBEDDED_URL = "http://embedded.invalid/v1"  # a top-level domain that never resolves (RFC 2606)
MAX_BATCH = 96  # our choice: large enough for full speed, small enough for progress bars and interrupts
QUIET_SECONDS = 0.02  # our choice: a batch starts once nothing has arrived for so long
DEFAULT_MAX_TOKENS = 256  # our choice, where a request sets no limit


def answer_with_model(requests: Sequence[Request]) -> Sequence[Completion]:
    """The embedded language model's completions."""
    from personalab.lm.generation import generate

    return generate(*_response_model(), requests)


def answer_with_own_model(requests: Sequence[Request]) -> Sequence[Completion]:
    """The completions of the tier's response model, which is one of the hub's or the user's own."""
    from personalab.lm.generation import generate

    return generate(*_loaded(tiers.current_tier().response_model), requests)


def _response_model() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tier = tiers.current_tier()
    if not tier.embedded:
        raise RuntimeError(f"made for the cpu tier, but the tier is now {tier.name!r}: call make_client() again")
    return _loaded(tier.response_model)


@functools.cache
def _loaded(model_id: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from personalab.lm.models import load_named

    return load_named(model_id)


def answer_as_judge(requests: Sequence[Request]) -> Sequence[Completion]:
    """The embedded judge's replies."""
    from personalab.judging.backend import answer_judge_prompts

    return answer_judge_prompts(requests)


BACKENDS: dict[str, Backend] = {
    tiers.EMBEDDED_MODEL: answer_with_model,
    tiers.EMBEDDED_JUDGE: answer_as_judge,
}


@dataclass(frozen=True, eq=False)
class Job:
    """A request on its way to the worker, and the promise of its completion."""

    model: str
    request: Request
    answer: Future[Completion] = field(default_factory=Future)

    @property
    def kind(self) -> tuple[str, int, list[str]]:
        """Sort key: neighbours run for as long, and begin alike, which generation turns into speed."""
        return self.model, self.request.max_tokens, [m["content"] for m in self.request.messages]


class EmbeddedTransport(httpx2.BaseTransport):
    """Answers `POST /v1/chat/completions` and `GET /v1/models` from `backends` (by model name)."""

    def __init__(self, backends: Mapping[str, Backend] = BACKENDS) -> None:
        self._backends = backends
        self.reset()

    def reset(self) -> None:
        """Start afresh, as a forked child must: it inherits the queue, but not the thread that drains it."""
        self._lock = threading.Lock()
        self._arrived: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._waiting: set[Future[Completion]] = set()
        self._worker: threading.Thread | None = None

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Block the calling thread until the worker has an answer; errors come back as HTTP statuses."""
        route = f"{request.method} {request.url.path}"
        if route == "GET /v1/models":
            models = [{"id": name, "object": "model", "owned_by": "embedded"} for name in self._known()]
            return httpx2.Response(200, json={"object": "list", "data": models})
        if route != "POST /v1/chat/completions":
            return wire.failure(404, f"The embedded endpoint has chat completions only, no {route}.")
        try:
            job = self._job(wire.parse(request.read()))
            done = self._wait_for(job)
        except wire.Refusal as refusal:
            return wire.failure(refusal.status, str(refusal), refusal.param)
        except CancelledError:
            return wire.failure(503, "Interrupted before the embedded model came to this request.")
        return wire.completion(job.model, done.text, done.finish, done.n_prompt, done.n_tokens)

    def cancel_waiting(self) -> None:
        """Drop every request that the worker has not begun."""
        with self._lock:
            for answer in self._waiting:
                answer.cancel()

    def _known(self) -> dict[str, Backend]:
        """What answers, by name: also the tier's response model where that answers here and is not embedded."""
        tier = tiers.current_tier()
        own: dict[str, Backend] = (
            {tier.response_model: answer_with_own_model} if tier.answers_here and not tier.embedded else {}
        )
        return own | dict(self._backends)

    def _job(self, body: wire.ChatBody) -> Job:
        if body.model not in self._known():
            known = ", ".join(self._known())
            raise wire.Refusal(404, f"No model {body.model!r} in this process, only: {known}.", "model")
        from personalab.lm.generation import Request  # not before it is needed: it loads torch

        request = Request(
            [turn.model_dump() for turn in body.messages],
            max_tokens=body.max_tokens or body.max_completion_tokens or DEFAULT_MAX_TOKENS,
            temperature=1.0 if body.temperature is None else body.temperature,  # OpenAI's default
            seed=tiers.GLOBAL_SEED if body.seed is None else body.seed,
        )
        return Job(body.model, request)

    def _wait_for(self, job: Job) -> Completion:
        with self._lock:
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="embedded-endpoint", daemon=True)
                self._worker.start()
            self._waiting.add(job.answer)
        self._arrived.put(job)
        try:
            return job.answer.result()
        finally:
            job.answer.cancel()  # no more than a formality, unless we were interrupted
            with self._lock:
                self._waiting.discard(job.answer)

    def _work(self) -> None:
        from personalab.lm import processes

        with processes.alone():  # what arrives here, and when, is this process's own affair
            self._work_off()

    def _work_off(self) -> None:
        pending: list[Job] = []
        while True:
            if not pending:
                pending.append(self._arrived.get())
            with suppress(queue.Empty):
                while True:
                    patience = QUIET_SECONDS if len(pending) < MAX_BATCH else 0
                    pending.append(self._arrived.get(timeout=patience))
            pending.sort(key=lambda job: job.kind)
            batch = [job for job in pending if job.model == pending[0].model][:MAX_BATCH]
            pending = pending[len(batch) :]
            if running := [job for job in batch if job.answer.set_running_or_notify_cancel()]:
                self._answer(running)

    def _answer(self, jobs: list[Job]) -> None:
        """Settle every job's future, come what may: its caller waits without a timeout."""
        try:
            completions = self._known()[jobs[0].model]([job.request for job in jobs])
            answered = list(zip(jobs, completions, strict=True))
        except ValueError as error:
            if len(jobs) > 1:  # one of them cannot be answered: ask one at a time, so that only it fails
                for job in jobs:
                    self._answer([job])
            else:
                jobs[0].answer.set_exception(wire.Refusal(400, str(error)))
        except BaseException as error:
            for job in jobs:
                reason = f"Embedded model: {type(error).__name__}: {error}"
                job.answer.set_exception(wire.Refusal(500, reason))
        else:
            for job, completion in answered:
                job.answer.set_result(completion)


EMBEDDED = EmbeddedTransport()  # the one that every client shares
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=EMBEDDED.reset)
