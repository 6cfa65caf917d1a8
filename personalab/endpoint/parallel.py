"""Many chat completions at once: in order, cached, and with every failure reported at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import openai
from tqdm.auto import tqdm

from personalab import tiers
from personalab.endpoint import cache
from personalab.endpoint.client import is_embedded, shared_client
from personalab.endpoint.dialects import send
from personalab.endpoint.engine import engine
from personalab.endpoint.replies import first_token_probabilities, text_of
from personalab.endpoint.scripted import SCRIPTED_ID, active_script
from personalab.endpoint.transport import EMBEDDED
from personalab.lm import processes
from personalab.lm.seeds import occurrences, request_seed

Conversation = Sequence[Mapping[str, str]]

TOP_LOGPROBS = 20  # the most that OpenAI gives, and what Chen et al. 2025 read
BYTES_PER_TOKEN = 16  # our choice: English takes 4, escaped Chinese 6
EMBEDDED_IN_FLIGHT = 288  # our choice: three of the worker's batches, so that it can put like to like


class BatchError(RuntimeError):
    """Some calls of a batch failed; all were finished.

    Attributes:
        results: one response per conversation, None where the call failed.
        errors: index of each failed conversation -> its exception.
    """

    def __init__(self, results: list[str | None], errors: dict[int, Exception], api_key: str) -> None:
        self.results, self.errors = results, dict(sorted(errors.items()))
        first = [f"  conversation {i}: {_describe(e, api_key)}" for i, e in list(self.errors.items())[:3]]
        summary = f"{len(errors)} of {len(results)} calls failed. The first:"
        advice = "What succeeded is cached: run again to repeat only the failed ones."
        super().__init__("\n".join([summary, *first, advice]))


def _describe(error: Exception, api_key: str) -> str:
    cause = f" ({error.__cause__})" if error.__cause__ else ""  # openai's own says just "Connection error."
    return f"{type(error).__name__}: {error}{cause}".replace(api_key, "[API key]")[:300]  # servers may echo it


@dataclass(frozen=True)
class Call:
    """A request body as it is sent, and its key in the response cache."""

    body: dict[str, Any]
    key: str


def generate_response(
    messages: Conversation,
    model: str | None = None,
    max_tokens: int = 256,
    temperature: float = 0.7,
    *,
    seed: int = tiers.GLOBAL_SEED,
    client: openai.OpenAI | None = None,
) -> str:
    """One reply to one conversation. Equal arguments give an equal reply; another `seed` another sample.

    Args:
        model: default: the current tier's `response_model`.
        client: default: `make_client()`.

    Raises:
        openai.OpenAIError: if the call fails for good, after the retries.
        NoContentError: if the reply holds no text.
        OSError: if the disk is too full to keep a reply; nothing is asked then.
        TypeError: if `messages` is not a list of messages with role and content.
    """
    client = client or shared_client(model)
    (call,) = _calls(client, [messages], model, max_tokens, temperature, seed)
    cached = _cached(call)
    return _ask(client, call) if cached is None else cached


def generate_responses_parallel(
    messages_list: Iterable[Conversation],
    model: str | None = None,
    max_tokens: int = 256,
    temperature: float = 0.7,
    max_workers: int = 10,
    *,
    seed: int = tiers.GLOBAL_SEED,
    progress: bool = True,
    client: openai.OpenAI | None = None,
) -> list[str]:
    """One reply to each conversation, in their order. One that occurs k times gets k separate samples.

    Args:
        messages_list: conversations, each a list of messages with role and content.
        model: default: the current tier's `response_model`.
        max_workers: calls in flight. The embedded model batches what is in flight, so it takes all it can.
        seed: another seed gives other samples.
        progress: show a progress bar.
        client: default: `make_client()`.

    Raises:
        BatchError: if any call fails for good; by then every call is finished, and what succeeded is cached.
        TypeError: if `messages_list` is not a list of conversations.
    """
    if not (conversations := list(messages_list)):
        return []
    client = client or shared_client(model)
    calls = _calls(client, conversations, model, max_tokens, temperature, seed)
    return _answered(client, calls, max_workers, progress)


def generate_first_token_probabilities(
    messages_list: Iterable[Conversation],
    model: str | None = None,
    max_workers: int = 10,
    *,
    seed: int = tiers.GLOBAL_SEED,
    progress: bool = True,
    client: openai.OpenAI | None = None,
) -> list[dict[str, float]]:
    """For each conversation, the probabilities of the 20 likeliest first tokens of the reply; cached as replies are.

    Args:
        model: default: the current tier's `judge_model`, for whose scores this is (`judging.expected.expected_score`).

    Raises:
        BatchError: if any call fails for good, as where the server sends no `top_logprobs`.
        ValueError: for the embedded models, which give none.
    """
    client = client or shared_client()
    if is_embedded(client) and active_script() is None:
        raise ValueError(
            "The embedded models give no log-probabilities: set OPENAI_BASE_URL to a server that does, or read scores."
        )
    wanted = {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    calls = _calls(client, list(messages_list), model or tiers.current_tier().judge_model, 1, 0.0, seed, wanted)
    return [json.loads(found) for found in _answered(client, calls, max_workers, progress)]


def _answered(client: openai.OpenAI, calls: Sequence[Call], max_workers: int, progress: bool) -> list[str]:
    """The result of every call, from the cache or the server."""
    results = processes.agreed([_cached(call) for call in calls])
    if is_embedded(client) and active_script() is None:
        max_workers = EMBEDDED_IN_FLIGHT
    errors = _fill(results, client, calls, max_workers, progress)
    if errors:
        raise BatchError(results, errors, client.api_key)
    return [result for result in results if result is not None]


def _fill(
    results: list[str | None], client: openai.OpenAI, calls: Sequence[Call], max_workers: int, progress: bool
) -> dict[int, Exception]:
    """Ask for every result that is missing and put it in its place; returns what failed, by place.

    Launched as several processes, each asks its share (`lm.processes`).
    """
    missing = list(processes.mine(i for i, result in enumerate(results) if result is None))
    found: dict[int, str] = {}
    errors: dict[int, Exception] = {}
    if missing:
        hidden = not progress or processes.rank() > 0
        there = len(results) - results.count(None)
        with tqdm(total=there + len(missing), initial=there, disable=hidden) as bar:
            found, errors = _ask_all(client, {i: calls[i] for i in missing}, max_workers, bar.update)
    for i, reply in processes.exchanged(found).items():
        results[i] = reply
    if processes.count() > 1:  # an exception of openai's does not come through whole
        errors = {i: RuntimeError(_describe(error, client.api_key)) for i, error in errors.items()}
    return processes.exchanged(errors)


def _ask_all(
    client: openai.OpenAI, calls: Mapping[int, Call], max_workers: int, tell: Callable[[], object]
) -> tuple[dict[int, str], dict[int, Exception]]:
    """Each call's reply, or why there is none; `tell` is called after each."""
    found: dict[int, str] = {}
    errors: dict[int, Exception] = {}
    pool = ThreadPoolExecutor(min(max(max_workers // processes.count(), 1), len(calls)))
    try:
        futures = {pool.submit(_ask, client, call): i for i, call in calls.items()}
        for future in as_completed(futures):
            try:
                found[futures[future]] = future.result()
            except Exception as error:
                errors[futures[future]] = error
            tell()
    except BaseException:  # an interrupt: drop what has not begun; what still arrives goes to the cache
        pool.shutdown(wait=False, cancel_futures=True)
        EMBEDDED.cancel_waiting()
        raise
    pool.shutdown()
    return found, errors


def _calls(
    client: openai.OpenAI,
    conversations: Sequence[Conversation],
    model: str | None,
    max_tokens: int,
    temperature: float,
    seed: int,
    more: Mapping[str, Any] | None = None,
) -> list[Call]:
    """All requests, checked before any is paid for, with keys and seeds that repeats don't share."""
    endpoint = {"base_url": str(client.base_url)}
    model = model or tiers.current_tier().response_model
    if is_embedded(client):
        endpoint["engine"] = engine(model)
    settings: dict[str, Any] = {"model": model, "max_tokens": max_tokens, "temperature": float(temperature)}
    settings |= more or {}
    bodies = [{**settings, "messages": _plain(messages, i)} for i, messages in enumerate(conversations)]
    calls = []
    for body, occurrence in zip(bodies, occurrences([json.dumps(body) for body in bodies]), strict=True):
        sampling = request_seed(body["messages"], max_tokens, temperature, seed, occurrence)
        key = cache.request_key({**endpoint, **body, "seed": seed}, occurrence)
        calls.append(Call({**body, "seed": sampling}, key))
    return calls


def _plain(messages: Conversation, index: int) -> list[dict[str, str]]:
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise TypeError(
            f"Conversation {index} must be a list of messages, not {str(messages)!r:.80}. For one "
            "conversation call generate_response(messages) or generate_responses_parallel([messages])."
        )
    for m in messages:
        if not isinstance(m, Mapping) or not all(isinstance(m.get(k), str) for k in ("role", "content")):
            raise TypeError(
                f"Conversation {index}: a message is a dict with the strings 'role' and 'content', not {str(m)!r:.80}."
            )
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def _cached(call: Call) -> str | None:
    return None if active_script() else cache.load_reply(call.key)


def _ask(client: openai.OpenAI, call: Call) -> str:
    """Send the request, where it is paid for never in two processes at once, and keep the reply when it arrives."""
    if is_embedded(client) or active_script():
        return _asked(client, call)
    with cache.claimed(call.key, _room_for(call)):
        cached = _cached(call)
        return _asked(client, call) if cached is None else cached


def _room_for(call: Call) -> int:
    """Bytes that its reply will hardly exceed, with its request and, where these are asked for, probabilities."""
    return BYTES_PER_TOKEN * call.body["max_tokens"] + 2 * len(json.dumps(call.body)) + 2048


def _asked(client: openai.OpenAI, call: Call) -> str:
    reply = send(client, call.body)
    if "top_logprobs" in call.body:
        content = json.dumps(first_token_probabilities(reply, call.body["model"]))
    else:
        content = text_of(reply, call.body["model"])
    if reply.id != SCRIPTED_ID:
        cache.store_reply(call.key, call.body, content)
    return content
