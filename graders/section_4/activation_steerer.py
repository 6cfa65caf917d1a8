"""Section 4, the steerer: which positions of which passes it changes, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from graders.harness.cases import Case, attempt, grader
from graders.harness.expect import Tolerance, on_tiny_models, tolerance
from graders.harness.hook_cases import (
    Context,
    Hidden,
    HookCase,
    Rules,
    batch,
    forward,
    generate,
    inside,
    left_case,
    lifetime_cases,
    refused_case,
    tensor_kept,
    tuple_out,
    two_rows,
)
from graders.harness.hooked import changed
from graders.harness.steered import vector_of
from personalab.lm.models import d_model, n_blocks
from personalab.lm.tiny import FAMILIES, load_tiny_model

MODES = {
    "all": "every position of every pass",
    "prompt": "all positions of a pass of several, none while decoding",
    "response": "the last position of each pass",
}
_CURES = (
    "Keep the handle that `register_forward_hook` gives in `__enter__`, and call its `remove()` in `__exit__`.",
    "you changed `steering_vector` in place. Write `coeff * vector`, no `*=`.",
)
_REFUSE = 'Compare it with "all", "prompt" and "response", and raise ValueError for all else.'
_EXACTLY = Tolerance(0.0, 0.0, torch.float32)


@grader
def test_activation_steerer(model: Any = None, tokenizer: Any = None) -> Iterator[Case]:
    """`coeff * vector` at the positions asked for, in every row, at one block, and only inside the `with`."""
    if on_tiny_models():
        for i, family in enumerate(FAMILIES):
            layer, coeff = (1, 0, 2, 3, 1)[i], (1.5, -0.7, 2.0, -1.5, 3.0)[i]
            for mode in MODES:
                yield from _values(family, layer, coeff, mode)
        yield _defaults()
        yield from _surroundings()
        yield from _dtypes()
        yield from _lifetime()
        yield from _nested()
        yield from _two_prompts()
        yield _twice()
    if model is not None:
        layer, vector = n_blocks(model) // 2, vector_of(d_model(model))
        options: dict[str, Any] = {"watch": [layer], "first": 1, "tolerance": tolerance(model.dtype, exact=1e-4)}
        for mode in MODES:
            options["mistakes"] = _mistakes(vector, layer, 8.0, mode)
            what, call = f"your model, layer={layer}", partial(forward, inputs=two_rows(model))
            yield _steered(what, model, call, vector, 8.0, layer, mode, **options)


def steer(hidden: Hidden, push: Tensor, mode: str) -> Hidden:
    """The oracle, for one pass: a prompt is read in a pass of several positions, a new token in a pass of one."""
    push, out = push.to(hidden), hidden.clone()
    if mode == "all" or (mode == "prompt" and hidden.shape[1] > 1):
        out += push
    elif mode == "response":
        out[:, -1] += push
    return out


def _on_the_first_row(hidden: Hidden, push: Tensor, mode: str) -> Hidden:
    return torch.cat([steer(hidden[:1], push, mode), hidden[1:]])


def _last_of(hidden: Hidden, push: Tensor, prefill: bool) -> Hidden:
    return steer(hidden, push, "response") if (hidden.shape[1] > 1) == prefill else hidden


def _but_last(hidden: Hidden, push: Tensor) -> Hidden:
    return torch.cat([hidden[:, :-1] + push.to(hidden), hidden[:, -1:]], dim=1)


def _rules(push: Tensor, layer: int, mode: str = "all") -> Rules:
    return [(layer, partial(steer, push=push, mode=mode))]


def _mistakes(vector: Tensor, layer: int, coeff: float, mode: str) -> dict[str, Rules]:
    push = coeff * vector

    def by(rule: Callable[..., Hidden], **options: Any) -> Rules:
        return [(layer, partial(rule, push=push, **options))]

    mixed = {
        f'it acts as positions="{other}" ({meaning}); "{mode}" is {MODES[mode]}': by(steer, mode=other)
        for other, meaning in MODES.items()
        if other != mode
    }
    return {
        "nothing is added: the hook returns nothing, or is not in force": _rules(0 * vector, layer),
        **mixed,
        "only new tokens' passes are steered: in the prompt's pass, the last position counts too": (
            by(_last_of, prefill=False)
        ),
        "only the last position of the prompt is steered, in no later pass": by(_last_of, prefill=True),
        "the last position of each pass is left out": by(_but_last),
        "only the first row of the batch is steered: a block's output is a plain tensor, so output[0] is row 0": (
            by(_on_the_first_row, mode=mode)
        ),
        "coeff is ignored: add coeff * vector": _rules(vector, layer, mode),
        "the sign is wrong: it must be + coeff * vector": _rules(-push, layer, mode),
        "the vector is normalised first: add coeff * vector as it is": _rules(push / vector.norm(), layer, mode),
        "the vector is added twice: two hooks, or one that adds in place and returns a sum": (
            _rules(2 * push, layer, mode)
        ),
        "block layer + 1 is steered: off by one, since `layer` is a block index here": _rules(push, layer + 1, mode),
        "block layer - 1 is steered: off by one, since `layer` is a block index here": _rules(push, layer - 1, mode),
    }


def _steered(
    what: str,
    model: Any,
    call: Callable[[Any], Any],
    vector: Tensor,
    coeff: float,
    layer: int,
    mode: str,
    **options: Any,
) -> Case:
    options = {"rules": _rules(coeff * vector, layer, mode)} | options
    what = f'{what}, positions="{mode}"'
    return HookCase(
        what, model, call, lambda cls, v: cls(model, v, coeff, layer, mode), given=(vector,), cures=_CURES, **options
    ).case()


def _values(family: str, layer: int, coeff: float, mode: str) -> Iterator[Case]:
    tiny, tok = load_tiny_model(family)
    vector, inputs, what = vector_of(seed=layer), batch(tok), f"{family}, layer={layer}"
    mistakes = _mistakes(vector, layer, coeff, mode)
    call = partial(generate, inputs=inputs)
    yield _steered(
        f"{what}, coeff={coeff}, generation of 3 rows", tiny, call, vector, coeff, layer, mode, mistakes=mistakes
    )
    zero = {
        "a 0 counts as missing: no default in place of it (`coeff or 1.0`)": _rules(vector, layer, mode),
        "coeff is ignored: add coeff * vector": _rules(vector, layer, mode),
    }
    what += ", coeff=0.0 (exactly the model without steering: add coeff * vector, and scale nothing)"
    options: dict[str, Any] = {"rules": [], "mistakes": zero, "tolerance": _EXACTLY}
    yield _steered(what, tiny, partial(forward, inputs=inputs), vector, 0.0, layer, mode, **options)


def _defaults() -> Case:
    """On a model that has a block 19."""
    tiny, tok = load_tiny_model("qwen2", n_blocks=21)
    vector = vector_of()
    expected = "expected coeff=1.0, layer=19, positions='all'"
    others: dict[str, Rules] = {
        f"`positions` has another default: {expected}": _rules(vector, 19, "response"),
        f"`layer` has another default, one less: {expected}": _rules(vector, 18),
        f"`layer` has another default, one more: {expected}": _rules(vector, 20),
        f"`coeff` has another default: {expected}": _rules(0 * vector, 19),
    }
    what, call = "ActivationSteerer(model, steering_vector)", partial(forward, inputs=batch(tok))
    return HookCase(
        what, tiny, call, lambda cls: cls(tiny, vector), _rules(vector, 19), others, cures=_CURES, watch=[18, 19]
    ).case()


def _surroundings() -> Iterator[Case]:
    tiny, tok = load_tiny_model("llama")
    call = partial(generate, inputs=batch(tok))
    for mode in MODES:
        for what, around in (
            ("a block that returns a tuple", tuple_out),
            ("a block that returns a tensor", tensor_kept),
        ):
            yield _steered(what, tiny, call, vector_of(), 2.0, 1, mode, around=partial(around, tiny, 1))


def _dtypes() -> Iterator[Case]:
    """A vector of another dtype than the model's; the hidden states keep theirs."""
    for dtype, other in (
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float64),
        (torch.float32, torch.bfloat16),
    ):
        tiny, tok = load_tiny_model("llama", dtype=dtype)
        vector, what = vector_of().to(other), f"{str(dtype)[6:]} model, {str(other)[6:]} vector"
        call, near = partial(forward, inputs=batch(tok)), tolerance(dtype, other, exact=1e-4)
        for mode in MODES:
            rules = _rules(1.5 * vector.float(), 1, mode)
            yield _steered(what, tiny, call, vector, 1.5, 1, mode, rules=rules, tolerance=near)


