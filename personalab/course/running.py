"""Executing the solutions: `python -m personalab run`, which changes nothing that git tracks.

Whatever a run makes goes to `runs/<budget>/`: notebooks, results.json, machine.json, and in `artifacts/` what one
section leaves for the next. So a learner's own `artifacts/` are neither read nor written. See also `recording`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from traitlets.config import Config

from personalab.course.cells import dumps, read
from personalab.course.myst import METADATA, sections
from personalab.course.notebooks import bare
from personalab.course.scrub import clean_outputs
from personalab.files import write
from personalab.paths import ARTIFACTS, ROOT
from personalab.records.phases import one_line
from personalab.records.results import RECORD, compare, merge_json, one_writer, read_json
from personalab.tiers import GLOBAL_SEED, Tier, current_tier, run_name

ANSI = re.compile(r"\x1b\[[\d;]*m")
MAX_BYTES = 3_000_000  # our choice: a notebook much bigger is slow to open, and GitHub may not render it
FAMILIES = {"4b": "finetuning"}  # what keys of results begin with, where that is not section_N
CELL_TIMEOUT = 1800  # seconds, on the cpu tier only: bigger models may take longer


@dataclass
class Finished:
    """One section after its run; `problems` says what went wrong, if anything."""

    section: str
    path: Path  # of the notebook that was executed
    nb: NotebookNode
    seconds: float
    problems: list[str]
    results: dict[str, Any] = field(default_factory=dict)  # by key, as `personalab.records.results.record` makes them
    machine: dict[str, Any] = field(default_factory=dict)  # see `personalab.records.provenance`

    @property
    def family(self) -> str:
        """What the keys of its results begin with."""
        return FAMILIES.get(self.section, f"section_{self.section}")


def execute(section: int | str | None, budget: str, root: Path = ROOT) -> int:
    """Run the solutions of one section, or of all, each in a fresh kernel. Returns 1 if any failed, else 0.

    Writes to `runs/<budget>/` (`runs/<tier>-<budget>/` on other tiers or with a model of your own), what failed to
    `runs/failed/`, and says at the end how many results lie inside the intervals that the course recorded. A second run
    into the same folder waits for the first.

    Raises:
        ValueError: for a section without a notebook in `solutions/`, or an unknown tier.
    """
    tier, folder = current_tier(), root / "runs" / run_name(budget)
    own: dict[str, Any] = {}
    artifacts, failed = folder / "artifacts", 0
    with one_writer(folder):  # two runs at once would delete each other's steps and read half of each other's artifacts
        for number, path in chosen(section, root).items():
            shutil.rmtree(artifacts / tier.folder / "steps", ignore_errors=True)  # a run measures, it doesn't remember
            done = run_section(number, path, budget, root, artifacts)
            failed += bool(done.problems)
            if save(done, folder if not done.problems else root / "runs" / "failed"):
                merge_json(folder / "results.json", done.results)
                merge_json(folder / "machine.json", {done.family: done.machine})
                own |= done.results
    committed = root / "solutions" / "results.json"
    if compared := compare(own, read_json(committed)):
        print(compared, flush=True)
    return int(failed > 0)


def chosen(section: int | str | None, root: Path) -> dict[str, Path]:
    """The solutions to run, by number ("4b": the bonus of 4). Raises ValueError if there are none."""
    found = sections(root / "solutions", ".ipynb")
    picked = {number: path for number, path in found.items() if section is None or str(section) == number}
    if not picked:
        raise ValueError(f"{root}/solutions has no section {section or ''}: it has [{', '.join(found)}].")
    return picked


def save(done: Finished, folder: Path) -> bool:
    """Write the executed notebook to `folder`, say how it went, and return whether it went well."""
    write(folder / done.path.name, dumps(done.nb))
    print(f"{done.path.stem}: {done.seconds} s, in {folder}", *done.problems, sep="\n")
    print(one_line(done.machine.get("seconds", {}), done.seconds), flush=True)
    return not done.problems


def run_section(
    section: str,
    path: Path,
    budget: str,
    root: Path,
    artifacts: Path,
    setting: Mapping[str, str] = MappingProxyType({}),
) -> Finished:
    """Execute one solutions notebook in a kernel of its own; writes nothing but what its cells write.

    Args:
        artifacts: folder for what the section saves, and the only one besides the reference from which it loads.
        setting: environment variables for the kernel, in place of this process's.
    """
    tier, nb = current_tier(), bare(read(path))
    with tempfile.TemporaryDirectory(prefix="lab-") as scratch:
        env = _environment(tier, budget, root, scratch) | {ARTIFACTS: str(artifacts.resolve())} | dict(setting)
        started = time.perf_counter()
        problems = _run_cells(nb, env, path.parent, scratch)
        seconds = round(time.perf_counter() - started, 1)
        results, machine = (read_json(Path(scratch, name)) for name in ("results.json", "machine.json"))
    problems = clean_outputs(nb, root, problems)
    if (size := len(dumps(nb).encode())) > MAX_BYTES:
        problems.append(f"It takes {size:,} bytes, over {MAX_BYTES:,}: make its figures or tables smaller.")
    done = Finished(section, path, nb, seconds, problems, results, machine)
    entry = {"value": seconds, "n": 1, "ci": None, "section": done.family, "seed": GLOBAL_SEED}
    done.results[f"{done.family}/seconds"] = entry | {"tier": tier.name, "model": tier.persona_model}
    return done


def _environment(tier: Tier, budget: str, root: Path, scratch: str) -> dict[str, str]:
    """The kernel's environment, with the file in which `personalab.records.results.record` collects results.

    The kernel imports the `personalab` that runs here. What models of this process say is generated afresh at `full`,
    so that `seconds` means something; paid answers are reused.
    """
    env = dict(os.environ)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, dict.fromkeys([str(root), str(ROOT), env.get("PYTHONPATH", "")])))
    unpaid = tier.answers_here and tier.judged_here
    fresh = {"PERSONALAB_RESPONSE_CACHE": "off"} if unpaid and budget == "full" else {}
    setting = {"PERSONALAB_BUDGET": budget, "PERSONALAB_TIER": tier.name, "TQDM_DISABLE": "1"}
    return env | setting | fresh | {RECORD: str(Path(scratch, "results.json"))}


def _run_cells(nb: NotebookNode, env: dict[str, str], folder: Path, scratch: str) -> list[str]:
    """Execute `nb` in place, printing a line per cell; returns what went wrong, if anything.

    The last thing that the kernel does is to write what it ran on to `machine.json` in `scratch`.

    Raises:
        KeyboardInterrupt: on Ctrl-C, and where this process is told to end.
    """
    label, started, stopped = "", 0.0, False

    def start(cell: NotebookNode, cell_index: int) -> None:
        nonlocal label, started
        label = cell.id if "nbgrader" in cell.metadata else cell.source.partition("\n")[0][:70]
        started = time.perf_counter()

    def done(cell: NotebookNode, cell_index: int, execute_reply: Mapping[str, object]) -> None:
        if cell is not last:
            print(f"{cell_index:4d}  {label:70}  {time.perf_counter() - started:6.1f} s", flush=True)

    def stop_on_signals(notebook: NotebookNode) -> None:
        """In place of nbclient's handlers, which stop the kernel and swallow the signal: a next section would begin."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())

        def stop() -> None:
            nonlocal stopped
            stopped = task.cancel()  # nbclient then stops the kernel, and takes it for dead

        with contextlib.suppress(RuntimeError):  # outside the main thread, and on Windows
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, stop)

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
        on_notebook_start=stop_on_signals,
        on_cell_execute=start,
        on_cell_executed=done,
    )
    try:
        client.execute(env=env)
    except (CellExecutionError, CellTimeoutError, DeadKernelError, asyncio.CancelledError) as error:
        if stopped:
            raise KeyboardInterrupt from None
        return [f"Cell {label!r}: {ANSI.sub('', str(error))}"]
    finally:
        nb.cells.remove(last)
        nb.metadata = nbformat.from_dict(METADATA)
    return []
