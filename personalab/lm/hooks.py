"""Forward hooks on decoder blocks: read an output, replace it, or stop there; gone when the `with` block ends.

A block returns a tensor in transformers 5, and before that a tuple that starts with it.

Compiled code runs the hooks that were there when it was compiled, and no others (pytorch issue 117758). `plainly` has
a model run its modules one by one, as written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Hidden = Float[Tensor, "b s d"]


@contextmanager
def hooked(layer: nn.Module, act: Callable[[Hidden], Hidden | None], *, first: bool = False) -> Iterator[None]:
    """Call `act` with every output of `layer`; what it returns takes the output's place, unless it is None.

    Args:
        first: in front of all other hooks of this layer, those included that were there before.

    Raises:
        TypeError: in the forward pass, where the layer returns neither a tensor nor a tuple that starts with one.
    """

    def hook(_module: nn.Module, _args: object, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        if not isinstance(hidden, Tensor):
            raise TypeError(f"{type(layer).__name__} returns a {type(hidden).__name__} where a hook needs a tensor.")
        changed = act(hidden)
        return (changed, *output[1:]) if changed is not None and isinstance(output, tuple) else changed

    handle = layer.register_forward_hook(hook, prepend=first)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def plainly(model: nn.Module) -> Iterator[None]:
    """The model runs uncompiled and without dropout inside the `with` block; its modes come back after it.

    For whatever is read from it or generated with it: hooks fire, and the same text gives the same numbers.
    """
    training = [module for module in model.modules() if module.training]
    with ExitStack() as stack:
        if is_compiled(model):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        _set_training(training, False)
        stack.callback(_set_training, training, True)
        yield


def _set_training(modules: Sequence[nn.Module], mode: bool) -> None:
    for module in modules:
        module.training = mode


def is_compiled(model: nn.Module) -> bool:
    """Whether it, or one of its modules, went through `torch.compile`."""
    if "torch._dynamo" not in sys.modules:  # nothing can be compiled before this is imported, which takes seconds
        return False
    from torch._dynamo import OptimizedModule

    compiled = (isinstance(m, OptimizedModule) or m._compiled_call_impl is not None for m in model.modules())
    return any(compiled)


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
