"""Section 4, the steerer: which positions of which passes it changes, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from graders.harness.expect import check, check_close, grader, on_tiny_models, tolerance
from graders.section_4.modes import MODES, batch, forward, generate, mistakes, seen, seen_inside, steer, vector_of
from graders.section_4.steerer_lifetime import (
    check_lifetime,
    check_nested,
    check_refusal,
    check_twice,
    check_two_prompts,
    tuples,
    untouched,
)
from personalab.lm.models import n_blocks
from personalab.lm.tiny import FAMILIES, load_tiny_model


@grader
def test_activation_steerer(ActivationSteerer: Callable[..., Any], model: Any = None, tokenizer: Any = None) -> None:
    """`coeff * vector` at the positions asked for, in every row, at one block, and only inside the `with`."""
    if on_tiny_models():
        _check_on_tiny_models(ActivationSteerer)
    if model is not None:
        _check_yours(ActivationSteerer, model)


def _check_on_tiny_models(ActivationSteerer: Callable[..., Any]) -> None:
    for i, family in enumerate(FAMILIES):
        tiny, tok = load_tiny_model(family)
        layer, coeff = (1, 0, 2, 3, 1)[i], (1.5, -0.7, 2.0, -1.5, 3.0)[i]
        for mode in MODES:
            _check_steered(ActivationSteerer, tiny, batch(tok), layer, coeff, mode, family)
            _check_zero(ActivationSteerer, tiny, batch(tok), layer, mode, family)
    _check_defaults(ActivationSteerer)
    _check_surroundings(ActivationSteerer)
    _check_dtypes(ActivationSteerer)
    check_refusal(ActivationSteerer)
    check_lifetime(ActivationSteerer)
    check_nested(ActivationSteerer)
    check_two_prompts(ActivationSteerer)
    check_twice(ActivationSteerer)


def _check_steered(
    steerer: Callable[..., Any],
    model: Any,
    inputs: dict[str, Tensor],
    layer: int,
    coeff: float,
    mode: str,
    family: str,
) -> None:
    what = f'{family}, layer={layer}, coeff={coeff}, positions="{mode}"'
    vector, call = vector_of(seed=layer), partial(generate, inputs=inputs)
    given = vector.clone()
    found = seen_inside(
        partial(steerer, model, given, coeff, layer, mode), model, call, f"{what}, generation of 3 rows"
    )
    check(
        torch.equal(given, vector),
        f"{what}: you changed `steering_vector` in place. Write `coeff * vector`, no `*=`.",
    )
    right = seen(model, call, [(layer, partial(steer, push=coeff * vector, mode=mode))])
    check_close(
        found,
        [right],
        f"{what}, generation of 3 rows: the blocks' outputs",
        mistakes(model, call, vector, layer, coeff, mode),
        tolerance(model.dtype, exact=1e-4),
    )


def _check_zero(
    steerer: Callable[..., Any], model: Any, inputs: dict[str, Tensor], layer: int, mode: str, family: str
) -> None:
    what = f'{family}, layer={layer}, coeff=0.0, positions="{mode}"'
    call = partial(forward, inputs=inputs)
    found = seen_inside(partial(steerer, model, vector_of(), 0.0, layer, mode), model, call, what)
    check(
        torch.equal(found, seen(model, call, [])),
        f"{what}: expected exactly the model without steering, found other values. Add coeff * vector and nothing "
        "else: no scaling of the sum, and no default in place of a 0 (`coeff or 1.0`).",
    )


def _check_defaults(steerer: Callable[..., Any]) -> None:
    """coeff=1.0, layer=19, positions="all", on a model with that many blocks."""
    model, tok = load_tiny_model("qwen2", n_blocks=21)
    inputs, vector = batch(tok), vector_of()
    call, watch, what = partial(forward, inputs=inputs), [18, 19], "ActivationSteerer(model, steering_vector)"
    wrong = {
        f"`{name}` has another default: expected coeff=1.0, layer=19, positions='all'": partial(
            seen, model, call, [(block, partial(steer, push=push, mode=mode))], watch
        )
        for name, block, push, mode in (
            ("positions", 19, vector, "response"),
            ("layer", 18, vector, "all"),
            ("layer", 20, vector, "all"),
            ("coeff", 19, 0 * vector, "all"),
        )
    }
    right = seen(model, call, [(19, partial(steer, push=vector, mode="all"))], watch)
    found = seen_inside(partial(steerer, model, vector.clone()), model, call, what, watch)
    check_close(found, [right], what, wrong, tolerance(model.dtype, exact=1e-4))


def _check_surroundings(steerer: Callable[..., Any]) -> None:
    """Blocks that return tuples; the block's own tensor; somebody else's hook."""
    model, tok = load_tiny_model("llama")
    inputs, vector = batch(tok), vector_of()
    call = partial(generate, inputs=inputs)
    for mode in MODES:
        right = seen(model, call, [(1, partial(steer, push=2 * vector, mode=mode))])
        name = f'positions="{mode}"'
        cases: dict[str, Any] = {
            f"{name}, a block that returns a tuple": tuples,
            f"{name}, a block that returns a tensor": untouched,
        }
        for what, case in cases.items():
            with case(model, 1, what):
                found = seen_inside(partial(steerer, model, vector, 2.0, 1, mode), model, call, what)
            allowed = tolerance(model.dtype, exact=1e-4)
            check_close(found, [right], f"{what}: the blocks' outputs", tolerance=allowed)


def _check_dtypes(steerer: Callable[..., Any]) -> None:
    """A vector of another dtype than the model's; the hidden states keep theirs."""
    for model_dtype, vector_dtype in (
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float64),
        (torch.float32, torch.bfloat16),
    ):
        model, tok = load_tiny_model("llama", dtype=model_dtype)
        inputs, vector = batch(tok), vector_of().to(vector_dtype)
        allowed = tolerance(model_dtype, vector_dtype, exact=1e-4)
        name = f"{str(model_dtype)[6:]} model, {str(vector_dtype)[6:]} vector"
        call = partial(forward, inputs=inputs)
        for mode in MODES:
            what = f'{name}, positions="{mode}"'
            found = seen_inside(partial(steerer, model, vector, 1.5, 1, mode), model, call, what)
            right = seen(model, call, [(1, partial(steer, push=1.5 * vector.float(), mode=mode))])
            check_close(found, [right], f"{what}: the blocks' outputs", tolerance=allowed)


def _check_yours(steerer: Callable[..., Any], model: Any) -> None:
    """One pass of the notebook's own model, two rows, a float32 vector on the CPU."""
    ids = torch.arange(100, 116, device=model.device)
    inputs = {"input_ids": torch.stack([ids, ids.flip(0)])}
    layer, call = n_blocks(model) // 2, partial(forward, inputs=inputs)
    vector = vector_of(model.get_input_embeddings().embedding_dim)
    for mode in MODES:
        what = f'your model, layer={layer}, positions="{mode}"'
        # the first position is often larger than all others together
        right = seen(model, call, [(layer, partial(steer, push=8 * vector, mode=mode))], [layer], 1)
        found = seen_inside(partial(steerer, model, vector, 8.0, layer, mode), model, call, what, [layer], 1)
        wrong, allowed = mistakes(model, call, vector, layer, 8.0, mode, [layer], 1), tolerance(model.dtype, exact=1e-4)
        check_close(found, [right], f"{what}: the block's output", wrong, allowed)
