"""The generated parts of `docs/instructors.md`: `python -m checks.instructors` writes them anew.

Times and points are the cards'; the common mistakes of an exercise are the wrong solutions in its bank; what grading a
cohort took is what `benchmarks/bench_cohort.py` measured.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from checks.bank import RIGHT, WRONG
from checks.bank.grading import BANKS, solutions
from personalab.course.cards import Card, cards
from personalab.files import write
from personalab.paths import ROOT

PAGE = ROOT / "docs" / "instructors.md"
MEASURED = ROOT / "benchmarks" / "results" / "cohort.json"
COHORT = 200  # notebooks of one section: what an evening must do
_PART = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.S)


def page() -> str:
    """What the page must say."""
    found = cards(ROOT / "exercises")
    measured = json.loads(MEASURED.read_text("utf-8"))
    parts = {"schedule": _schedule(found), "mistakes": _mistakes(found), "cohort": _cohort(measured)}
    parts["banks"] = _banks()
    return _PART.sub(lambda part: f"{part[1]}{parts[part[2]]}\n{part[3]}", PAGE.read_text("utf-8"))


def _schedule(found: dict[str, list[Card]]) -> str:
    lines = ["| section | exercises | minutes by the cards | points | the longest |", "|---|---|---|---|---|"]
    for section, own in found.items():
        longest = max(own, key=lambda card: card.minutes)
        points = sum(sum(card.graders.values()) for card in own)
        shown = f"{longest.number} {longest.title}, {longest.minutes}"
        lines.append(f"| {section} | {len(own)} | {sum(card.minutes for card in own)} | {points} | {shown} |")
    every = [card for own in found.values() for card in own]
    minutes, points = sum(card.minutes for card in every), sum(sum(card.graders.values()) for card in every)
    return "\n".join([*lines, f"| all | {len(every)} | {minutes} | {points} | |"])


def _banks() -> str:
    """How many solutions each section's graders are tried on; `make test` fails where one gets the wrong verdict."""
    counts: dict[str, Counter[str]] = {}
    for name in BANKS:
        folder = name.split(".")[2]
        counts.setdefault(folder, Counter())["exercises"] += 1
        counts[folder].update(solution.verdict for _, solution in solutions(importlib.import_module(name)))
    lines = ["| section | graders | right solutions, accepted | wrong solutions, refused |", "|---|---|---|---|"]
    for folder, found in counts.items():
        section = folder.removeprefix("section_").replace("4_bonus", "4b")
        lines.append(f"| {section} | {found['exercises']} | {found[RIGHT]} | {found[WRONG]} |")
    every = sum(counts.values(), Counter[str]())
    return "\n".join([*lines, f"| all | {every['exercises']} | {every[RIGHT]} | {every[WRONG]} |"])


def _cohort(measured: dict[str, Any]) -> str:
    """Seconds a notebook are those of the honest ones; hostile ones end at limits that whoever grades may set."""
    lines = [
        "| section | notebooks, hostile kinds | wrong grades | graded again | a notebook: computing, by the clock "
        f"| {COHORT} on 2 cores: computing, by the clock | the machine was also busy |",
        "|---|---|---|---|---|---|---|",
    ]
    for section, found in measured.items():
        honest = [kind for name, kind in found["by_kind"].items() if name != "hostile"]
        n = sum(kind["notebooks"] for kind in honest)
        computing, clock = (
            sum(kind["notebooks"] * kind[key] for kind in honest) / n
            for key in ("mean_seconds_computing", "mean_seconds_by_the_clock")
        )
        again = f"{found['graded_again']}, {len(found['other_points'])} of them with other points"
        evening = f"{COHORT * computing / 2 / 60:.0f} min"
        evening += f", {COHORT * clock / 2 / 60:.0f} min" if found["jobs"] == 2 else ", by the clock not measured"
        lines.append(
            f"| {section} | {found['notebooks']}, {len(found['hostile'])} | {len(found['wrong_grades'])} | {again} "
            f"| {computing:.1f} s, {clock:.1f} s | {evening} | load {found['load_before_and_after'][0]:.0f} before it |"
        )
    notes = [found["note"] for found in measured.values() if "note" in found]
    return "\n".join([*lines, *(f"\n{note}" for note in notes)])


def _mistakes(found: dict[str, list[Card]]) -> str:
    lines = []
    for card in (card for own in found.values() for card in own):
        lines.append(f"**{card.number} {card.title}** ({card.minutes} minutes, difficulty {card.difficulty} of 5)\n")
        for grader in card.graders:
            lines.append(f"* `{grader}`: {'; '.join(_wrong(grader))}.")
        lines.append("")
    return "\n".join(lines).rstrip()


def _wrong(grader: str) -> Iterator[str]:
    """The bank's wrong solutions: by their docstring's first line where they have one, else by their name."""
    path = next((ROOT / "checks" / "bank").glob(f"section_*/{grader}.py"))
    body = ast.parse(path.read_text("utf-8")).body
    functions = [f for f in body if isinstance(f, ast.FunctionDef)]
    makers = {"wrong"} | {f.name for f in functions if re.search(r"return .*wrong\(", ast.unparse(f))}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and any(_maker(d) in makers for d in node.decorator_list):
            yield _begun(ast.get_docstring(node) or _words(node.name))
        elif isinstance(node, ast.Assign) and _maker(node.value) in makers and isinstance(node.targets[0], ast.Name):
            yield _words(node.targets[0].id)


def _maker(call: ast.expr) -> str:
    """The name that a call begins with: of `wrong("…")(…)` it is wrong."""
    while isinstance(call, ast.Call):
        call = call.func
    return call.id if isinstance(call, ast.Name) else ""


def _begun(text: str) -> str:
    """The first line, without a capital or a full stop."""
    line = text.split("\n")[0].rstrip(".")
    return line[0].lower() + line[1:] if line[1:2].islower() or line[1:2] == " " else line


def _words(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").lower()


if __name__ == "__main__":
    write(PAGE, page())
