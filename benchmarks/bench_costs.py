"""How cost grows: with texts, depth, length, rows, coefficients, steps; in calls to a server; on two processes.

    python -m benchmarks.bench_costs --part engine     # or: make bench, for all of it

Results go to `benchmarks/results/costs.json`; the figure beside it and the tables in `benchmarks/README.md` are drawn
from them. Processor seconds of one thread, so that what else the machine does disturbs little; calls a second go by
the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib import metadata
from typing import Any

import torch

from benchmarks.costs import engine, figure, plain, server, several, table
from benchmarks.costs.quantity import Quantity, in_rounds
from personalab.files import write
from personalab.setup.machine import cpu_name

DTYPE = "float32"
Part = Callable[[int], dict[str, Any]]


def _quantities(made: Callable[[], Mapping[str, Quantity]]) -> Part:
    return lambda rounds: {"quantities": in_rounds(made(), rounds)}


PARTS: dict[str, Part] = {
    "engine": _quantities(engine.quantities),
    "plain": _quantities(plain.quantities),
    "server": server.measured,
    "several": lambda rounds: {"works": several.measured(rounds)},
}
WITH_A_MODEL = ("engine", "several")


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(prog="python -m benchmarks.bench_costs", description=__doc__)
    options.add_argument("--part", action="append", choices=list(PARTS), help="repeatable (default: all)")
    options.add_argument("--rounds", type=int, default=3)
    args = options.parse_args(arguments)
    os.environ["PERSONALAB_DTYPE"] = DTYPE
    torch.set_num_threads(1)
    for name in args.part or PARTS:
        keep(name, PARTS[name](args.rounds) | {"made": made(name, args.rounds)})
    table.write_table()
    figure.draw(table.load())
    return 0


def made(part: str, rounds: int) -> dict[str, Any]:
    """Where, when and how a part was measured."""
    said: dict[str, Any] = {"cpu": cpu_name(), "threads": 1, "torch": metadata.version("torch")}
    said |= {"dtype": DTYPE} if part in WITH_A_MODEL else {}
    command = f"python -m benchmarks.bench_costs --part {part}"
    return said | {"date": date.today().isoformat(), "rounds": rounds, "command": command}


def keep(name: str, part: dict[str, Any]) -> None:
    """Replace this part of the results."""
    kept = json.loads(table.RESULTS.read_text(encoding="utf-8")) if table.RESULTS.exists() else {}
    whole = {part: kept[part] for part in PARTS if part in kept} | {name: part}
    write(table.RESULTS, json.dumps(whole, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    sys.exit(main())
