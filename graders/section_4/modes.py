"""Section 4, shared: the three modes of a steerer as rules for one pass, and what a model reads under them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graders.harness.hooked import Pass, changed, check_hooks, hooks, observed, running
from personalab.lm.models import n_blocks

Hidden = Float[Tensor, "rows tokens d"]
Rule = Callable[[Hidden], Hidden]

CURE = "Keep the handle that `register_forward_hook` gives in `__enter__`, and call its `remove()` in `__exit__`."
MODES = ("all", "prompt", "response")
_TEXTS = ["You are a pirate. " * 3, "What is the moon?", "Tell me what you think about the sea and the city."]


def batch(tok: Any) -> dict[str, Tensor]:
    """Three rows of unequal length, padded on the left as for generation."""
    tok.padding_side = "left"
    return dict(tok(_TEXTS, return_tensors="pt", padding=True, return_token_type_ids=False))


def vector_of(width: int = 32, seed: int = 0) -> Float[Tensor, "d"]:
    """About as long as a tiny model's activations, and of no particular norm."""
    return 1.3 * torch.randn(width, generator=torch.Generator().manual_seed(seed))


def generate(model: Any, inputs: dict[str, Tensor]) -> Any:
    return model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)


@torch.inference_mode()
def forward(model: Any, inputs: dict[str, Tensor]) -> Any:
    return model(**inputs)


def steer(hidden: Hidden, push: Float[Tensor, "d"], mode: str) -> Hidden:
    """The rule, for one pass: a prompt is read in a pass of several positions, a new token in a pass of one."""
    push, out = push.to(hidden), hidden.clone()
    if mode == "all" or (mode == "prompt" and hidden.shape[1] > 1):
        out += push
    elif mode == "response":
        out[:, -1] += push
    return out


def states(passes: list[Pass], first: int = 0) -> Float[Tensor, "values"]:
    """All that was seen from position `first` of each pass on, flat: several passes differ in shape."""
    return torch.cat([s[:, first:].float().flatten() for step in passes for s in step.states.values()])


def seen(
    model: Any,
    call: Callable[..., Any],
    rules: Sequence[tuple[int, Rule]],
    watch: list[int] | None = None,
    first: int = 0,
) -> Float[Tensor, "values"]:
    """What the model reads in one call, under rules applied block by block."""
    with changed(model, rules), observed(model, watch or range(n_blocks(model))) as passes:
        call(model)
    return states(passes, first)


def seen_inside(
    make: Callable[[], Any],
    model: Any,
    call: Callable[..., Any],
    what: str,
    watch: list[int] | None = None,
    first: int = 0,
) -> Float[Tensor, "values"]:
    """What the model reads in one call inside the learner's steerer, and that nothing is left of it afterwards."""
    before = hooks(model)
    with observed(model, watch or range(n_blocks(model))) as passes, running(what), make():
        call(model)
    check_hooks(model, before, f"{what}, after the `with` block", CURE)
    return states(passes, first)


def _on_rows(hidden: Hidden, push: Tensor, mode: str) -> Hidden:
    return torch.cat([steer(hidden[:1], push, mode), hidden[1:]])


def _last_of(hidden: Hidden, push: Tensor, prefill: bool) -> Hidden:
    return steer(hidden, push, "response") if (hidden.shape[1] > 1) == prefill else hidden


def _but_last(hidden: Hidden, push: Tensor) -> Hidden:
    return torch.cat([hidden[:, :-1] + push.to(hidden), hidden[:, -1:]], dim=1)


def mistakes(
    model: Any,
    call: Callable[..., Any],
    vector: Tensor,
    layer: int,
    coeff: float,
    mode: str,
    watch: list[int] | None = None,
    first: int = 0,
) -> dict[str, Callable[[], Tensor | list[Tensor]]]:
    """What the model reads under typical mistakes, each computed only when a check fails."""
    push = coeff * vector

    def under(rule: Rule, block: int = layer) -> Tensor | list[Tensor]:
        return seen(model, call, [(block, rule)], watch, first) if 0 <= block < n_blocks(model) else []

    def by(rule: Callable[..., Hidden], **options: Any) -> Callable[[], Tensor | list[Tensor]]:
        return partial(under, partial(rule, push=push, **options))

    def other(added: Tensor, block: int = layer) -> Callable[[], Tensor | list[Tensor]]:
        return partial(under, partial(steer, push=added, mode=mode), block)

    meaning = {
        "all": "every position of every pass",
        "prompt": "all positions of a pass of several, none while decoding",
        "response": "the last position of each pass",
    }
    mixed = {
        f'it acts as positions="{m}" ({meaning[m]}); "{mode}" is {meaning[mode]}': by(steer, mode=m)
        for m in MODES
        if m != mode
    }
    return {
        "nothing is added: the hook returns nothing, or is not in force": other(0 * vector),
        **mixed,
        "only new tokens' passes are steered: in the prompt's pass, the last position counts too": (
            by(_last_of, prefill=False)
        ),
        "only the last position of the prompt is steered, in no later pass": by(_last_of, prefill=True),
        "the last position of each pass is left out": by(_but_last),
        "only the first row of the batch is steered: a block's output is a plain tensor, so output[0] is row 0": (
            by(_on_rows, mode=mode)
        ),
        "coeff is ignored: add coeff * vector": other(vector),
        "the sign is wrong: it must be + coeff * vector": other(-push),
        "the vector is normalised first: add coeff * vector as it is": other(push / vector.norm()),
        "the vector is added twice: two hooks, or one that adds in place and returns a sum": other(2 * push),
        "block layer + 1 is steered: off by one, since `layer` is a block index here": other(push, layer + 1),
        "block layer - 1 is steered: off by one, since `layer` is a block index here": other(push, layer - 1),
    }
