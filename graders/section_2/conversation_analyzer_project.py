"""Section 2: watching a conversation turn by turn."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from graders.harness import oracles
from graders.harness.expect import (
    apart,
    check,
    check_close,
    check_mean_dtype,
    check_tensor,
    grader,
    likely_value,
    on_tiny_models,
    tolerance,
)
from graders.harness.hooked import check_hooks, failing, hooks, observed, running
from graders.harness.probes import Conversation, attempt, bystander, returning_tuples, turn_spans
from personalab.lm.models import decoder_blocks
from personalab.lm.tiny import FAMILIES, load_tiny_model

_CURE = "Remove it in `finally`, so that an error can't skip that."


_SYSTEM = {"role": "system", "content": "You are a keeper of bees."}
_LONG = "the sea and the city " * 60


def _turns(*contents: str) -> Conversation:
    return [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]


_MANY = _turns(
    "Where is the gold?",
    "Under the oak.",
    "Please say once more: Under the oak. Then tell me about the moon.",
    "The moon pulls on the sea, and the sea follows. Twice a day it rises.",
    "Where was it again?",
    "Under the oak.",
)
_CONVERSATIONS = {
    "one turn": _turns("How do tides work?", "The moon pulls on the sea."),
    "three turns": _MANY,
    "three turns and a system message": [_SYSTEM, *_MANY],
    "two turns and a question": _MANY[:5],
}


@grader
def test_conversation_analyzer_project(ConversationAnalyzer: Callable[..., Any]) -> None:
    """Means over each turn's own tokens, after the right block, from one pass; nothing left on the model."""
    axis = 7 * F.normalize(torch.randn(32, generator=torch.Generator().manual_seed(1)), dim=0)
    kept = axis.clone()
    for family in FAMILIES:
        model, tok = load_tiny_model(family)
        for layer in (0, 2):
            analyzer = ConversationAnalyzer(model, tok, layer, axis)
            check(torch.equal(axis, kept), "The axis you were given was changed in place. Normalise a copy.")
            for name, conversation in _CONVERSATIONS.items():
                what = f"{family}, layer={layer}, {name}"
                _check_turns(analyzer, model, tok, conversation, layer, what)
                _check_projected(analyzer.project_onto_axis, model, tok, conversation, axis, layer, what, one_pass=True)
    model, tok = load_tiny_model("llama")
    analyzer = ConversationAnalyzer(model, tok, 1, axis)
    with returning_tuples(model, 1):
        _check_turns(analyzer, model, tok, _MANY, 1, "llama, blocks that return tuples")
    _check_after_error(partial(analyzer.extract_turn_activations, _CONVERSATIONS["one turn"]), model)
    _check_turns(analyzer, model, tok, _MANY, 1, "llama, after an earlier call has failed")
    model, tok = load_tiny_model("llama", dtype=torch.bfloat16)
    long = [*_MANY[:1], {"role": "assistant", "content": _LONG.strip()}]
    n = len(tok(_LONG, add_special_tokens=False)["input_ids"])
    _check_turns(ConversationAnalyzer(model, tok, 1, axis), model, tok, long, 1, "bfloat16 model, long answer", n)


def _check_after_error(function: Callable[[], Any], model: Any) -> None:
    before = hooks(model)
    with failing(model, after=0):
        attempt(function)
    check_hooks(model, before, "After an error in the forward pass", _CURE)


def _run(
    function: Callable[[Conversation], Any], model: Any, conversation: Conversation, what: str, one_pass: bool
) -> Any:
    """What the function returns, after a look at what it did to the model and to the messages."""
    n_turns = sum(m["role"] == "assistant" for m in conversation)
    given = copy.deepcopy(conversation)
    with ExitStack() as stack:
        for block in decoder_blocks(model):
            stack.enter_context(bystander(block))
        before = hooks(model)
        with observed(model, []) as seen, running(what):
            found = function(given)
        check_hooks(model, before, f"{what}: after a normal run", _CURE)
    check(given == conversation, f"{what}: the messages were changed. Work on a copy.")
    check(
        len(seen) == 1 or not one_pass,
        f"{what}: expected one forward pass for the whole conversation, found {len(seen)} ({n_turns} assistant turns). "
        "Attention is causal: one pass over all messages has every turn's activations.",
    )
    check(isinstance(found, list), f"{what}: expected a list, found {type(found).__name__}.")
    check(
        len(found) == n_turns,
        f"{what}: expected {n_turns} entries, one an assistant turn, found {len(found)} "
        f"({len(conversation)} messages).",
    )
    return found


