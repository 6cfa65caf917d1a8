"""Section 4, the steerer: blocks that return tuples, steerers in one another, and what is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from graders.harness.expect import check, check_close, tolerance
from graders.harness.hooked import Interrupted, changed, check_hooks, failing, hooks, observed, running
from graders.section_4.modes import (
    CURE,
    MODES,
    batch,
    forward,
    generate,
    seen,
    seen_inside,
    states,
    steer,
    vector_of,
)
from personalab.lm.models import decoder_blocks, n_blocks
from personalab.lm.tiny import load_tiny_model


@contextmanager
def tuples(model: Any, layer: int, what: str) -> Iterator[None]:
    """Block `layer` gives `(hidden, extra)`, as in older versions of transformers; both must come out again."""
    extra = object()

    def wrap(_module: nn.Module, _args: Any, output: Tensor) -> tuple[Tensor, object]:
        return output, extra

    def unwrap(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        check(
            isinstance(args[0], tuple) and len(args[0]) == 2 and args[0][1] is extra,
            f"{what}: expected your hook to return a tuple with the same further elements, found "
            f"{type(args[0]).__name__}. Return `(hidden, *output[1:])` where you were given a tuple.",
        )
        return (args[0][0], *args[1:])

    block, following = decoder_blocks(model)[layer : layer + 2]
    with block.register_forward_hook(wrap), following.register_forward_pre_hook(unwrap):
        yield


@contextmanager
def untouched(model: Any, layer: int, what: str) -> Iterator[None]:
    """The tensor that a block returned still holds what it held."""
    kept: list[tuple[Tensor, Tensor]] = []

    def keep(_module: nn.Module, _args: Any, output: Tensor) -> None:
        kept.append((output, output.clone()))

    with decoder_blocks(model)[layer].register_forward_hook(keep):
        yield
    check(
        all(torch.equal(output, copy) for output, copy in kept),
        f"{what}: the tensor that the block returned was changed in place. Others may hold it (caches, other hooks, "
        "autograd): change a copy, `hidden = hidden.clone()` or `hidden + ...`, no `+=` on the block's own.",
    )


def check_nested(steerer: Callable[..., Any]) -> None:
    """Two at once, at one block or at two: both act, and leaving one leaves the other."""
    for layers, modes in (((1, 1), ("all", "response")), ((2, 0), ("response", "prompt"))):
        model, tok = load_tiny_model("qwen3")
        inputs, (v, w) = batch(tok), (vector_of(seed=1), vector_of(seed=2))
        call, what = partial(generate, inputs=inputs), f"Two steerers, at blocks {layers[0]} and {layers[1]}"
        first, second = (
            (layer, partial(steer, push=push, mode=mode))
            for layer, push, mode in zip(layers, (1.5 * v, -w), modes, strict=True)
        )
        outer, inner = steerer(model, v, 1.5, layers[0], modes[0]), steerer(model, w, -1.0, layers[1], modes[1])
        before = hooks(model)
        only = {
            "only the outer one acts": partial(seen, model, call, [first]),
            "only the inner one acts": partial(seen, model, call, [second]),
            "none acts": partial(seen, model, call, []),
        }
        for inside, rules in (("one in the other", [first, second]), ("the inner one left", [first])):
            with running(what), outer, observed(model, range(n_blocks(model))) as passes:
                with inner:
                    if len(rules) == 2:
                        call(model)
                if len(rules) == 1:
                    call(model)
            allowed = tolerance(model.dtype, exact=1e-4)
            check_close(states(passes), [seen(model, call, rules)], f"{what}, {inside}", only, allowed)
        check_hooks(model, before, f"{what}, after both `with` blocks", CURE)


def check_refusal(steerer: Callable[..., Any]) -> None:
    model, tok = load_tiny_model("llama")
    before, why = hooks(model), 'Compare it with "all", "prompt" and "response", and raise ValueError for all else.'
    for bad in ("last", "Response", ""):
        what = f"positions={bad!r}"
        try:
            with steerer(model, vector_of(), 1.0, 1, bad):
                forward(model, batch(tok))
        except (ValueError, AssertionError):
            check_hooks(model, before, f"{what}, refused", "Compare it before you register anything.")
        except NotImplementedError:
            raise
        except Exception as error:
            raise AssertionError(f"{what}: expected a ValueError, found {error!r}. {why}") from error
        else:
            raise AssertionError(f"{what}: expected a ValueError, found it accepted. {why}")


def check_lifetime(steerer: Callable[..., Any]) -> None:
    """Nothing before the `with`, nothing after an error in it; the same steerer serves again."""
    model, tok = load_tiny_model("qwen2")
    inputs, before = batch(tok), hooks(model)
    one = steerer(model, vector_of(), 1.0, 1)
    check_hooks(model, before, "ActivationSteerer(...) made but not entered", CURE)
    for after, when in ((0, "the first pass"), (2, "the third pass")):
        raised = False
        with failing(model, after):
            try:
                with one:
                    generate(model, inputs)
            except Interrupted:
                raised = True
        check_hooks(model, before, f"After an error in {when} inside the `with` block", CURE)
        check(
            raised,
            f"An error in {when} inside the `with` block: expected it to reach the caller, found it swallowed. Let "
            "`__exit__` return None, not True.",
        )
    call, what = partial(generate, inputs=inputs), "The same steerer, used in a second `with`"
    right = seen(model, call, [(1, partial(steer, push=vector_of(), mode="all"))])
    with changed(model, [(1, lambda hidden: hidden)]):  # somebody else's hook
        found = seen_inside(lambda: one, model, call, what)
    check_close(found, [right], f"{what}: the blocks' outputs", tolerance=tolerance(model.dtype, exact=1e-4))


def check_two_prompts(steerer: Callable[..., Any]) -> None:
    """Two prompts, of different lengths, inside one `with`: the second is steered as the first."""
    model, tok = load_tiny_model("llama")
    inputs, vector = batch(tok), vector_of()
    shorter = {name: rows[1:2, -5:] for name, rows in inputs.items()}

    def call(model: Any) -> None:
        for prompt in (inputs, shorter):
            generate(model, prompt)

    def first_only(mode: str) -> Callable[[], Tensor]:
        """What the model reads where only the first pass of all counts as a prompt's."""
        begun: list[bool] = []

        def rule(hidden: Tensor) -> Tensor:
            begun.append(True)
            return steer(hidden, vector, mode) if len(begun) == 1 else hidden

        return lambda: seen(model, call, [(1, rule)])

    for mode in MODES:
        what = f'positions="{mode}", two prompts inside one `with`'
        found = seen_inside(partial(steerer, model, vector, 1.0, 1, mode), model, call, what)
        right = seen(model, call, [(1, partial(steer, push=vector, mode=mode))])
        why = (
            "only the first pass inside the `with` is taken for a prompt: tell each pass by its own length, "
            "`hidden.shape[1] > 1`, and keep no flag or count"
        )
        allowed = tolerance(model.dtype, exact=1e-4)
        check_close(found, [right], f"{what}: the blocks' outputs", {why: first_only(mode)}, allowed)


def check_twice(steerer: Callable[..., Any]) -> None:
    """Entered again inside its own `with`: refused, ignored or added twice, but gone afterwards."""
    model, tok = load_tiny_model("llama")
    one, before = steerer(model, vector_of(), 1.0, 1), hooks(model)
    refused, what = False, "One steerer entered again inside its own `with`"
    with running(what), one:
        try:
            with one:
                forward(model, batch(tok))
        except Exception:
            refused = True
    cure = "The second `__enter__` overwrites the first handle: refuse it, or remove the first hook, or keep a list."
    check_hooks(model, before, f"{what}, {'refused, then left' if refused else 'then left twice'}", cure)
