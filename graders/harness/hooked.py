"""What a model reads while a learner's hooks are in force, and what they leave behind."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from graders.harness.expect import check
from personalab.lm.models import decoder_blocks

_KINDS = ("_forward_hooks", "_forward_pre_hooks")
HINT = (  # for a learner's error while hooks are in force
    "If it comes from your hook: a block's output is a plain tensor (rows, tokens, d) here and a tuple that starts "
    "with it in older transformers. Change that tensor, not `output[0]` of a tensor; cast your vector, which is "
    "float32 whatever the model, to its dtype and device; return the same kind, of the same shape and dtype."
)


@dataclass
class Pass:
    """One forward pass: the token ids read, and each watched block's output as the next module receives it."""

    ids: Int[Tensor, "rows tokens"]
    states: dict[int, Float[Tensor, "rows tokens d"]] = field(default_factory=dict)


@contextmanager
def observed(model: Any, blocks: Sequence[int]) -> Iterator[list[Pass]]:
    """Every forward pass made inside the `with`, in order.

    Watches the norm that reads a block's output, so that it sees what hooks on the block, or pre-hooks on the next
    one, have made of it, in whatever order they were registered. For the last block it keeps the final norm's output.
    """
    passes: list[Pass] = []

    def begin(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs["input"]
        passes.append(Pass(ids.detach().cpu().clone()))

    def keep(block: int) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], output: Tensor | None = None) -> None:
            passes[-1].states[block] = (args[0] if output is None else output).detach().cpu().clone()

        return hook

    layers = decoder_blocks(model)
    with ExitStack() as stack:
        start = model.get_input_embeddings().register_forward_pre_hook(begin, with_kwargs=True)
        stack.callback(start.remove)
        for block in blocks:
            if block + 1 < len(layers):
                handle = layers[block + 1].get_submodule("input_layernorm").register_forward_pre_hook(keep(block))
            else:
                handle = model.get_submodule("model.norm").register_forward_hook(keep(block))
            stack.callback(handle.remove)
        yield passes


@contextmanager
def changed(model: Any, changes: Sequence[tuple[int, Callable[[Tensor], Tensor]]]) -> Iterator[None]:
    """Blocks' outputs replaced, in the order given."""
    with ExitStack() as stack:
        for block, change in changes:

            def hook(_module: nn.Module, _args: Any, output: Any, change: Callable[[Tensor], Tensor] = change) -> Any:
                return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

            stack.callback(decoder_blocks(model)[block].register_forward_hook(hook).remove)
        yield


def hooks(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    """Hooks on every module (but transformers' own, which stay for good), and `forward`s that were replaced."""
    found: dict[str, tuple[Any, ...]] = {}
    for name, module in model.named_modules():
        keys = [
            key
            for kind in _KINDS
            for key, hook in getattr(module, kind).items()
            if not str(getattr(hook, "__module__", "")).startswith("transformers.")
        ]
        replaced = [id(vars(module)["forward"])] if "forward" in vars(module) else []
        if keys or replaced:
            found[name] = (*keys, *replaced)
    return found


@dataclass(frozen=True)
class Left:
    """What a learner's work left of a model's hooks.

    Attributes:
        behind: modules that carry a hook which they did not carry before.
        lost: modules that lost one.
    """

    behind: list[str]
    lost: list[str]


def left(model: nn.Module, before: dict[str, tuple[Any, ...]]) -> Left:
    """Against the `hooks` of before."""
    after = hooks(model)
    return Left(
        [name for name in after if set(after[name]) - set(before.get(name, ()))],
        [name for name in before if set(before[name]) - set(after.get(name, ()))],
    )


def check_left(found: Left, when: str, cure: str) -> None:
    """The model carries what it carried before, no more and no less."""
    check(
        not found.behind,
        f"{when}: expected the model without your hooks, found a hook left behind on {', '.join(found.behind)}. It "
        f"goes on changing every later answer. {cure}",
    )
    check(
        not found.lost,
        f"{when}: expected other people's hooks still there, found them gone from {', '.join(found.lost)}. Remove "
        "your own hook by its handle (`handle.remove()`); never clear `_forward_hooks`.",
    )


def check_hooks(model: nn.Module, before: dict[str, tuple[Any, ...]], when: str, cure: str) -> None:
    """`check_left` of a model at once."""
    check_left(left(model, before), when, cure)


class Interrupted(RuntimeError):
    """An error in the middle of a generation, raised on purpose."""


@contextmanager
def failing(model: Any, after: int) -> Iterator[None]:
    """Forward pass number `after` (from 0) fails at the last block."""
    count = 0

    def hook(_module: nn.Module, _args: Any) -> None:
        nonlocal count
        count += 1
        if count > after:
            raise Interrupted("raised by the grader, to see what your hooks do when a generation fails")

    handle = decoder_blocks(model)[-1].get_submodule("input_layernorm").register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