def _check_turns(
    analyzer: Any, model: Any, tok: Any, conversation: Conversation, layer: int, what: str, n_tokens: int = 1
) -> None:
    """Each turn against the oracle; `n_tokens`: what a mean is over, where `Tolerance.over` holds."""
    found = _run(analyzer.extract_turn_activations, model, conversation, what, one_pass=True)
    ids, turns = turn_spans(conversation, tok)
    states = oracles.hidden(model, ids, layer + 1)
    for k, (vector, accepted) in enumerate(zip(found, turns, strict=True)):
        name = f"{what}: extract_turn_activations, assistant turn {k}"
        check(
            tuple(getattr(vector, "shape", (32,))) == (32,),
            f"{name}: expected shape (32,), found {tuple(getattr(vector, 'shape', ()))}. A block's output is a tensor "
            "(batch, tokens, d), or in older versions a tuple that starts with it: take output[0] of a tuple only, "
            "then batch element 0, then the mean over the turn's tokens.",
        )
        value = check_tensor(vector, (32,), name)
        check(
            vector.dtype in (torch.float32, torch.float64),
            f"{name}: expected float32, found {vector.dtype}. Convert with .float() before averaging.",
        )
        right = [states[a:b].double().mean(0) for a, b in accepted]
        mistakes, allowed = _mistakes(model, ids, turns, k, layer, states), tolerance(model.dtype).over(n_tokens)
        check_close(value, right, name, mistakes, allowed)
        check_mean_dtype(value, model.dtype, name)


def _mistakes(
    model: Any, ids: list[int], turns: list[list[tuple[int, int]]], k: int, layer: int, states: Float[Tensor, "t d"]
) -> dict[str, Callable[[], Tensor | list[Tensor]]]:
    """Values of typical mistakes, each computed only when a check fails."""
    wide, (start, _) = states.double(), turns[k][0]
    ends, firsts = {b for _, b in turns[k]}, {a for a, _ in turns[k]}
    before = [b for _, b in turns[k - 1]] if k else [0]

    def at(index: int) -> list[Tensor]:
        other = oracles.hidden(model, ids, index).double()
        return [other[a:b].mean(0) for a, b in turns[k]]

    return {
        "you average over the whole conversation": lambda: [wide.mean(0), wide[: max(ends)].mean(0)],
        "you average over the prompt instead of the answer": (lambda: [wide[a:start].mean(0) for a in [0, *before]]),
        "you average from the end of the turn before, so the user's turn is included": (
            lambda: [wide[a:b].mean(0) for a in before for b in ends]
        ),
        "you average to the end of the conversation, so later turns are included": (
            lambda: [wide[a:].mean(0) for a in firsts]
        ),
        "you add the activations up instead of averaging": lambda: [wide[start:b].sum(0) for b in ends],
        "you take the last token only": lambda: [wide[b - 1] for b in ends],
        "the span starts one too high": lambda: [wide[start + 1 : b].mean(0) for b in ends],
        "the span starts one too low: a token of the header is included": (
            lambda: [wide[start - 1 : b].mean(0) for b in ends]
        ),
        "you took another turn": lambda: [wide[a:b].mean(0) for i, t in enumerate(turns) if i != k for a, b in t],
        "you read after the block before: `layer` is a block index here, so its output is hidden_states[layer + 1]": (
            lambda: at(layer)
        ),
        "you read after the block that follows (off by one)": lambda: at(layer + 2),
    }


