"""How far a learner is: `python -m personalab progress`, `hint`, `explain`, and the panel `utils.progress()`."""

from __future__ import annotations

import difflib
import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from personalab.course.cards import Card, cards
from personalab.paths import ROOT
from personalab.records import progress as kept
from personalab.records.progress import Last

PASSED, TRIED, OPEN = "●", "◐", "○"
STATES = {PASSED: "passes", TRIED: "does not pass yet", OPEN: "not tried"}
LEGEND = "  ".join(f"{sign} {state}" for sign, state in STATES.items())


@dataclass(frozen=True)
class Progress:
    """Every exercise and what its graders said last."""

    cards: Mapping[str, list[Card]]
    said: Mapping[str, Last]

    def sign(self, card: Card) -> str:
        """● all graders pass, ◐ some work was refused, ○ there is none."""
        said = [self.said.get(name) for name in card.graders]
        if all(last and last.passed for last in said):
            return PASSED
        return TRIED if any(last and not last.message.startswith(kept.STUB) for last in said) else OPEN

    def points(self, section: str) -> tuple[int, int]:
        """Reached and possible."""
        all_points = {name: points for card in self.cards[section] for name, points in card.graders.items()}
        reached = sum(points for name, points in all_points.items() if name in self.said and self.said[name].passed)
        return reached, sum(all_points.values())

    def next(self) -> Card | None:
        """The first exercise that does not pass."""
        every = [card for found in self.cards.values() for card in found]
        return next((card for card in every if self.sign(card) != PASSED), None)

    def __str__(self) -> str:
        lines = []
        for section, found in self.cards.items():
            reached, of = self.points(section)
            lines.append(f"Section {section}: {reached} of {of} points")
            lines += [f"  {self.sign(card)} {card.number:5} {card.title} ({card.minutes} min)" for card in found]
        after = self.next()
        lines += [LEGEND, f"Next: {after.number}, {after.title}." if after else "Every exercise passes."]
        lines += [_stuck(after)] if after else []
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = []
        for section, found in self.cards.items():
            reached, of = self.points(section)
            signs = " ".join(self._shown(card) for card in found)
            rows.append(f"<tr><td>Section {section}</td><td>{signs}</td><td>{reached} of {of} points</td></tr>")
        after = self.next()
        last = f"Next: {after.number}, {after.title}. {_stuck(after)}" if after else "Every exercise passes."
        return f"<table>{''.join(rows)}</table><p>{LEGEND}<br>{html.escape(last)}</p>"

    def _shown(self, card: Card) -> str:
        """A sign that says what it means, to a pointer and to a screen reader."""
        sign = self.sign(card)
        words = html.escape(f"{card.number} {card.title}: {STATES[sign]}")
        return f'<span role="img" title="{words}" aria-label="{words}">{sign}</span>'


def progress(root: Path = ROOT) -> Progress:
    """Of the workbook in `root`."""
    return Progress(cards(root / "exercises"), kept.read(root / "workbook"))


def chosen(name: str, of: Progress) -> Card:
    """The exercise of this number ("1.4"), grader, function or class, or of these words of its title; of "", the first
    that does not pass, or the first of all.

    Raises:
        ValueError: there is none, or more than one; says which are like it.
    """
    every = [card for found in of.cards.values() for card in found]
    if not name:
        return of.next() or every[0]
    names = {_plain(known): card for card in every for known in (card.number, card.title, *card.graders)}
    if card := names.get(_plain(name)):
        return card
    words = "" if name[0].isdigit() else _plain(name)
    part = {card.number: card for known, card in names.items() if words and words in known}
    if len(part) == 1:
        return next(iter(part.values()))
    like = list(part.values()) or [names[n] for n in difflib.get_close_matches(_plain(name), names, 3)]
    which = f" Do you mean {', or '.join(f'{c.number} ({c.title})' for c in like)}?" if like else ""
    raise ValueError(f"No exercise {name!r}: name it by its number, as python3 -m personalab progress shows it.{which}")


def _plain(name: str) -> str:
    """`ActivationCapper`, `activation_capper` and `test_activation_capper` are one."""
    return re.sub(r"^test|[^a-z0-9.]", "", name.lower())


def _stuck(card: Card) -> str:
    return f"Stuck? In a terminal: python3 -m personalab hint {card.number}"


def hint(name: str, root: Path = ROOT) -> str:
    """The hints on an exercise's card."""
    card = chosen(name, progress(root))
    hints = [f"{title}\n{text}" for title, text in card.hints] or ["Its card has no hints."]
    return "\n\n".join([f"{card.number} {card.title}", *hints])


def explain(name: str, root: Path = ROOT) -> str:
    """What the graders of an exercise said last."""
    found = progress(root)
    card, lines = chosen(name, found), []
    for grader in card.graders:
        last = found.said.get(grader)
        said = "not called yet" if last is None else last.message or "all checks passed"
        lines.append(f"{grader}{f' ({_local(last.when)})' if last else ''}: {said}")
    return "\n\n".join([f"{card.number} {card.title}", *lines, f"Hints: python3 -m personalab hint {card.number}"])


def _local(when: str) -> str:
    """A time of the record, on this machine's clock; as it is, where somebody has changed it."""
    try:
        return f"{datetime.fromisoformat(when).astimezone():%Y-%m-%d %H:%M}"
    except ValueError:
        return when
