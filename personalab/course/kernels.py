"""Executing notebooks, each in a kernel of its own, several side by side, and stopping them all when told to."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from traitlets.config import Config

from personalab.course.myst import METADATA

ANSI = re.compile(r"\x1b\[[\d;]*m")
CELL_TIMEOUT = 1800  # seconds, on the cpu tier only: bigger models may take longer

T = TypeVar("T")


async def run_cells(nb: NotebookNode, env: dict[str, str], folder: Path, scratch: str, title: str) -> list[str]:
    """Execute `nb` in place, printing a line per cell that begins with `title`; returns what went wrong, if anything.

    The last thing that the kernel does is to write what it ran on to `machine.json` in `scratch`.
    """
    label, started = "", 0.0

    def start(cell: NotebookNode, cell_index: int) -> None:
        nonlocal label, started
        label = cell.id if "nbgrader" in cell.metadata else cell.source.partition("\n")[0][:70]
        started = time.perf_counter()

    def done(cell: NotebookNode, cell_index: int, execute_reply: Mapping[str, object]) -> None:
        if cell is not last:
            print(f"{title} {cell_index:4d}  {label:70}  {time.perf_counter() - started:6.1f} s", flush=True)

    # ZeroMQ has no ipc transport on Windows; elsewhere it opens no ports and spares ipykernel's warning.
    ipc = {} if sys.platform == "win32" else {"transport": "ipc", "ip": str(Path(scratch, "kernel"))}
    ask = f"from personalab.records.provenance import save; save({str(Path(scratch, 'machine.json'))!r})"
    last = nbformat.v4.new_code_cell(ask)
    nb.cells.append(last)
    client = NotebookClient(
        nb,
        config=Config(KernelManager=ipc),
        timeout=CELL_TIMEOUT if env["PERSONALAB_TIER"] == "cpu" else None,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
        on_cell_execute=start,
        on_cell_executed=done,
    )
    try:
        await client.async_execute(env=env)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        task = asyncio.current_task()
        if task and task.cancelling():  # nbclient then stops the kernel, and takes it for dead
            raise asyncio.CancelledError from None
        return [f"Cell {label!r}: {ANSI.sub('', str(error))}"]
    finally:
        nb.cells.remove(last)
        nb.metadata = nbformat.from_dict(METADATA)
    return []


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end. On Ctrl-C, or where this process is told to end, its tasks and their kernels stop first.

    It runs in a thread of its own, because in the main one nbclient takes these signals and swallows them.

    Raises:
        KeyboardInterrupt: on Ctrl-C and `kill`.
    """
    begun: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def task() -> T:
        begun.append((asyncio.get_running_loop(), cast("asyncio.Task[Any]", asyncio.current_task())))
        return await work

    def run() -> T:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:  # Windows' usual one doesn't suit ZeroMQ
            return runner.run(task())

    with ThreadPoolExecutor(1) as pool, _interruptible():
        future = pool.submit(run)
        try:
            while not wait([future], timeout=0.5).done:  # Windows sees Ctrl-C only between two waits
                pass
        except KeyboardInterrupt:
            for loop, running in begun:
                loop.call_soon_threadsafe(running.cancel)
            wait([future])
            raise
        return future.result()


@contextmanager
def _interruptible() -> Iterator[None]:
    """While open, Ctrl-C and `kill` raise KeyboardInterrupt, even where a shell started us with Ctrl-C ignored."""
    if threading.current_thread() is not threading.main_thread():  # which alone may say what a signal does
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
