"""The committed results as tables: `python -m benchmarks.costs.table` writes them, and the figure, into benchmarks/."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from benchmarks.costs.fit import Growth, growth
from personalab.files import write
from personalab.paths import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "costs.json"
README = ROOT / "benchmarks" / "README.md"
BEGIN, END = "<!-- costs: drawn by benchmarks/costs/table.py -->", "<!-- end of costs -->"
TITLES = {"engine": "the model", "plain": "around it, without a model"}
Results = Mapping[str, Any]


def tables(results: Results) -> str:
    """Growth, then calls to a server, then two processes; of what the results hold."""
    parts = [_growths(results[part], title) for part, title in TITLES.items() if part in results]
    parts += [_calls(results["server"])] if "server" in results else []
    parts += [_processes(results["several"])] if "several" in results else []
    return "\n\n".join(parts)


def _growths(part: Results, title: str) -> str:
    head = f"| {title} | sizes | should be | exponent | between the last two | fixed part + each | off that line |"
    return "\n".join([head, "|---|---|---|---|---|---|---|", *_rows(part["quantities"]), "", _made(part)])


def _rows(quantities: Results) -> Iterator[str]:
    for found in quantities.values():
        fit = growth(found["sizes"], found["processor"])
        sizes = f"{found['sizes'][0]:,} to {found['sizes'][-1]:,}"
        cells = (found["title"], sizes, str(found["should"]), _spread(fit.exponent), _spread(fit.at_the_end))
        yield f"| {' | '.join(cells)} | {line(fit)} | {fit.off:.0%} |"


def line(fit: Growth) -> str:
    """The straight line's two parts, in words."""
    return f"{_seconds(fit.fixed)} + {_seconds(fit.each)}"


def _seconds(value: float) -> str:
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs"), (1e9, "ns")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return "0"


def _spread(values: tuple[float, float, float]) -> str:
    middle, low, high = (f"{v:.2f}".replace("-0.00", "0.00") for v in values)
    return f"{middle} ({low} to {high})"


def _calls(part: Results) -> str:
    lines = [
        f"| calls to a server that waits {part['delay']} s | calls/s (rounds) | the server's limit | of it |",
        "|---|---|---|---|",
    ]
    for workers, rates in zip(part["workers"], part["rate"], strict=True):
        limit = workers / part["delay"]
        shown = f"{median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})"
        lines.append(f"| {workers} in flight | {shown} | {limit:.0f} | {median(rates) / limit:.0%} |")
    kept, bare = part["kept_ms"], part["not_kept_ms"]
    cost = f"A call costs {_ms(kept)} of our processor, {_ms(bare)} with `PERSONALAB_RESPONSE_CACHE=off`"
    most = f"one process therefore makes {1000 / median(kept):,.0f} calls a second at the most"
    return "\n".join([*lines, "", f"{cost}; {most}. {_made(part)}"])


def _ms(values: list[float]) -> str:
    return f"{median(values):.1f} ms ({min(values):.1f} to {max(values):.1f})"


def _processes(part: Results) -> str:
    lines = [
        "| two processes against one, one thread each | one, s | two, s | speed-up (rounds) | by the clock | same |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in part["works"].items():
        ratios = sorted(a / b for a, b in zip(found["one"], found["two"], strict=True))
        clock = median(found["clock_one"]) / median(found["clock_two"])
        shown = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        cells = f"{median(found['one']):.2f} | {median(found['two']):.2f} | {shown} | {clock:.2f}"
        lines.append(f"| {name} | {cells} | {'yes' if found['same'] else 'no'} |")
    return "\n".join([*lines, "", _made(part)])


def _made(part: Results) -> str:
    made = part["made"]
    dtype = f", {made['dtype']}" if "dtype" in made else ""
    return (
        f"{made['cpu']}, {made['threads']} thread{dtype}, torch {made['torch']}, {made['date']}, {made['rounds']} "
        f"rounds: `{made['command']}`."
    )


def load() -> Results:
    """The committed results."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def write_table() -> None:
    """Put the tables of the committed results between their marks in the README."""
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    write(README, f"{before}{BEGIN}\n\n{tables(load())}\n\n{END}{after}")


if __name__ == "__main__":
    from benchmarks.costs.figure import draw

    write_table()
    draw(load())
