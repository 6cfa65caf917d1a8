"""Section 2: the same conversation with and without the cap. What every `model.generate` read, and what it computed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from graders.harness.expect import check, grader, on_tiny_models, relative, tolerance
from graders.harness.hooked import check_hooks, hooks, observed, running
from graders.harness.probes import Conversation, attempt
from personalab.lm.tiny import load_tiny_model

_LAYERS = [0, 2]
_CURE = "Leave the capper (and any other hook) in `finally` or by `with`."
_TRANSCRIPT: Conversation = [
    {"role": "user", "content": "Who keeps the lighthouse?"},
    {"role": "assistant", "content": "An old sailor keeps it."},
    {"role": "user", "content": "Be that sailor from now on."},
    {"role": "assistant", "content": "Arr, so be it."},
    {"role": "user", "content": "What do you do to lost ships?"},
    {"role": "assistant", "content": "I send them home."},
    {"role": "user", "content": "And at night?"},
]
_USERS = [m["content"] for m in _TRANSCRIPT if m["role"] == "user"]
_OLD_ANSWERS = [m["content"] for m in _TRANSCRIPT if m["role"] == "assistant"]


@dataclass(frozen=True)
class Call:
    """One `model.generate`: what it read, what it made, the reply put in its place, and its states by block."""

    prompt: str
    ids: list[int]
    n_new: int
    reply: str
    states: dict[int, Float[Tensor, "tokens d"]]


@contextmanager
def scripted_generation(model: Any, tok: Any, fail_at: int | None = None) -> Iterator[list[Call]]:
    """`model.generate` runs as always, but its answer is replaced by one that tells which call it came from."""
    inner = model.generate
    calls: list[Call] = []

    def generate(*args: Any, **kwargs: Any) -> Any:
        if len(calls) == fail_at:
            raise RuntimeError("This error was made by the grader, to see what your code leaves behind.")
        with observed(model, _LAYERS) as passes:
            output = inner(*args, **kwargs)
        whole = output if isinstance(output, Tensor) else output.sequences
        prompt = passes[0].ids
        n_new = whole.shape[1] - prompt.shape[1]
        reply = f"Reply number {101 + len(calls)}."
        states = {k: torch.cat([p.states[k] for p in passes], dim=1)[0] for k in _LAYERS}
        calls.append(Call(tok.decode(prompt[0]), whole[0].tolist(), n_new, reply, states))
        answer = tok(reply, add_special_tokens=False, return_tensors="pt")["input_ids"]
        replaced = torch.cat([prompt, answer], dim=1).to(whole.device)
        if isinstance(output, Tensor):
            return replaced
        output.sequences = replaced
        return output

    model.__dict__["generate"] = generate
    try:
        yield calls
    finally:
        del model.__dict__["generate"]


@grader
def test_run_capping_experiment(
    run_capping_experiment: Callable[..., tuple[Conversation, Conversation]], model: Any = None, tokenizer: Any = None
) -> None:
    """Each run answers the same user turns with its own history; only one of them is capped, and nothing stays on."""
    if on_tiny_models():
        _check_on_tiny_models(run_capping_experiment)
    if model is not None:
        _check_yours(run_capping_experiment, model, tokenizer)


def _check_on_tiny_models(run_capping_experiment: Callable[..., Any]) -> None:
    for family, max_turns in (("llama", 3), ("gemma2", 2), ("qwen3", 1), ("qwen2", 9)):
        _check_run(run_capping_experiment, family, {"max_turns": max_turns})
    _check_run(run_capping_experiment, "gemma3", {})
    tiny, tok = load_tiny_model("llama")
    run = partial(run_capping_experiment, tiny, tok, _TRANSCRIPT, *_caps(tiny, tok), max_turns=1, max_new_tokens=3)
    for fail_at in (0, 1):
        before = hooks(tiny)
        with scripted_generation(tiny, tok, fail_at):
            attempt(run)
        check_hooks(tiny, before, f"After an error in generation {fail_at}", _CURE)


def _check_yours(function: Callable[..., Any], model: Any, tok: Any) -> None:
    """One turn of the notebook's own model, under a cap that nothing reaches: no text is compared."""
    vector, before = torch.ones(model.config.get_text_config().hidden_size), hooks(model)
    with running("Your model, max_turns=1"):
        found = function(model, tok, copy.deepcopy(_TRANSCRIPT), [vector], [1e6], [1], max_turns=1, max_new_tokens=2)
    _check_form(found, 1, "Your model, max_turns=1")
    check_hooks(model, before, "Your model, after a normal run", _CURE)


