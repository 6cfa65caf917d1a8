"""Forward hooks on decoder blocks: read an output, replace it, or stop there; gone when the `with` block ends.

A block returns a tensor in transformers 5, and before that a tuple that starts with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

Hidden = Float[Tensor, "b s d"]


@contextmanager
def hooked(layer: nn.Module, act: Callable[[Hidden], Hidden | None], *, first: bool = False) -> Iterator[None]:
    """Call `act` with every output of `layer`; what it returns takes the output's place, unless it is None.

    Args:
        first: in front of all other hooks of this layer, those included that were there before.
    """

    def hook(_module: nn.Module, _args: object, output: Any) -> Any:
        changed = act(output[0] if isinstance(output, tuple) else output)
        return (changed, *output[1:]) if changed is not None and isinstance(output, tuple) else changed

    handle = layer.register_forward_hook(hook, prepend=first)
    try:
        yield
    finally:
        handle.remove()


class _Stop(Exception):
    """Ends a forward pass once the last wanted block has run."""


@contextmanager
def stop_after(layer: nn.Module) -> Iterator[None]:
    """Blocks after `layer` and the LM head do not run. Enter it last: hooks run in the order of registration."""

    def stop(hidden: Hidden) -> None:
        raise _Stop

    with suppress(_Stop), hooked(layer, stop):
        yield


@contextmanager
def contiguous_input(layer: nn.Module | None) -> Iterator[None]:
    """`layer` (an LM head, or None) reads a contiguous copy of its input.

    Where its weight is frozen, `F.linear` on a slice of positions copies the weight once a row instead: of 60 rows and
    49,152 tokens in bfloat16 that takes 3.2 GB and 300 times as long.
    """
    if layer is None:
        yield
        return
    handle = layer.register_forward_pre_hook(lambda _module, args: (args[0].contiguous(), *args[1:]))
    try:
        yield
    finally:
        handle.remove()