def _check_projected(
    function: Callable[[Conversation], Any],
    model: Any,
    tok: Any,
    conversation: Conversation,
    axis: Float[Tensor, "d"],
    layer: int,
    what: str,
    one_pass: bool = False,
) -> None:
    """One float a turn: the projection of its mean on the unit axis."""
    kept = axis.clone()
    found = _run(function, model, conversation, what, one_pass)
    check(torch.equal(axis, kept), f"{what}: the axis you were given was changed in place. Normalise a copy.")
    ids, turns = turn_spans(conversation, tok)
    states, norm = oracles.hidden(model, ids, layer + 1).double(), axis.double().norm()
    unit, allowed = axis.double() / norm, tolerance(model.dtype, exact=1e-4)
    for k, (value, accepted) in enumerate(zip(found, turns, strict=True)):
        name = f"{what}: projection of assistant turn {k}"
        check(isinstance(value, float), f"{name}: expected a float, found {type(value).__name__}. Use .item().")
        means = [states[a:b].mean(0) for a, b in accepted]
        right = [(m @ unit).item() for m in means]
        slack = allowed.along(max(m.norm().item() for m in means), len(unit))
        nearest = min(right, key=lambda r: abs(value - r))
        if abs(value - nearest) <= slack:
            continue
        mistakes: dict[str, list[float] | Callable[[], list[float]]] = {
            "the axis is not normalised: divide by its norm": [r * norm.item() for r in right],
            "you divide by the squared norm of the axis, or normalise twice": [r / norm.item() for r in right],
            "the sign is flipped: higher means more like the axis": [-r for r in right],
            "this is the cosine: do not divide by the norm of the activation": [
                r / m.norm().item() for r, m in zip(right, means, strict=True)
            ],
        }
        for why, wrong in _mistakes(model, ids, turns, k, layer, states).items():
            mistakes[why] = partial(_on_axis, wrong, unit)
        likely = likely_value(value, nearest, mistakes, slack)
        guess = f"It looks as if {likely}." if likely else "Compare with a hand calculation on one short conversation."
        raise AssertionError(f"{name}: {apart(nearest, value)}; {slack:.2g} of difference is allowed. {guess}")


def _on_axis(wrong: Callable[[], Tensor | list[Tensor]], unit: Float[Tensor, "d"]) -> list[float]:
    values = wrong()
    return [(v @ unit).item() for v in (values if isinstance(values, list) else [values])]


@grader
def test_compute_turn_projections(
    compute_turn_projections: Callable[..., list[float]], model: Any = None, tokenizer: Any = None
) -> None:
    """Projection of each turn's mean on the unit direction, after the right block; nothing left on the model."""
    if on_tiny_models():
        _check_on_tiny_models(compute_turn_projections)
    if model is not None:
        own = torch.randn(model.config.get_text_config().hidden_size, generator=torch.Generator().manual_seed(3))
        run = partial(_call_projections, compute_turn_projections, model, tokenizer, own, 1)
        _check_projected(run, model, tokenizer, _MANY, own, 1, "your model")


def _check_on_tiny_models(compute_turn_projections: Callable[..., list[float]]) -> None:
    direction = 5 * F.normalize(torch.randn(32, generator=torch.Generator().manual_seed(2)), dim=0)
    for family in FAMILIES:
        tiny, tok = load_tiny_model(family)
        for layer in (0, 2):
            for name, conversation in _CONVERSATIONS.items():
                run = partial(_call_projections, compute_turn_projections, tiny, tok, direction, layer)
                _check_projected(run, tiny, tok, conversation, direction, layer, f"{family}, layer={layer}, {name}")
    tiny, tok = load_tiny_model("llama")
    run = partial(_call_projections, compute_turn_projections, tiny, tok, direction, 1)
    with returning_tuples(tiny, 1):
        _check_projected(run, tiny, tok, _MANY, direction, 1, "llama, blocks that return tuples")
    _check_after_error(partial(run, _MANY), tiny)


def _call_projections(
    function: Callable[..., Any], model: Any, tok: Any, direction: Tensor, layer: int, messages: Conversation
) -> Any:
    return function(model, tok, messages, direction, layer)