@contextmanager
def _after_another(context: Context) -> Iterator[None]:
    with context:
        pass
    with context:
        yield


def _lifetime() -> Iterator[Case]:
    """Other positions are refused; nothing before the `with`, nothing after an error; the same steerer serves again."""
    tiny, tok = load_tiny_model("qwen2")
    vector, inputs = vector_of(), batch(tok)
    call = partial(generate, inputs=inputs)
    for bad in ("last", "Response", ""):
        make = partial(_at, tiny, vector, bad)
        yield refused_case(f"positions={bad!r}", tiny, make, _REFUSE, partial(forward, inputs=inputs))
    yield from lifetime_cases(tiny, call, partial(_at, tiny, vector, "all"), _CURES[0])
    yield HookCase(
        "The same steerer, used in a second `with`",
        tiny,
        call,
        lambda cls: _after_another(cls(tiny, vector, 1.0, 1)),
        _rules(vector, 1),
        cures=_CURES,
        around=partial(changed, tiny, [(1, lambda hidden: hidden)]),  # somebody else's hook
    ).case()


def _at(model: Any, vector: Tensor, mode: str, steerer: Callable[..., Context]) -> Context:
    return steerer(model, vector, 1.0, 1, mode)


@contextmanager
def _two(steerer: Any, model: Any, first: tuple[Any, ...], second: tuple[Any, ...], leave: bool) -> Iterator[None]:
    outer, inner = steerer(model, *first), steerer(model, *second)
    with outer:
        with inner:
            if not leave:
                yield
        if leave:
            yield