def _caps(model: Any, tok: Any) -> tuple[list[Tensor], list[float], list[int]]:
    """Vectors that are no unit vectors, and ceilings that most positions of a plain run exceed."""
    generator = torch.Generator().manual_seed(4)
    vectors = [3 * F.normalize(torch.randn(32, generator=generator), dim=0) for _ in _LAYERS]
    plain = _plain_states(model, tok(" ".join(_USERS), add_special_tokens=False)["input_ids"])
    thresholds = [torch.quantile(plain[k] @ v / v.norm(), 0.25).item() for k, v in zip(_LAYERS, vectors, strict=True)]
    return vectors, thresholds, list(_LAYERS)


@torch.inference_mode()
def _plain_states(model: Any, ids: list[int]) -> dict[int, Float[Tensor, "tokens d"]]:
    """Outputs of the blocks when nobody intervenes."""
    with observed(model, _LAYERS) as passes:
        model(input_ids=torch.tensor([ids]))
    return {k: states[0] for k, states in passes[0].states.items()}


def _check_run(function: Callable[..., Any], family: str, arguments: dict[str, int]) -> None:
    model, tok = load_tiny_model(family)
    max_turns = arguments.get("max_turns", 6)
    what = f"{family}, {len(_USERS)} user turns, max_turns={max_turns}"
    caps, transcript, before = _caps(model, tok), copy.deepcopy(_TRANSCRIPT), hooks(model)
    with scripted_generation(model, tok) as calls, running(what):
        found = function(model, tok, transcript, *caps, max_new_tokens=3, **arguments)
    check_hooks(model, before, f"{what}: afterwards", _CURE)
    check(transcript == _TRANSCRIPT, f"{what}: the transcript was changed. Work on a copy.")
    n_turns = min(max_turns, len(_USERS))
    _check_form(found, n_turns, what)
    default = _trace(found[0], calls, f"{what}: default_messages")
    capped = _trace(found[1], calls, f"{what}: capped_messages")
    _check_history(default, capped, f"{what}: the default run", "capped")
    _check_history(capped, default, f"{what}: the capped run", "default")
    for call in default + capped:
        check(
            call.n_new <= 3,
            f"{what}: expected answers of up to max_new_tokens=3 tokens, found one of {call.n_new}. Hand it on.",
        )
    _check_effect(model, default, capped, caps, what)


def _check_form(found: Any, n_turns: int, what: str) -> None:
    check(
        isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, list) for part in found),
        f"{what}: expected a tuple of two lists (default_messages, capped_messages), found {type(found).__name__}.",
    )
    check(found[0] is not found[1], f"{what}: both results are one and the same list: `a = b = []` makes one only.")
    for name, messages in zip(("default_messages", "capped_messages"), found, strict=True):
        users = [m["content"] for m in messages if m["role"] == "user"]
        check(
            [m["role"] for m in messages] == ["user", "assistant"] * n_turns,
            f"{what}: expected {name} to be {n_turns} user turns, each with its answer, found the roles "
            f"{[m['role'] for m in messages]}. max_turns counts user turns, not messages.",
        )
        check(
            users == _USERS[:n_turns],
            f"{what}: expected the user turns of {name} to be the transcript's first {n_turns}, found {users}.",
        )


def _trace(messages: Conversation, calls: list[Call], what: str) -> list[Call]:
    """The call that made each answer."""
    by_reply = {call.reply: call for call in calls}
    found = []
    for turn, message in enumerate(m for m in messages if m["role"] == "assistant"):
        text = message["content"]
        likely = "an answer that model.generate never gave. Generate it with generate_with_steering, alpha 0"
        if text in _OLD_ANSWERS:
            likely = "the transcript's own answer: the model has to answer anew"
        elif any(reply in text for reply in by_reply):
            likely = "more than the answer: decode only what follows the prompt"
        check(text.strip() in by_reply, f"{what}, turn {turn}: found {text!r}, {likely}.")
        found.append(by_reply[text.strip()])
    return found


