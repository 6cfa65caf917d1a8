"""The authoring pipeline: `instructions/` -> `exercises/*.ipynb`, and `solutions/*.ipynb` executed.

Also the instructor's version for nbgrader: see `build_nbgrader`.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from traitlets.config import Config

from personalab.outputs import clean_outputs
from personalab.paths import ROOT
from personalab.sources import METADATA, code_cells, derive, read_source, sections
from personalab.tiers import GLOBAL_SEED, TIERS, Tier, current_tier

ANSI = re.compile(r"\x1b\[[\d;]*m")
MAX_BYTES = 3_000_000  # our choice: a notebook much bigger is slow to open, and GitHub may not render it
CELL_TIMEOUT = 1800  # seconds, on the cpu tier only: bigger models may take longer


def build(check: bool = False, root: Path = ROOT) -> list[Path]:
    """Regenerate every notebook; returns the files written or, with `check`, those that differ.

    Exercises are compared byte for byte, solutions without what executing them adds. A solutions notebook
    keeps its outputs while all its code cells stay the same; else it loses them all and a line says so.

    Raises:
        ValueError: for a malformed source.
        FileExistsError: for an exercise in which somebody has run cells. Nothing is written then.
    """
    drifted: dict[Path, NotebookNode] = {}
    for source in sections(root / "instructions", ".md").values():
        for kind in ("exercises", "solutions"):
            path, new = root / kind / f"{source.stem}.ipynb", derive(source, kind)
            old = nbformat.read(path, as_version=4) if path.exists() else None
            if old and (_bare(old) == new if kind == "solutions" else path.read_bytes() == dumps(new).encode()):
                continue
            drifted[path] = new
            if old and not check and kind == "solutions":
                _keep_outputs(old, new, path.name)
            elif old and not check and any(cell.execution_count for cell in code_cells(old)):
                raise FileExistsError(f"{path} holds somebody's work: move it away, then build again.")
    if not check:
        for path, nb in drifted.items():
            write(path, dumps(nb))
    return list(drifted)


def _keep_outputs(old: NotebookNode, new: NotebookNode, name: str) -> None:
    was, now = code_cells(old), code_cells(new)
    if [cell.source for cell in was] == [cell.source for cell in now]:
        for before, after in zip(was, now, strict=True):
            after.outputs, after.execution_count = before.outputs, before.execution_count
    elif any(cell.outputs for cell in was):
        print(f"{name}: its code changed, so its outputs are cleared. `make run` makes new ones.")


def _bare(nb: NotebookNode) -> NotebookNode:
    """A copy without what executing or opening a notebook adds."""
    nb = deepcopy(nb)
    nb.metadata = nbformat.from_dict(METADATA)
    for cell in code_cells(nb):
        cell.outputs, cell.execution_count = [], None
        cell.metadata.pop("execution", None)
    return nb


def dumps(nb: NotebookNode) -> str:
    """The text to save: keys sorted, one space of indentation, a newline at the end."""
    return nbformat.writes(nb) + "\n"


def write(path: Path, text: str) -> None:
    """Write all or nothing, with LF on every platform."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    draft.write_bytes(text.encode())
    draft.replace(path)


def build_nbgrader(folder: Path, root: Path = ROOT) -> list[Path]:
    """Write nbgrader's instructor version, markers kept, to `folder/source/<section>/`; returns the files.

    In `folder`, `nbgrader generate_assignment section_1_persona_space` and `nbgrader autograde` then work.
    """
    written = []
    for source in sections(root / "instructions", ".md").values():
        written.append(folder / "source" / source.stem / f"{source.stem}.ipynb")
        write(written[-1], dumps(read_source(source)))
    return written


def execute(section: int | None, budget: str, root: Path = ROOT) -> int:
    """Run the solutions of one section, or of all, each in a fresh kernel. Returns 1 if any failed, else 0.

    `full` on the cpu tier makes what is committed: `solutions/*.ipynb`, `solutions/results.json`, the
    README's table. Otherwise it writes to `runs/quick/`, `runs/<tier>/` or, what failed, `runs/failed/`.

    Raises:
        ValueError: for a section without a notebook in `solutions/`, or an unknown tier.
    """
    found = sections(root / "solutions", ".ipynb")
    chosen = {number: path for number, path in found.items() if section in (None, number)}
    if not chosen:
        raise ValueError(f"{root}/solutions has no section {section or ''}: it has {list(found) or 'none'}.")
    return max([_execute_one(number, path, budget, root) for number, path in chosen.items()])


