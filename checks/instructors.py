"""The generated parts of `docs/instructors.md`: `python -m checks.instructors` writes them anew.

Times and points are the cards'; the common mistakes of an exercise are the wrong solutions in its bank.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator

from personalab.course.cards import Card, cards
from personalab.files import write
from personalab.paths import ROOT

PAGE = ROOT / "docs" / "instructors.md"
_PART = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.S)


def page() -> str:
    """What the page must say."""
    found = cards(ROOT / "exercises")
    parts = {"schedule": _schedule(found), "mistakes": _mistakes(found)}
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


def _mistakes(found: dict[str, list[Card]]) -> str:
    lines = []
    for card in (card for own in found.values() for card in own):
        lines.append(f"**{card.number} {card.title}** ({card.minutes} minutes, difficulty {card.difficulty} of 5)\n")
        for grader in card.graders:
            lines.append(f"* `{grader}`: {'; '.join(_wrong(grader))}.")
        lines.append("")
    return "\n".join(lines).rstrip()


def _wrong(grader: str) -> Iterator[str]:
    """The bank's wrong solutions: by their docstring's first line where they have one of their own, else their name."""
    path = next((ROOT / "checks" / "bank").glob(f"section_*/{grader}.py"))
    bank = importlib.import_module(f"checks.bank.{path.parent.name}.{grader}")
    for name, entry in vars(bank).items():
        if getattr(entry, "verdict", "") == "wrong" and entry.__module__ == bank.__name__:
            own = entry.__doc__ if inspect.isfunction(entry) or "__doc__" in vars(entry) else None
            text = inspect.cleandoc(own).split("\n")[0].rstrip(".") if own else _words(name)
            yield text[0].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text


def _words(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").lower()


if __name__ == "__main__":
    write(PAGE, page())
