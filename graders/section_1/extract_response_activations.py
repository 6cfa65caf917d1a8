"""Section 1, activations and persona vectors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graders.harness import oracles
from graders.harness.expect import check, check_close, check_mean_dtype, check_tensor, grader, on_tiny_models, tolerance
from personalab.lm.models import d_model as width_of
from personalab.lm.models import n_blocks
from personalab.lm.tiny import FAMILIES, load_tiny_model

_SYSTEMS = ["You are a pirate.", "", "You are a judge.", "You are a pirate.", "You are an old tree."]
_QUESTIONS = ["Where is the gold?", "How do tides work?", "Is it fair to lie?", "What do you want?", "Who are you?"]
_RESPONSES = [
    "Under the oak, matey.",
    "The moon pulls on the sea, and the sea follows. " * 4,
    "No.",
    "Rest, rum and a fair wind, in that order.",
    "I have stood here for a thousand years. " * 2,
]
_LONG = "the sea and the city " * 60

Examples = tuple[list[str], list[str], list[str]]


def _examples(n: int, family: str = "") -> Examples:
    """Exchanges of unequal length. Only where all right solutions agree (Gemma 2) is a system prompt empty."""
    systems = _SYSTEMS if family == "gemma2" else [s or "You are a nurse." for s in _SYSTEMS]
    return systems[:n], _QUESTIONS[:n], _RESPONSES[:n]


@grader
def test_extract_response_activations(
    extract_response_activations: Callable[..., Tensor], model: Any, tokenizer: Any, d_model: int, num_layers: int
) -> None:
    """Means over the answer's tokens, at the right layer, whatever the family, the batch and the dtype."""
    if on_tiny_models():
        _check_single(extract_response_activations)
    if model is not None:
        layer = max(1, num_layers * 2 // 3)
        _check_values(extract_response_activations, model, tokenizer, _examples(3), layer, "your model", d_model)


def _check_single(function: Callable[..., Tensor]) -> None:
    for family in FAMILIES:
        tiny, tok = load_tiny_model(family)
        for side in ("left", "right"):
            tok.padding_side = side
            _check_values(function, tiny, tok, _examples(5, family), layer=2, what=family)
    tiny, tok = load_tiny_model("llama")
    _check_values(function, tiny, tok, _examples(2), layer=0, what="layer 0, the embedding")
    _check_company(function, tiny, tok)
    _check_bfloat16(function)


@grader
def test_extract_response_activations_batched(
    extract_response_activations_batched: Callable[..., Tensor],
    model: Any,
    tokenizer: Any,
    d_model: int,
    num_layers: int,
) -> None:
    """The same values for every batch size and padding side, in the order asked, the last partial batch included."""
    if on_tiny_models():
        _check_batches(extract_response_activations_batched)
    if model is not None:
        layer = max(1, num_layers * 2 // 3)
        _check_values(
            extract_response_activations_batched, model, tokenizer, _examples(3), layer, "your model", d_model
        )


def _check_batches(function: Callable[..., Tensor]) -> None:
    for family in FAMILIES:
        tiny, tok = load_tiny_model(family)
        for batch_size, side in ((1, "right"), (2, "left"), (3, "right"), (4, "left"), (16, "right")):
            tok.padding_side = side
            what = f"{family}, 5 examples, batch_size={batch_size}, tokenizer.padding_side={side!r}"
            batched = partial(function, batch_size=batch_size)
            _check_values(batched, tiny, tok, _examples(5, family), layer=2, what=what)
    _check_bfloat16(function)


def _check_values(
    function: Callable[..., Any],
    model: Any,
    tok: Any,
    examples: Examples,
    layer: int,
    what: str,
    d_model: int = 32,
    n_tokens: int = 1,
) -> None:
    """Every row against the oracle; `n_tokens`: what a mean is over, where `Tolerance.over` holds."""
    found = function(model, tok, *[list(e) for e in examples], layer=layer)
    found = check_tensor(found, (len(examples[0]), d_model), f"{what}: the result")
    encoded = [oracles.spans(oracles.messages(*e), tok) for e in zip(*examples, strict=True)]
    for i, (ids, accepted) in enumerate(encoded):
        states = oracles.hidden(model, ids, layer).double()
        right = [states[a:b].mean(0) for a, b in accepted]
        mistakes = _mistakes(model, ids, accepted, layer, states)
        check_close(found[i], right, f"{what}, example {i}", mistakes, tolerance(model.dtype).over(n_tokens))
    check_mean_dtype(found, model.dtype, what)


def _mistakes(
    model: Any, ids: list[int], accepted: list[tuple[int, int]], layer: int, states: Tensor
) -> dict[str, Callable[[], Tensor | list[Tensor]]]:
    """Values of typical mistakes, each computed only when a check fails."""
    start, end = accepted[0]
    ends = sorted({b for _, b in accepted})

    def at(other: int) -> list[Tensor]:
        inside = 0 <= other <= n_blocks(model)
        return [oracles.hidden(model, ids, other).double()[start:b].mean(0) for b in ends] if inside else []

    return {
        "you average over the prompt as well as the answer": lambda: [states.mean(0), states[:end].mean(0)],
        "you average over the prompt instead of the answer": lambda: states[:start].mean(0),
        "you add the activations up instead of averaging": lambda: [states[start:b].sum(0) for b in ends],
        "you take the last token only": lambda: [states[b - 1] for b in ends],
        "the answer's first token is lost: the start index is one too high": (
            lambda: [states[start + 1 : b].mean(0) for b in ends]
        ),
        "a token of the header is included: the start index is one too low": (
            lambda: [states[start - 1 : b].mean(0) for b in ends]
        ),
        "you read hidden_states[layer + 1]: off by one, since `layer` is a hidden_states index here": (
            lambda: at(layer + 1)
        ),
        "you read hidden_states[layer - 1]: off by one, since `layer` is a hidden_states index here": (
            lambda: at(layer - 1)
        ),
    }


def _check_company(function: Callable[..., Any], model: Any, tok: Any) -> None:
    together = function(model, tok, *_examples(5), layer=2).double()
    for i in range(5):
        alone = function(model, tok, *[[e[i]] for e in _examples(5)], layer=2).double()
        check_close(
            alone[0],
            [together[i]],
            f"Example {i} on its own and among five others gives different values",
            {"padding leaks into the mean, or rows change places": alone[0].clone},
        )


def _check_bfloat16(function: Callable[..., Any]) -> None:
    model, tok = load_tiny_model("llama", dtype=torch.bfloat16)
    long = (["You are a poet."], ["Tell me everything."], [_LONG])
    n = len(tok(_LONG, add_special_tokens=False)["input_ids"])
    _check_values(function, model, tok, long, layer=2, what="bfloat16 model, long answer", n_tokens=n)


_PERSONAS = {"pirate": "You are a pirate.", "default": "", "judge": "You are a judge.", "mute": "You are silent."}


@grader
def test_extract_persona_vectors(
    extract_persona_vectors: Callable[..., dict[str, Tensor]],
    model: Any,
    tokenizer: Any,
    d_model: int,
    num_layers: int,
) -> None:
    """Means over kept answers only: scores at or above the threshold, no empty ones (unscored ones are not graded)."""
    if on_tiny_models():
        _check_kept(extract_persona_vectors)
    if model is not None:
        _check_your_vectors(extract_persona_vectors, model, tokenizer)


def _check_your_vectors(function: Callable[..., Any], model: Any, tokenizer: Any) -> None:
    """Two answers of one persona, on the notebook's own model."""
    personas, kept = {"pirate": _PERSONAS["pirate"]}, {"pirate": [0, 1]}
    responses = {("pirate", 0): "Arr, matey!", ("pirate", 1): "The moon pulls on the sea."}
    found = function(model, tokenizer, personas, _QUESTIONS[:2], responses, layer=1)
    _check_vectors(found, model, tokenizer, personas, _QUESTIONS[:2], responses, kept, 1, "your model")


def _check_kept(extract_persona_vectors: Callable[..., dict[str, Tensor]]) -> None:
    tiny, tok = load_tiny_model("gemma2")
    questions = _QUESTIONS[:4]
    responses = {(p, i): f"{p} says {_RESPONSES[i]}" for p in ("pirate", "default", "judge") for i in range(4)}
    responses["judge", 1] = ""
    scores = {("pirate", 0): 3, ("pirate", 1): 2, ("pirate", 2): 3, ("pirate", 3): 0} | {
        (p, i): 3 for p in ("default", "judge") for i in range(4)
    }
    kept = {"pirate": [0, 2], "default": [0, 1, 2, 3], "judge": [0, 2, 3]}
    personas = {name: _PERSONAS[name] for name in kept}

    found = extract_persona_vectors(tiny, tok, personas, questions, responses, layer=2, scores=scores)
    _check_vectors(found, tiny, tok, personas, questions, responses, kept, 2, "with scores")

    found = extract_persona_vectors(
        tiny, tok, personas, questions, responses, layer=2, scores=scores, score_threshold=2
    )
    _check_vectors(
        found, tiny, tok, personas, questions, responses, kept | {"pirate": [0, 1, 2]}, 2, "with score_threshold=2"
    )

    found = extract_persona_vectors(tiny, tok, personas, questions, responses, layer=3)
    every = {"pirate": [0, 1, 2, 3], "default": [0, 1, 2, 3], "judge": [0, 2, 3]}
    _check_vectors(found, tiny, tok, personas, questions, responses, every, 3, "without scores")

    _check_nobody_left(extract_persona_vectors, tiny, tok, questions, responses)


def _check_vectors(
    found: Any,
    model: Any,
    tok: Any,
    personas: dict[str, str],
    questions: list[str],
    responses: dict[tuple[str, int], str],
    kept: dict[str, list[int]],
    layer: int,
    what: str,
) -> None:
    check(isinstance(found, dict), f"{what}: expected a dict by persona, found {type(found).__name__}.")
    check(list(found) == list(personas), f"{what}: expected the personas {list(personas)}, found {list(found)}.")
    for name, indices in kept.items():
        vector = check_tensor(found[name], (width_of(model),), f"{what}: the vector of {name!r}")
        # (acceptable ends, answers, d), and the answers' tokens
        means, tokens = _answers(model, tok, personas[name], questions, responses, name, layer)
        all_of_them = [i for i in range(len(questions)) if responses[name, i]]
        subsets = {
            "the scores are ignored: every answer is averaged": all_of_them,
            "the threshold is exclusive: keep scores >= score_threshold, not >": indices[1:],
            "the last kept answer is missing": indices[:-1],
        }
        mistakes: dict[str, Callable[[], Tensor | list[Tensor]]] = {
            why: partial(_means_over, means, which) for why, which in subsets.items() if which and which != indices
        }
        mistakes["you average over all tokens of all answers, so long ones count more: take one mean an answer"] = (
            partial(_token_mean, tokens, indices)
        )
        right, where = _means_over(means, indices), f"{what}: the vector of {name!r} (mean over answers {indices})"
        check_close(vector, right, where, mistakes, tolerance(model.dtype))


def _answers(
    model: Any,
    tok: Any,
    system: str,
    questions: list[str],
    responses: dict[tuple[str, int], str],
    name: str,
    layer: int,
) -> tuple[Float[Tensor, "ends n d"], list[Float[Tensor, "tokens d"]]]:
    """Mean over each answer under each acceptable convention for where it ends, and its tokens' activations."""
    means, tokens = [], []
    for i, question in enumerate(questions):
        ids, accepted = oracles.spans(oracles.messages(system, question, responses[name, i] or "-"), tok)
        states = oracles.hidden(model, ids, layer).double()
        means.append(torch.stack([states[a:b].mean(0) for a, b in accepted]))
        tokens.append(states[slice(*accepted[0])])
    return torch.stack(means, dim=1), tokens


def _token_mean(tokens: list[Float[Tensor, "tokens d"]], which: list[int]) -> Float[Tensor, "d"]:
    return torch.cat([tokens[i] for i in which]).mean(0)


def _means_over(means: Float[Tensor, "ends n d"], which: list[int]) -> list[Float[Tensor, "d"]]:
    return [rows[which].mean(0) for rows in means]


def _check_nobody_left(
    function: Callable[..., Any], model: Any, tok: Any, questions: list[str], responses: dict[tuple[str, int], str]
) -> None:
    responses = responses | {("mute", i): "" for i in range(len(questions))}
    personas = {"pirate": _PERSONAS["pirate"], "mute": _PERSONAS["mute"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = function(model, tok, personas, questions, responses, layer=2)
        except ValueError as error:
            check("mute" in str(error), f"A persona without answers raised {error!r}, which does not name it ('mute').")
            return
        except Exception as error:
            raise AssertionError(
                "A persona whose answers are all empty ended in "
                f"{type(error).__name__} ({error}). Leave it out with a warning, or raise a ValueError that names it."
            ) from error
    check(
        "mute" not in found,
        "A persona whose answers are all empty got a vector (NaN or invented). Leave it out with a warning, or raise a "
        "ValueError that names it.",
    )
