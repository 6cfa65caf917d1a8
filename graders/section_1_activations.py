"""Section 1, mean activations over the answer's tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graders import oracles
from graders.expect import check, check_close, check_full_precision, check_tensor, grader, relative
from personalab.models import n_blocks
from personalab.tiny import FAMILIES, load_tiny_model

_SYSTEMS = ["You are a pirate.", "", "You are a judge.", "You are a pirate.", "You are an old tree."]
_QUESTIONS = ["Where is the gold?", "How do tides work?", "Is it fair to lie?", "What do you want?", "Who are you?"]
_RESPONSES = [
    "Under the oak, matey.",
    "The moon pulls on the sea, and the sea follows. " * 4,
    "No.",
    "Rest, rum and a fair wind, in that order.",
    "I have stood here for a thousand years. " * 2,
]
_LONG = ("You are a poet.", "Tell me everything.", "the sea and the city " * 60)
_BATCHES = ((1, "right"), (2, "left"), (3, "right"), (4, "left"), (16, "right"))  # sizes, and the tokenizer's side

Examples = tuple[list[str], list[str], list[str]]
Mistakes = dict[str, Callable[[], list[Tensor]]]


def _examples(n: int, family: str = "") -> Examples:
    """Exchanges of unequal length. Only where all right solutions agree (Gemma 2) is a system prompt empty."""
    systems = _SYSTEMS if family == "gemma2" else [s or "You are a nurse." for s in _SYSTEMS]
    return systems[:n], _QUESTIONS[:n], _RESPONSES[:n]


@grader
def test_extract_response_activations(
    extract_response_activations: Callable[..., Tensor], model: Any, tokenizer: Any, d_model: int, num_layers: int
) -> None:
    """Means over the answer's tokens, at the right layer, whatever the family, the batch and the dtype."""
    for family in FAMILIES:
        tiny, tok = load_tiny_model(family)
        for side in ("left", "right"):
            tok.padding_side = side
            _check_values(extract_response_activations, tiny, tok, _examples(5, family), layer=2, what=family)
    tiny, tok = load_tiny_model("llama")
    _check_values(extract_response_activations, tiny, tok, _examples(2), layer=0, what="layer 0, the embedding")
    _check_company(extract_response_activations, tiny, tok)
    _check_bfloat16(extract_response_activations)
    if model is not None:
        _check_own(extract_response_activations, model, tokenizer, d_model, num_layers)


@grader
def test_extract_response_activations_batched(
    extract_response_activations_batched: Callable[..., Tensor],
    model: Any,
    tokenizer: Any,
    d_model: int,
    num_layers: int,
) -> None:
    """The same values for every batch size and padding side, in the order asked, the last partial batch included."""
    for family in FAMILIES:
        tiny, tok = load_tiny_model(family)
        for batch_size, side in _BATCHES:
            tok.padding_side = side
            what = f"{family}, 5 examples, batch_size={batch_size}, tokenizer.padding_side={side!r}"
            batched = partial(extract_response_activations_batched, batch_size=batch_size)
            _check_values(batched, tiny, tok, _examples(5, family), layer=2, what=what)
    _check_company(extract_response_activations_batched, *load_tiny_model("llama"))
    _check_bfloat16(extract_response_activations_batched)
    if model is not None:
        # In half precision a padded batch rounds otherwise than a sequence alone.
        own_batches = {} if model.dtype == torch.float32 else {"batch_size": 1}
        batched = partial(extract_response_activations_batched, **own_batches)
        _check_own(batched, model, tokenizer, d_model, num_layers)


