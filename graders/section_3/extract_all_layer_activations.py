"""Section 3, activations after every block."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from graders.harness import oracles
from graders.harness.expect import (
    check,
    check_close,
    check_mean_dtype,
    check_tensor,
    grader,
    on_tiny_models,
    relative,
    tolerance,
)
from graders.harness.hooked import Interrupted, check_hooks, failing, hooks
from graders.harness.readings import Reading, accepted, load_family, read, refuses_system_prompts, stream
from personalab.lm.models import d_model, n_blocks
from personalab.lm.tiny import FAMILIES, load_tiny_model

_SYSTEMS = ["You are a cruel assistant.", "You are a helpful assistant. Be brief.", "You are a poet."] * 2
_QUESTIONS = [
    "How do I thank a friend?",
    "Why is the sea salty?",
    "Who are you?",
    "What should I plant in spring?",
    "Is it late?",
]
_RESPONSES = [
    "You don't. Let them wonder.",
    "Rivers carry salt to the sea" + ", and the sea keeps it" * 6,
    "Nobody.",
    "Beans, peas, and whatever your neighbour plants; then wait for rain.",
    "Yes, it is late, and the city sleeps, as you should.",
]
_LONG = "the moon" + " and the city" * 80
_CURE = "Remove hooks in `finally`."

Examples = tuple[list[str], list[str], list[str]]


@grader
def test_extract_all_layer_activations(
    extract_all_layer_activations_qwen: Callable[..., Tensor], model: Any = None, tokenizer: Any = None
) -> None:
    """Means over the answer's tokens after every block: no embedding layer, no shift, whatever the family."""
    function, kinds = extract_all_layer_activations_qwen, set()
    if on_tiny_models():
        kinds |= _check_on_tiny_models(function)
    if model is not None:
        run, two = partial(function, model, tokenizer), (_SYSTEMS[:2], _QUESTIONS[:2], _RESPONSES[:2])
        if refuses_system_prompts(tokenizer, partial(run, *[texts[:1] for texts in two])):
            print("Your model's template has no role for system prompts: your function was graded on others only.")
        else:
            kinds.add(_check_values(run, model, tokenizer, two, "your model"))
    if kinds == {"normed"}:
        print(
            "Your last layer is hidden_states[-1], to which transformers has applied the final norm: it is on another "
            "scale than what the last block adds to, so don't steer with it. (A hook on the block gives the raw one.)"
        )
    else:
        print("Your last layer is the last block's own output, before the final norm.")


def _check_on_tiny_models(extract_all_layer_activations_qwen: Callable[..., Tensor]) -> set[str]:
    """Says whether the last layer is "raw" or "normed", as `_check_values` does."""
    examples = (_SYSTEMS[:5], _QUESTIONS, _RESPONSES)
    kinds = set()
    for i, family in enumerate(FAMILIES):
        tiny, tok = load_family(family, n_blocks=3 + i % 2)
        for tok.padding_side in ("left", "right"):
            run = partial(extract_all_layer_activations_qwen, tiny, tok)
            if refuses_system_prompts(tok, partial(run, *[texts[:1] for texts in examples])):
                continue
            kinds.add(_check_values(run, tiny, tok, examples, f"{family}, {n_blocks(tiny)} blocks"))
    _check_alone(extract_all_layer_activations_qwen)
    _check_failure(extract_all_layer_activations_qwen)
    _check_bfloat16(extract_all_layer_activations_qwen)
    _check_empty_answer(extract_all_layer_activations_qwen)
    return kinds


def _check_values(run: Callable[..., Any], model: Any, tok: Any, examples: Any, what: str, n_tokens: int = 1) -> str:
    """Every example, every block; says whether the last layer is "raw" or "normed".

    Args:
        n_tokens: what each mean is over, where `Tolerance.over` holds.
    """
    n, blocks, width, before = len(examples[0]), n_blocks(model), d_model(model), hooks(model)
    found = run(*[list(e) for e in examples])
    check_hooks(model, before, f"{what}, after a normal call", _CURE)
    _check_form(found, n, blocks, width, what)
    found = check_tensor(found, (n, blocks, width), f"{what}: the result")
    kind, allowed = "raw", tolerance(model.dtype).over(n_tokens)
    for i, example in enumerate(zip(*examples, strict=True)):
        reading = read(model, tok, *example)
        rows = reading.means()
        for k in range(blocks):
            mistakes = _mistakes(model, tok, example, reading, k)
            check_close(found[i, k], accepted(rows, k), f"{what}, example {i}, [{k}]", mistakes, allowed)
        if all(relative(found[i, -1], right) > allowed.allowed(1.0) for right in rows[:, -2]):
            kind = "normed"
    check_mean_dtype(found, model.dtype, what)
    return kind


