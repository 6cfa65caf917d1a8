"""Executing the solutions: `python -m personalab run`, which changes nothing that git tracks.

Whatever a run makes goes to `runs/<budget>/`: notebooks, results.json, machine.json, and in `artifacts/` what one
section leaves for the next. So a learner's own `artifacts/` are neither read nor written. See also `recording`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nbformat import NotebookNode

from personalab.course.cells import dumps, read
from personalab.course.kernels import finish, run_cells
from personalab.course.myst import is_wanted, sections
from personalab.course.notebooks import bare
from personalab.course.scrub import clean_outputs
from personalab.files import write
from personalab.paths import ARTIFACTS, ROOT
from personalab.records.phases import one_line
from personalab.records.results import RECORD, compare, merge_json, one_writer, read_json
from personalab.setup.doctor import GB, Machine, examine_machine
from personalab.tiers import GLOBAL_SEED, Tier, current_tier, run_name

SECTION_MEMORY = 4 * GB  # our choice, for each section that runs beside others: they peak at 3
MAX_BYTES = 3_000_000  # our choice: a notebook much bigger is slow to open, and GitHub may not render it
FAMILIES = {"4b": "finetuning"}  # what keys of results begin with, where that is not section_N


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
        return family(self.section)


def family(section: str) -> str:
    """What the keys of a section's results begin with."""
    return FAMILIES.get(section, f"section_{section}")


def execute(section: int | str | None, budget: str, root: Path = ROOT, jobs: int | None = None) -> int:
    """Run the solutions of one section, or of all, each in a fresh kernel. Returns 1 if any failed, else 0.

    Writes to `runs/<budget>/` (`runs/<tier>-<budget>/` on other tiers or with a model of your own), what failed to
    `runs/failed/`, and says at the end how many results lie inside the intervals that the course recorded. A second run
    into the same folder waits for the first.

    Args:
        jobs: how many sections at once, sharing the threads; as many as `usual_jobs` says if None.

    Raises:
        ValueError: for a section without a notebook in `solutions/`, an unknown tier, or several sections at once on a
            tier whose sections take turns on a GPU and need what the last one left.
    """
    tier, folder = current_tier(), root / "runs" / run_name(budget)
    picked, committed = chosen(section, root), read_json(root / "solutions" / "results.json")
    jobs = min(len(picked), jobs_allowed(jobs, tier) or usual_jobs(tier, examine_machine()))
    artifacts, began = folder / "artifacts", 0.0
    turn, setting = asyncio.Semaphore(jobs), {"OMP_NUM_THREADS": str(threads(jobs))} if jobs > 1 else {}

    async def one(number: str, path: Path) -> dict[str, Any] | None:
        """The section's results, None if it failed."""
        async with turn:
            waited = round(time.perf_counter() - began, 1)
            done = await _run(number, path, budget, root, artifacts, setting)
        done.machine |= {"sections_at_once": jobs, "began": waited}
        if not save(done, folder if not done.problems else root / "runs" / "failed"):
            return None
        merge_json(folder / "results.json", done.results)
        merge_json(folder / "machine.json", {done.family: done.machine})
        return done.results

    async def every() -> list[dict[str, Any] | BaseException | None]:
        order = longest_first(picked, committed) if jobs > 1 else list(picked)
        return await asyncio.gather(*(one(number, picked[number]) for number in order), return_exceptions=True)

    with one_writer(folder):  # two runs at once would delete each other's steps and read half of each other's artifacts
        shutil.rmtree(artifacts / tier.folder / "steps", ignore_errors=True)  # a run measures, it doesn't remember
        began = time.perf_counter()
        ended = finish(every())
    if errors := [error for error in ended if isinstance(error, BaseException)]:  # a full disk: the others are saved
        raise errors[0]
    found = [own for own in ended if isinstance(own, dict)]
    if compared := compare({key: entry for own in found for key, entry in own.items()}, committed):
        print(compared, flush=True)
    return int(len(found) < len(ended))


def jobs_allowed(jobs: int | None, tier: Tier) -> int | None:
    """`jobs` as it is. Raises ValueError where a run can't have so many."""
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs {jobs}: at least 1.")
    if (jobs or 1) > 1 and not tier.in_process:
        raise ValueError(f"--jobs {jobs}: on tier {tier.name} sections take turns on the GPU, and need the last one's.")
    return jobs


def usual_jobs(tier: Tier, machine: Machine) -> int:
    """Two sections at once where cores and free memory are enough for two, and the models are the embedded ones.

    On 2 cores, two kernels of one thread each do more than one of two threads, because what a cell does by itself, in
    Python or with small matrices, uses one thread anyway.
    """
    return 2 if tier.embedded and machine.cores > 1 and machine.memory_free > 2 * SECTION_MEMORY else 1


def threads(jobs: int) -> int:
    """Threads of each kernel when `jobs` of them share what torch would take by itself."""
    import torch

    return max(1, torch.get_num_threads() // jobs)


def longest_first(picked: Mapping[str, Path], recorded: Mapping[str, Any]) -> list[str]:
    """Sections in the order in which they begin: the longest on record first, so that none is left running alone."""
    took = {number: recorded.get(f"{family(number)}/seconds", {}).get("value", 0.0) for number in picked}
    return sorted(picked, key=lambda number: -took[number])


def chosen(section: int | str | None, root: Path) -> dict[str, Path]:
    """The solutions to run, by number ("4b": the bonus of 4); "1,3" are two. Raises ValueError for one without any."""
    found = sections(root / "solutions", ".ipynb")
    picked = {number: path for number, path in found.items() if is_wanted(number, section)}
    unknown = [] if section is None else [number for number in str(section).split(",") if number not in found]
    if unknown or not picked:
        raise ValueError(f"{root}/solutions has no section {', '.join(unknown)}: it has [{', '.join(found)}].")
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
    return finish(_run(section, path, budget, root, artifacts, setting))


async def _run(
    section: str, path: Path, budget: str, root: Path, artifacts: Path, setting: Mapping[str, str]
) -> Finished:
    """`run_section`, to be awaited: several at once run side by side."""
    tier, nb = current_tier(), bare(read(path))
    with tempfile.TemporaryDirectory(prefix="lab-") as scratch:
        env = _environment(tier, budget, root, scratch) | {ARTIFACTS: str(artifacts.resolve())} | dict(setting)
        started = time.perf_counter()
        problems = await run_cells(nb, env, path.parent, scratch, section)
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