def _nested() -> Iterator[Case]:
    """Two at once, at one block or at two: both act, and leaving one leaves the other."""
    v, w = vector_of(seed=1), vector_of(seed=2)
    tiny, tok = load_tiny_model("qwen3")
    call = partial(generate, inputs=batch(tok))
    for k, m, mode, other in ((1, 1, "all", "response"), (2, 0, "response", "prompt")):
        make = partial(_two, model=tiny, first=(v, 1.5, k, mode), second=(w, -1.0, m, other))
        first, second = _rules(1.5 * v, k, mode), _rules(-w, m, other)
        only: dict[str, Rules] = {"only the outer one acts": first, "only the inner one acts": second, "none acts": []}
        what = f"Two steerers, at blocks {k} and {m}"
        for name, leave, rules in (("one in the other", False, [*first, *second]), ("the inner one left", True, first)):
            inside = partial(make, leave=leave)
            yield HookCase(f"{what}, {name}", tiny, call, inside, rules, only, cures=_CURES).case()


def _first_only(vector: Tensor, mode: str) -> Rules:
    """Only the first pass of all counts as a prompt's."""
    begun: list[bool] = []

    def rule(hidden: Hidden) -> Hidden:
        begun.append(True)
        return steer(hidden, vector, mode) if len(begun) == 1 else hidden

    return [(1, rule)]


def _two_prompts() -> Iterator[Case]:
    """Two prompts, of different lengths, inside one `with`: the second is steered as the first."""
    tiny, tok = load_tiny_model("llama")
    inputs, vector = batch(tok), vector_of()
    shorter = {name: rows[1:2, -5:] for name, rows in inputs.items()}
    why = (
        "only the first pass inside the `with` is taken for a prompt: tell each pass by its own length, "
        "`hidden.shape[1] > 1`, and keep no flag or count"
    )

    def call(model: Any) -> None:
        for prompt in (inputs, shorter):
            generate(model, prompt)

    for mode in MODES:
        what, only = f'positions="{mode}", two prompts inside one `with`', {why: _first_only(vector, mode)}
        make, rules = partial(_at, tiny, vector, mode), _rules(vector, 1, mode)
        yield HookCase(what, tiny, call, make, rules, only, cures=_CURES).case()


def _twice() -> Case:
    """Entered again inside its own `with`: refused, ignored or added twice, but gone afterwards."""
    tiny, tok = load_tiny_model("llama")
    cure = "The second `__enter__` overwrites the first handle: refuse it, or remove the first hook, or keep a list."

    def run(steerer: Any) -> None:
        one = steerer(tiny, vector_of(), 1.0, 1)
        with one:
            attempt(partial(inside, one, partial(forward, tiny, batch(tok))))

    return left_case("One steerer entered again inside its own `with`, and left", tiny, run, cure)
