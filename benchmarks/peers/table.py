"""The committed results as tables: `python -m benchmarks.peers.table` writes them into benchmarks/README.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from statistics import median
from typing import Any

from benchmarks.peers.environments import PEERS
from personalab.files import write
from personalab.paths import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "peers.json"
README = ROOT / "benchmarks" / "README.md"
BEGIN, END = "<!-- peers: drawn by benchmarks/peers/table.py -->", "<!-- end of peers -->"
TITLES = {
    "one": "extraction: one block, nothing shared",
    "shared": "extraction: one block, one system prompt",
    "all": "extraction: all blocks, nothing shared",
    "generate": "steered generation",
    "sweep": "a sweep of nine coefficients",
}
TEXTS = ("generate", "sweep")


def tables(results: dict[str, Any]) -> str:
    """One table for every task, by dtype and kind of processor."""
    return "\n\n".join(
        _table(task, on, results[on][task])
        for on in sorted(results, reverse=True)
        for task in TITLES
        if task in results[on]
    )


def _table(task: str, on: str, part: dict[str, Any]) -> str:
    unit, last = ("tokens/s", "same texts") if task in TEXTS else ("texts/s", "apart from ours")
    title = f"{TITLES[task]}, {on}"
    head = f"| {title} | default: {unit} | ours over it | at its best | ours over it | memory, MB | {last} |"
    lines = _lines(part["sides"], part["amount"], task)
    return "\n".join([head, "|---|---|---|---|---|---|---|", *lines, "", _below(part, task)])


def _lines(sides: dict[str, Any], amount: int, task: str) -> Iterator[str]:
    ours = sides["ours"]["default"]
    rate = amount / median(ours["processor"])
    yield f"| **ours** | {_short(rate)} | 1 | | | {_memory(ours)} | |"
    for side in (s for s in PEERS if s in sides):
        found = sides[side]
        version = PEERS[side][0].replace("==", " ")
        if "agreement" not in found:
            yield f"| {version} | {'; '.join(found['errors'])} | | | | | |"
            continue
        cells = [cell for kind in ("default", "best") for cell in _cells(found.get(kind), ours, amount)]
        best = found.get("best", found.get("default"))
        yield f"| {version} | {' | '.join(cells)} | {_memory(best)} | {_same(found['agreement'], task)} |"


def _cells(found: dict[str, Any] | None, ours: dict[str, Any], amount: int) -> tuple[str, str]:
    """Rate with its batch, and the median ratio of rounds with their range."""
    if found is None:
        return "fails", ""
    ratios = sorted(a / b for a, b in zip(found["processor"], ours["processor"], strict=True))
    batch = f" (batch {found['batch']})" if found["batch"] else ""
    rate = _short(amount / median(found["processor"]))
    return f"{rate}{batch}", f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def _memory(found: dict[str, Any]) -> str:
    return "" if found["peak_mb"] is None else f"{found['peak_mb']:.0f}"


def _same(agreement: list[float], task: str) -> str:
    return f"{min(agreement):.0%}" if task in TEXTS else f"{max(agreement):.0e}"


def _short(rate: float) -> str:
    return f"{rate:.1f}" if rate < 100 else f"{rate:,.0f}"


def _below(part: dict[str, Any], task: str) -> str:
    machine, limits = part["machine"], part["limits"]
    said = (
        f"{machine['cpu']}, {machine['threads']} thread, torch {machine['torch']}, {part['date']}, {part['rounds']} "
        f"rounds. Measured beside it: {limits['gflops']} GFLOP/s in the model's products, {limits['gbytes']} GB/s read."
    )
    if task == "one":
        seconds = median(part["sides"]["ours"]["default"]["processor"])
        tokens = part["amount"] * part["tokens_each"] / seconds
        share = tokens / limits["extraction_tokens"]
        said += f" Ours reads {tokens:,.0f} tokens/s, {share:.0%} of what these products allow."
    return said


def write_table() -> None:
    """Put the tables of the committed results between their marks in the README."""
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    write(README, f"{before}{BEGIN}\n\n{tables(results)}\n\n{END}{after}")


if __name__ == "__main__":
    write_table()
