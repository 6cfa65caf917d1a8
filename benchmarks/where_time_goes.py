"""Where the time of a run goes, by section and kind of work: a table in `benchmarks/README.md`.

    python -m personalab run --section 1,2,3,4 && python -m benchmarks.where_time_goes runs/full

takes the run's seconds into `benchmarks/results/run.json`, beside those of other dtypes, processors, sections and
budgets (`runs/quick`), and draws the tables anew.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from personalab.files import write
from personalab.paths import ROOT
from personalab.records.provenance import cpu

RESULTS = ROOT / "benchmarks" / "results" / "run.json"
README = ROOT / "benchmarks" / "README.md"
BEGIN, END = "<!-- run: drawn by benchmarks/where_time_goes.py -->", "<!-- end of run -->"
PHASES = ("answers", "activations", "judge", "coherence", "finetuning", "items", "prose")
_ABOUT = ("cpu", "cpu_capability", "cores", "threads", "dtype", "date", "sections_at_once")


def taken(folder: Path) -> dict[str, Any]:
    """Seconds of every section of a run, and the machine.

    Raises:
        ValueError: if the folder holds no finished run, or its sections ran on different machines or dtypes.
    """
    results, machine = (json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("results", "machine"))
    machines = [{key: m[key] for key in _ABOUT if key != "date"} for m in machine.values()]
    if not machines or any(m != machines[0] for m in machines):
        raise ValueError(f"{folder} holds no run, or sections that ran in different ways: run all of them anew.")
    sections = {
        name: {"began": m["began"], "in all": results[f"{name}/seconds"]["value"], **m["seconds"]}
        for name, m in machine.items()
    }
    budget = "quick" if folder.name.endswith("quick") else "full"
    return {
        "budget": budget,
        "machine": machines[0] | {"date": max(m["date"] for m in machine.values())},
        "sections": sections,
    }


def tables(runs: dict[str, Any]) -> str:
    """One table for every run on record."""
    return "\n\n".join("\n".join(_table(run)) for _, run in sorted(runs.items()))


def _table(run: dict[str, Any]) -> Iterator[str]:
    machine, sections = run["machine"], run["sections"]
    used = [phase for phase in PHASES if any(phase in spent for spent in sections.values())]
    budget = "" if run["budget"] == "full" else f", {run['budget']} budget"
    yield f"| seconds, {machine['dtype']}{budget} | in all | {' | '.join(used)} | the rest |"
    yield "|---" * (len(used) + 3) + "|"
    total = {key: sum(spent.get(key, 0.0) for spent in sections.values()) for key in ("in all", *used)}
    for name, spent in (sections | ({"**together**": total} if len(sections) > 1 else {})).items():
        rest = spent["in all"] - sum(spent.get(phase, 0.0) for phase in used)
        cells = [spent["in all"], *(spent.get(phase, 0.0) for phase in used), max(rest, 0.0)]
        yield f"| {name} | " + " | ".join(f"{cell:,.0f}" for cell in cells) + " |"
    clock = max(spent["began"] + spent["in all"] for spent in sections.values())
    yield ""
    at_once, threads = machine["sections_at_once"], machine["threads"]
    by_clock = f"{clock:,.0f} by the clock ({clock / 60:.1f} minutes)"
    yield f"Sections at once: {at_once}, threads each: {threads}; {by_clock}. " + (
        f"{cpu(machine)}, {machine['cores']} cores, {machine['date']}."
    )


def write_table() -> None:
    """Put the tables of the committed results between their marks in the README."""
    before, _, rest = README.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    runs = json.loads(RESULTS.read_text("utf-8"))
    write(README, f"{before}{BEGIN}\n\n{tables(runs)}\n\n{END}{after}")


def main(folder: str) -> None:
    run = taken(Path(folder))
    runs = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    name = f"{run['machine']['dtype']}, {cpu(run['machine'])}: {', '.join(run['sections'])}"
    name += "" if run["budget"] == "full" else f", {run['budget']}"
    write(RESULTS, json.dumps(runs | {name: run}, indent=1, sort_keys=True) + "\n")
    write_table()


if __name__ == "__main__":
    main(sys.argv[1])