def _check_own(function: Callable[..., Any], model: Any, tokenizer: Any, d_model: int, num_layers: int) -> None:
    layer = max(1, num_layers * 2 // 3)
    _check_values(function, model, tokenizer, _examples(3), layer, "your model", d_model, own_tolerance(model))


def own_tolerance(model: Any) -> float:
    """Relative error to allow on the notebook's model, whose kernels and dtype are not ours to choose."""
    return 1e-3 if model.dtype == torch.float32 else 3e-2


def _check_values(
    function: Callable[..., Any],
    model: Any,
    tok: Any,
    examples: Examples,
    layer: int,
    what: str,
    d_model: int = 32,
    tolerance: float = 1e-4,
) -> None:
    found = function(model, tok, *[list(e) for e in examples], layer=layer)
    n = len(examples[0])
    check(
        not isinstance(found, Tensor) or found.ndim != 2 or len(found) >= n,
        f"{what}: expected shape {(n, d_model)}, found {len(found)} rows for {n} examples: is the last, partial batch "
        "lost?",
    )
    found = check_tensor(found, (n, d_model), f"{what}: the result")
    check_full_precision(found, f"{what}: the result")
    readings = [oracles.readings(oracles.messages(*e), tok) for e in zip(*examples, strict=True)]
    right = [_right_means(model, r, layer) for r in readings]

    def right_alone(i: int) -> list[Tensor]:
        alone = function(model, tok, *[[e[i]] for e in examples], layer=layer)[0]
        return [found[i].double()] if n > 1 and any(relative(alone, r) < tolerance for r in right[i]) else []

    for i in range(n):
        others: Mistakes = {
            f"the rows are in another order: this is example {j}'s": partial(list, right[j]) for j in range(n) if j != i
        }
        others[
            "the result depends on the batch (this example alone comes out right): does padding enter the mean, or "
            "does padding on the left shift the answer?"
        ] = partial(right_alone, i)
        mistakes = activation_mistakes(model, readings[i], layer) | others
        check_close(found[i].double(), right[i], f"{what}, example {i}", mistakes, tolerance)


def _right_means(model: Any, readings: list[oracles.Reading], layer: int) -> list[Float[Tensor, "d"]]:
    means = []
    for ids, spans in readings:
        states = oracles.hidden(model, ids, layer).double()
        means += [states[a:b].mean(0) for a, b in spans]
    return means


def activation_mistakes(model: Any, readings: list[oracles.Reading], layer: int) -> Mistakes:
    """Explanation -> what a function with that mistake returns, computed only when a check fails."""

    def pooled(
        pick: Callable[[int, int], tuple[int, int]],
        pool: Callable[[Tensor], Tensor] = lambda tokens: tokens.mean(0),
        shift: int = 0,
    ) -> list[Tensor]:
        if not 0 <= layer + shift <= n_blocks(model):
            return []
        states = [oracles.hidden(model, ids, layer + shift).double() for ids, _ in readings]
        return [pool(h[slice(*pick(a, b))]) for h, (_, spans) in zip(states, readings, strict=True) for a, b in spans]

    def span(a: int, b: int) -> tuple[int, int]:
        return a, b

    off_by_one = "off by one, since `layer` is a hidden_states index here"
    return {
        "you average over the prompt as well as the answer": partial(pooled, lambda a, b: (0, b)),
        "you average over the prompt instead of the answer": partial(pooled, lambda a, b: (0, a)),
        "you add the activations up instead of averaging": partial(pooled, span, lambda tokens: tokens.sum(0)),
        "you take the last token only": partial(pooled, span, lambda tokens: tokens[-1]),
        "the answer's first token is lost: the start index is one too high": partial(
            pooled, lambda a, b: (min(a + 1, b - 1), b)
        ),
        "a token of the header is included: the start index is one too low": partial(pooled, lambda a, b: (a - 1, b)),
        "the answer's last token is lost: the end index is one too low": partial(
            pooled, lambda a, b: (a, max(b - 1, a + 1))
        ),
        f"you read hidden_states[layer + 1]: {off_by_one}": partial(pooled, span, shift=1),
        f"you read hidden_states[layer - 1]: {off_by_one}": partial(pooled, span, shift=-1),
    }


def _check_company(function: Callable[..., Any], model: Any, tok: Any) -> None:
    """Alone, among others and among others in another order: the same values."""
    together = function(model, tok, *_examples(5), layer=2).double()
    reverse = function(model, tok, *[e[::-1] for e in _examples(5)], layer=2).double().flip(0)
    for i in range(5):
        alone = function(model, tok, *[[e[i]] for e in _examples(5)], layer=2).double()[0]
        for other, how in ((together[i], "among five others"), (reverse[i], "among the others in reverse order")):
            check(
                relative(alone, other) < 1e-4,
                f"Example {i} alone and {how} gives different values: padding leaks into the mean, rows change places, "
                "or something is computed over the whole batch.",
            )


def _check_bfloat16(function: Callable[..., Any]) -> None:
    model, tok = load_tiny_model("llama")
    model = model.bfloat16()
    found = function(model, tok, *[[part] for part in _LONG], layer=2)
    found = check_tensor(found, (1, 32), "bfloat16 model: the result")
    check_full_precision(found, "bfloat16 model: the result")
    ids, spans = oracles.readings(oracles.messages(*_LONG), tok)[0]
    states = oracles.hidden(model, ids, 2)
    check_close(
        found[0].double(),
        [states[a:b].double().mean(0) for a, b in spans],
        "bfloat16 model, long answer",
        {
            "you average in bfloat16: convert with .float() before .mean()": lambda: [
                states[a:b].mean(0).double() for a, b in spans
            ]
        },
        tolerance=4e-4,  # a mean rounded to bfloat16 is off by about 2e-3
    )