def _execute_one(section: int, path: Path, budget: str, root: Path) -> int:
    tier, nb = current_tier(), _bare(nbformat.read(path, as_version=4))
    with tempfile.TemporaryDirectory(prefix="lab-") as scratch:
        started = time.perf_counter()
        problems = _run_cells(nb, _environment(tier, budget, root, scratch), path.parent, scratch)
        seconds = round(time.perf_counter() - started, 1)
        recorded = Path(scratch, "results.json")
        results = json.loads(recorded.read_text("utf-8")) if recorded.exists() else {}
    problems = clean_outputs(nb, root, problems)
    if (size := len(dumps(nb).encode())) > MAX_BYTES:
        problems.append(f"It takes {size:,} bytes, over {MAX_BYTES:,}: make its figures or tables smaller.")
    default = tier == TIERS["cpu"]  # not so with a model of one's own on the cpu tier
    committed = default and budget == "full"
    folder = "failed" if problems else budget if default else tier.name
    target = path.parent if committed and not problems else root / "runs" / folder
    write(target / path.name, dumps(nb))
    print(f"{path.stem}: {seconds} s, in {target}", *problems, sep="\n", flush=True)
    if problems:
        return 1
    if budget == "full":
        entry = {"value": seconds, "n": 1, "ci": None, "section": f"section_{section}", "seed": GLOBAL_SEED}
        results[f"section_{section}/seconds"] = entry | {"tier": tier.name, "model": tier.persona_model}
        merge_results(target / "results.json", results)
    if committed:
        from personalab.results import update_readme  # here, so that building notebooks does not load torch

        update_readme(root)
        _save_covers(nb, target)
        try:
            build(root=root)  # the text quotes what was recorded
        except (FileExistsError, ModuleNotFoundError) as error:  # somebody's work, or no jupytext: only authors have it
            print(f"The notebooks' text keeps its numbers: {error}", flush=True)
    return 0


def _save_covers(nb: NotebookNode, folder: Path) -> None:
    """Write the picture of every cell tagged `cover` to `folder/<cell id>.png`, for the README."""
    for cell in code_cells(nb):
        if "cover" in cell.metadata.get("tags", []):
            pictures = [out.data["image/png"] for out in cell.outputs if "image/png" in out.get("data", {})]
            (folder / f"{cell.id}.png").write_bytes(base64.b64decode(pictures[-1]))


def _environment(tier: Tier, budget: str, root: Path, scratch: str) -> dict[str, str]:
    """The kernel's environment; only at `full` does it name a file in which `record` collects results.

    What the embedded model says is generated afresh, so that `seconds` means something; paid answers are reused.
    """
    env = {name: value for name, value in os.environ.items() if name != "PERSONALAB_RECORD"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), env.get("PYTHONPATH")]))
    record = {"PERSONALAB_RECORD": str(Path(scratch, "results.json"))} if budget == "full" else {}
    fresh = {"PERSONALAB_RESPONSE_CACHE": "off"} if tier.embedded and budget == "full" else {}
    setting = {"PERSONALAB_BUDGET": budget, "PERSONALAB_TIER": tier.name, "TQDM_DISABLE": "1"}
    return env | setting | fresh | record


def _run_cells(nb: NotebookNode, env: dict[str, str], folder: Path, scratch: str) -> list[str]:
    """Execute `nb` in place, printing a line per cell; returns what went wrong, if anything."""
    label, started = "", 0.0

    def start(cell: NotebookNode, cell_index: int) -> None:
        nonlocal label, started
        label = cell.id if "nbgrader" in cell.metadata else cell.source.partition("\n")[0][:70]
        started = time.perf_counter()

    def done(cell: NotebookNode, cell_index: int, execute_reply: Mapping[str, object]) -> None:
        print(f"{cell_index:4d}  {label:70}  {time.perf_counter() - started:6.1f} s", flush=True)

    # ZeroMQ has no ipc transport on Windows; elsewhere it opens no ports and spares ipykernel's warning.
    ipc = {} if sys.platform == "win32" else {"transport": "ipc", "ip": str(Path(scratch, "kernel"))}
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
        client.execute(env=env)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return [f"Cell {label!r}: {ANSI.sub('', str(error))}"]
    finally:
        nb.metadata = nbformat.from_dict(METADATA)
    return []


def merge_results(path: Path, new: Mapping[str, object]) -> None:
    """Put `new` into the JSON file, in place of all old keys that begin alike (up to the first `/`)."""
    old = json.loads(path.read_text("utf-8")) if path.exists() else {}
    families = {key.split("/")[0] for key in new}
    merged = {key: value for key, value in old.items() if key.split("/")[0] not in families} | dict(new)
    write(path, json.dumps(merged, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
