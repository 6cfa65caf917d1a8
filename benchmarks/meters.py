"""What a call costs on either device: bytes at the peak, FLOPs, bytes that operations move, seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from personalab.lm import packed_weights


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most that tensors made during the call hold at one time, beyond what was there before it.

    On a GPU it is what PyTorch's allocator reports; on a CPU, the sum of all that its allocator gave and took back.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with (
        mock.patch.object(packed_weights, "MOST_BYTES", 0),  # a copy of the weights that no GPU makes
        profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as found,
    ):
        call()
    assert found.profiler is not None
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for _, change in sorted((e.start_ns(), i, e.nbytes())[::2] for i, e in enumerate(events)):
        held += change
        most = max(most, held)
    return most


def flops(call: Callable[[], object]) -> int:
    """Floating point operations of its matrix products, a multiplication and an addition as two; as torch counts them.

    Gradients of a call that goes backward are counted, too.
    """
    with FlopCounterMode(display=False) as counted:
        call()
    return int(counted.get_total_flops())


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Of a GPU by the clock, once it has finished; on a CPU, of the processor: other work does not count."""
    if device.type != "cuda":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


class Traffic(TorchDispatchMode):
    """Bytes that a model's decoding passes read and write: every operand and result of whatever is no view.

    A decoding pass is one over a single token a row. Of a table that is looked up only the rows count.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.bytes, self._on, self._stack = 0, False, ExitStack()
        for handle in (
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end),
        ):
            self._stack.callback(handle.remove)

    def __exit__(self, *error: Any) -> None:
        self._stack.close()
        super().__exit__(*error)

    def _begin(self, _module: nn.Module, _args: object, kwargs: dict[str, Any]) -> None:
        self._on = kwargs["input_ids"].shape[1] == 1

    def _end(self, *_: object) -> None:
        self._on = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self._on:
            return result
        given, made = ([t for t in tree_leaves(x) if isinstance(t, Tensor)] for x in ((args, kwargs), result))
        kept = {t.untyped_storage().data_ptr() for t in given}
        if func._schema.is_mutable or any(t.untyped_storage().data_ptr() not in kept for t in made):
            rows_only = func.overloadpacket in (torch.ops.aten.embedding, torch.ops.aten.index)
            self.bytes += sum(t.numel() * t.element_size() for t in [*(made if rows_only else given), *made])
        return result


def moved_bytes(call: Callable[[], object], model: nn.Module) -> int:
    """As `Traffic` counts them."""
    with Traffic(model) as traffic:
        call()
    return traffic.bytes


def rates(dtype: torch.dtype, device: torch.device, size: int) -> tuple[float, float]:
    """FLOP/s of a square product of `size` in the dtype, and bytes/s of a copy (read and written), the best of some."""
    a = torch.ones(size, size, dtype=dtype, device=device)
    much = torch.ones(min(1 << 30, 64 * size * size), dtype=torch.uint8, device=device)
    into = torch.empty_like(much)
    best = [float("inf")] * 2
    for _ in range(5):
        for i, call in enumerate((lambda: a @ a, lambda: into.copy_(much))):
            best[i] = min(best[i], seconds(call, device))
    return 2 * size**3 / best[0], 2 * much.numel() / best[1]