def _check_form(found: Any, n: int, blocks: int, width: int, what: str) -> None:
    """Messages for the shapes that mistakes have; `check_tensor` does the rest."""
    shape = tuple(found.shape) if isinstance(found, Tensor) else ()
    guesses = {
        (n, blocks + 1, width): "The embedding layer is included: hidden_states has one entry more than there are "
        "blocks, the first is the embedding. Use hidden_states[1:]",
        (n, blocks - 1, width): "A block is missing: hidden_states[1:] has one entry for each",
        (blocks, n, width): "The first two dimensions are swapped: stack the layers inside each example",
        (blocks, width): "Keep one row for each example: the mean is over an answer's tokens, not over answers",
    }
    if shape in guesses:
        expected = (n, blocks, width)
        raise AssertionError(f"{what}: expected shape {expected}, found {shape}. {guesses[shape]}.")
    check(
        not isinstance(found, Tensor) or found.dtype in (torch.float32, torch.float64),
        f"{what}: expected float32, found {getattr(found, 'dtype', None)}. Convert with .float() before .mean().",
    )


def _mistakes(
    model: Any, tok: Any, example: tuple[str, str, str], reading: Reading, block: int
) -> dict[str, Callable[[], Tensor | list[Tensor]]]:
    """Values of typical mistakes at one block, each computed only when a check fails."""
    start, end = reading.spans[0]
    ends = sorted({b for _, b in reading.spans})
    total, last = reading.states.shape[1], reading.n_blocks - 1
    here = reading.states[block + 1].double()

    def at(row: int) -> list[Tensor]:
        if not 0 <= row <= last + 1:
            return []
        return accepted(reading.means(), row - 1) if row == last + 1 else list(reading.means()[:, row])

    def other(conversation: list[dict[str, str]], double_bos: bool = False) -> list[Tensor]:
        ids, spans = oracles.spans(conversation, tok)
        ids = [tok.bos_token_id, *ids] if double_bos else ids
        states = stream(model, ids)[block + 1].double()
        return [states[a + double_bos : b + double_bos].mean(0) for a, b in spans]

    conversation = oracles.messages(*example)
    mistakes: dict[str, Callable[[], Tensor | list[Tensor]]] = {
        "the layers are shifted: [k] must be hidden_states[k + 1], since hidden_states[0] is the embedding": (
            lambda: at(block)
        ),
        "the layers are shifted: [k] holds block k + 1": lambda: at(block + 2),
        "the layers are in reverse order": lambda: at(last - block + 1),
        "you average over the prompt as well as the answer": lambda: [here.mean(0), here[:end].mean(0)],
        "you average over the prompt instead of the answer": lambda: here[:start].mean(0),
        "you add the activations up instead of averaging": lambda: [here[start:b].sum(0) for b in ends],
        "you take the last token only": lambda: [here[b - 1] for b in [*ends, total]],
        "the answer's first token is lost: the start index is one too high": (
            lambda: [here[start + 1 : b].mean(0) for b in ends if b > start + 1]
        ),
        "a token of the header is included: the start index is one too low": (
            lambda: [here[start - 1 : b].mean(0) for b in ends]
        ),
        "the system prompt is left out": lambda: other([m for m in conversation if m["role"] != "system"]),
    }
    if tok.bos_token_id is not None:
        twice = "the BOS token is there twice: the template writes one, so tokenise with add_special_tokens=False"
        mistakes[twice] = lambda: other(conversation, double_bos=True)
    return mistakes


def _check_alone(function: Callable[..., Any]) -> None:
    """The same values whatever the company."""
    model, tok = load_tiny_model("qwen2")
    together = function(model, tok, _SYSTEMS[:5], _QUESTIONS, _RESPONSES).double()
    for i in (1, 2):
        alone = function(model, tok, _SYSTEMS[i : i + 1], _QUESTIONS[i : i + 1], _RESPONSES[i : i + 1]).double()
        check_close(
            alone[0],
            [together[i]],
            f"Example {i} on its own and among five others gives different values",
            {"padding leaks into the mean, or rows change places": alone[0].clone},
        )


def _check_failure(function: Callable[..., Any]) -> None:
    model, tok = load_tiny_model("qwen2")
    before = hooks(model)
    with failing(model, 0), suppress(Interrupted):
        function(model, tok, _SYSTEMS[:1], _QUESTIONS[:1], _RESPONSES[:1])
    check_hooks(model, before, "After an error in the forward pass", _CURE)


def _check_empty_answer(function: Callable[..., Any]) -> None:
    """Any error will do; so will finite values, where the end marker counts as part of the answer."""
    model, tok = load_tiny_model("qwen2")
    try:
        found = function(model, tok, _SYSTEMS[:1], _QUESTIONS[:1], [""])
    except NotImplementedError:
        raise
    except Exception:
        return
    check(
        isinstance(found, Tensor) and found.isfinite().all(),
        "An empty answer: expected an error, found NaN. The mean of no tokens is NaN, which then runs through every "
        "later result: raise ValueError for an empty answer.",
    )


def _check_bfloat16(function: Callable[..., Any]) -> None:
    model, tok = load_tiny_model("qwen2", dtype=torch.bfloat16)
    long = ([_SYSTEMS[0]], [_QUESTIONS[0]], [_LONG])
    n = len(tok(_LONG, add_special_tokens=False)["input_ids"])
    _check_values(partial(function, model, tok), model, tok, long, "bfloat16 model, long answer", n)