def _check_history(run: list[Call], other: list[Call], what: str, other_name: str) -> None:
    for turn, call in enumerate(run):
        where, own = f"{what}, turn {turn}", {c.reply for c in run}
        check(
            call not in other,
            f"{where}: the same generation stands in the {other_name} run too. Each run generates its own answers.",
        )
        foreign = [c.reply for c in other if c.reply in call.prompt and c.reply not in own]
        check(
            not foreign,
            f"{where}: the prompt holds an answer of the {other_name} run ({foreign[:1]}). Expected its own answers as "
            "history: keep two lists of messages, and mind that `a = b` copies no list.",
        )
        old = [text for text in _OLD_ANSWERS if text in call.prompt]
        check(
            not old,
            f"{where}: the prompt holds the transcript's own answer {old[:1]}. Expected this run's answers as history: "
            "only the user's turns are replayed.",
        )
        later = [text for text in _USERS[turn + 1 :] if text in call.prompt]
        check(not later, f"{where}: the prompt holds a later user turn {later[:1]}. Add one turn at a time.")
        cursor = 0
        for k in range(turn + 1):
            for text in (_USERS[k], *([run[k].reply] if k < turn else [])):
                position = call.prompt.find(text, cursor)
                check(
                    position >= 0,
                    f"{where}: expected {text!r} (turn {k}) in the prompt, after what came before it; the prompt is "
                    f"{call.prompt!r}. Hand the run's earlier turns on, answers included.",
                )
                cursor = position + len(text)
        n = call.prompt.count(_USERS[turn])
        check(n == 1, f"{where}: the prompt holds the user's turn {n} times. Is it both in `messages` and in `prompt`?")


def _check_effect(
    model: Any, default: list[Call], capped: list[Call], caps: tuple[list[Tensor], list[float], list[int]], what: str
) -> None:
    plain = [[_is_plain(model, call) for call in run] for run in (default, capped)]
    excess = [[_excess(call, caps) for call in run] for run in (default, capped)]
    check(
        any(plain[0]) or not all(plain[1]) or any(e <= 0 for e in excess[1]),
        f"{what}: the first list holds capped answers and the second the plain model's. Expected (default, capped): "
        "are the two swapped?",
    )
    for turn, (is_plain, over) in enumerate(zip(plain[0], excess[0], strict=True)):
        likely = "the cap is on in it: leave the capper before you go on" if over <= 0 else "something else acts in it"
        check(is_plain, f"{what}: the default run, turn {turn}: expected the plain model's activations, but {likely}.")
    for turn, (is_plain, over) in enumerate(zip(plain[1], excess[1], strict=True)):
        likely = "it is the plain model: the cap is off in this turn. Generate every turn inside the capper"
        if not is_plain:
            likely = "the cap acts only on some blocks or positions, or with another threshold"
        check(
            over <= 0,
            f"{what}: the capped run, turn {turn}: expected no projection above its threshold, at any capped block and "
            f"position, found one {over:.3f} above; {likely}. (Your ActivationCapper has its own check.)",
        )


def _is_plain(model: Any, call: Call) -> bool:
    plain, n_prompt = _plain_states(model, call.ids[:-1]), len(call.ids) - call.n_new
    cached = all(len(call.states[k]) == len(plain[k]) for k in _LAYERS)
    n = None if cached else n_prompt  # without a cache, the first pass only
    allowed = tolerance(model.dtype, exact=1e-4).allowed(1.0)
    return all(relative(call.states[k][:n], plain[k][:n]) <= allowed for k in _LAYERS)


def _excess(call: Call, caps: tuple[list[Tensor], list[float], list[int]]) -> float:
    """How far the highest projection lies above its threshold, rounding allowed for."""
    return max(
        ((call.states[k] @ v / v.norm()).max() - threshold).item() - 1e-3 for v, threshold, k in zip(*caps, strict=True)
    )
