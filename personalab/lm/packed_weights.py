"""Linear layers that multiply by a copy of their weights, laid out once as oneDNN wants it, on x86 processors.

torch lays the weights out anew in every product, which with few rows, as in decoding, costs much of it; and its float32
products (MKL's) gain little from a second thread. On a single thread without AVX-512 MKL's are the faster ones, but for
a head as wide as a vocabulary. `benchmarks/README.md` has the numbers.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from personalab.lm.hooks import is_compiled

# Below these, laying out takes longer than it saves (SmolLM2-135M, one thread and two).
FEWEST_STEPS = 16  # of decoding
FEWEST_TOKENS = 1024  # to read, in float32; in bfloat16 products of many rows gain nothing
FEWEST_WEIGHTS = 2**24  # of a layer, on a single thread without AVX-512
MOST_BYTES = 2**31  # of weights, since there are two copies for a while; our choice


@contextmanager
def packed_weights(model: nn.Module, *, worth: bool = True) -> Iterator[None]:
    """The model's linear layers take packed copies of their weights inside the `with` block, where that is possible.

    Numbers differ by rounding only. Weights must not change inside the block, and no gradient flows.

    Args:
        worth: False changes nothing.
    """
    layers = [*filter(_may_be_packed, model.modules())] if worth and not _passed_by(model) else []
    layers = [layer for layer in layers if layer.weight.numel() >= _fewest_weights()]
    if sum(layer.weight.nbytes for layer in layers) > MOST_BYTES:
        layers = []
    try:
        for layer in layers:
            with torch.inference_mode():
                weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
            layer.forward = functools.partial(_product, weight, layer.bias)  # type: ignore[method-assign]
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _product(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _may_be_packed(layer: nn.Module) -> TypeGuard[nn.Linear]:
    # A forward of its own comes from accelerate (offloading) or from a user.
    return type(layer) is nn.Linear and "forward" not in vars(layer) and _works(layer.weight.device, layer.weight.dtype)


def _fewest_weights() -> int:
    narrow = torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
    return FEWEST_WEIGHTS if narrow and torch.get_num_threads() == 1 else 0


def _passed_by(model: nn.Module) -> bool:
    """Autocast and counters of operations don't know the packed product, and compiled code has its own."""
    return torch.is_autocast_enabled("cpu") or torch._C._len_torch_dispatch_stack() > 0 or is_compiled(model)


@functools.cache
def _works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this machine and torch have the packed product, and it is right."""
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    x, weight = (torch.linspace(-1, 1, 16 * rows, dtype=dtype).reshape(rows, 16) for rows in (2, 32))
    try:
        with torch.inference_mode():
            found = _product(torch.ops.mkldnn._reorder_linear_weight(weight, None), None, x)
    except (AttributeError, RuntimeError):  # not in this build, or not on this processor
        return False
    return torch.allclose(found.float(), F.linear(x.float(), weight.float()), atol=0.1)
