"""What this machine computes in: measured once, stored with the set-up, obeyed by everything that loads or trains.

`PERSONALAB_DTYPE` (auto, float32, bfloat16 or float16) overrides what is stored here and what a tier says.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personalab.files import write
from personalab.paths import cache_dir
from personalab.setup.venv import exclusive_lock
from personalab.tiers import current_tier

if TYPE_CHECKING:
    import torch

BF16_WORTHWHILE = 1.2  # our choice: below this gain, float32's exact results are worth more than speed
DTYPES = ("float32", "bfloat16", "float16")
GEMM_SIZE = 512  # side of the square matrices that are timed
_ROUNDS, _BUDGET = 20, 2.0  # how often both are timed, and the seconds after which it is enough


def dtype_name(setting: str, device: str = "cpu", stored: str = "") -> str:
    """The dtype that `setting` (a tier's, unless `PERSONALAB_DTYPE` is set) means on a device.

    "auto" on a CPU is bfloat16 where that was measured to pay, else float32. On a GPU it is bfloat16 where the GPU has
    it. A T4 has none: there a model whose weights are stored as float16 stays so, and any other is float32, because
    Gemma 2's residual stream outgrows float16, whose largest number is 65,504. The colab tier's fit into 16 GB so.

    Args:
        stored: what the model's weights are stored in, where that is known.

    Raises:
        ValueError: for an unknown dtype, naming the variable.
    """
    name = os.environ.get("PERSONALAB_DTYPE") or setting
    if name == "auto":
        return _gpu_dtype(stored) if device == "cuda" else cpu_dtype()
    if name not in DTYPES:
        raise ValueError(f"Unknown dtype {name!r}: set PERSONALAB_DTYPE to auto, {', '.join(DTYPES[:-1])} or float16.")
    return name


def compute_for_the_record() -> None:
    """Let this process compute in float32 on the cpu tier, like everything on record, unless the environment says."""
    if current_tier().embedded:
        os.environ.setdefault("PERSONALAB_DTYPE", "float32")


def hub_device() -> str:
    """Where models of the hub lie: "cuda" where torch sees a GPU, else "cpu". The embedded ones stay on the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def tier_dtype() -> str:
    """The dtype of the current tier's models, as `dtype_name`, on the device where they lie."""
    tier = current_tier()
    return dtype_name(tier.dtype, "cpu" if tier.embedded else hub_device())


def _gpu_dtype(stored: str) -> str:
    import torch

    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    return "float16" if stored == "float16" else "float32"


def cpu_dtype() -> str:
    """The stored decision for this CPU and this PyTorch; made and stored first where there is none."""
    known = _stored(store())
    if _key() not in known:
        with exclusive_lock(store().with_suffix(".lock"), waiting_for="another process that measures this machine"):
            known = _stored(store())  # it may have been decided while we waited
            if _key() not in known:
                known[_key()] = _decide()
                write(store(), json.dumps(known, indent=1) + "\n")
    return str(known[_key()]["dtype"])


def store() -> Path:
    """The file that holds the decision, in the user's cache: delete it to have the machine measured again."""
    return cache_dir() / "machine.json"


def _stored(path: Path) -> dict[str, Any]:
    """What is stored for each CPU (a home folder may be shared between machines); a damaged file holds nothing."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {key: entry for key, entry in entries.items() if entry["dtype"] in DTYPES}
    except (FileNotFoundError, ValueError, AttributeError, KeyError, TypeError):
        return {}


@cache  # a version takes 8 ms to look up, and every question to a judge asks for it
def _key() -> str:
    """CPU and PyTorch; a virtual CPU may be called "AMD EPYC" and no more, so what it can do counts as well."""
    units = next((line for line in _cpuinfo() if line.startswith(("flags", "Features"))), "")
    return f"{cpu_name()} {zlib.crc32(units.encode()):08x}, torch {metadata.version('torch')}"


def _decide() -> dict[str, Any]:
    speedup = bf16_speedup()
    dtype = "bfloat16" if speedup > BF16_WORTHWHILE else "float32"
    return {"dtype": dtype, "bfloat16_speedup": float(f"{speedup:.3g}"), "measured": date.today().isoformat()}


def bf16_speedup() -> float:
    """Speed of this CPU in bfloat16 relative to float32: far below 1 where it has to emulate."""
    times = gemm_seconds()
    return times["float32"] / times["bfloat16"]


def gemm_seconds() -> dict[str, float]:
    """Seconds of one thread for a 512x512 matrix product by dtype, the fastest of twenty.

    The two take turns, in one thread, so that other work on the machine slows both or neither.
    """
    import torch

    with one_thread():
        best = dict.fromkeys(("float32", "bfloat16"), float("inf"))
        matrices = {name: torch.ones(GEMM_SIZE, GEMM_SIZE, dtype=getattr(torch, name)) for name in best}
        end = time.perf_counter() + _BUDGET
        for done in range(_ROUNDS):
            for name, a in matrices.items():
                best[name] = min(best[name], _seconds(a))
            if done and time.perf_counter() > end:  # the very first product pays for PyTorch's own start
                break
        return best


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch computes in one thread; the number that was set before comes back, whatever happens.

    For many small matrices, where threads mostly wait for each other. On 2 cores Section 1's permutation test took 36 s
    in two threads and 14 s in one; on a busy machine an eigenproblem of 40 x 40 took 56 ms in two and 0.1 ms in one.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seconds(a: torch.Tensor) -> float:
    start = time.perf_counter()
    a @ a
    return time.perf_counter() - start


@cache
def cpu_name() -> str:
    """The processor's own name where the system tells it, else its architecture."""
    if sys.platform == "darwin":
        ask = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(ask, capture_output=True, text=True).stdout.strip() or platform.machine()
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine()


def _cpuinfo() -> list[str]:
    """Linux's description of its processors, line by line; elsewhere nothing."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
