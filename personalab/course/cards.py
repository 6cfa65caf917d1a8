"""The exercises of a section as their cards describe them: titles, minutes, hints, graders and points."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from personalab.course.cells import name, read
from personalab.course.myst import sections

_TITLE = re.compile(r"^#{2,4} Exercise(?: \(bonus\))?: (.+)$", re.M)
_MINUTES = re.compile(r"^> \*\*Difficulty\*\* ([●○]+) .*?(\d+) minutes", re.M)
_FOLDED = re.compile(r"<details>\s*<summary>(Hint[^<]*)</summary>(.*?)</details>", re.S)


@dataclass(frozen=True)
class Card:
    """One exercise.

    Attributes:
        number: its section and place there, as "1.4".
        difficulty: of five dots.
        hints: each with its title.
        graders: points by the grader's name.
    """

    number: str
    title: str
    minutes: int
    difficulty: int
    hints: tuple[tuple[str, str], ...]
    graders: dict[str, int]


def cards(folder: Path) -> dict[str, list[Card]]:
    """Every section's cards, by its key; `folder` holds the exercise notebooks.

    Raises:
        ValueError: a card lacks its line of difficulty, importance and minutes.
    """
    return {key: _cards(key, path) for key, path in sections(folder, ".ipynb").items()}


def _cards(section: str, path: Path) -> list[Card]:
    found: list[Card] = []
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            parts = _TITLE.split(cell.source)
            if found and not found[-1].graders:  # a card's hints may stand in cells of their own
                found[-1] = _with_hints(found[-1], parts[0])
            for title, text in zip(parts[1::2], parts[2::2], strict=True):
                found.append(_card(f"{section}.{len(found) + 1}", title, text, path))
        elif found and cell.metadata.get("nbgrader", {}).get("grade"):
            found[-1].graders[name(cell) or ""] = cell.metadata["nbgrader"]["points"]
    return found


def _card(number: str, title: str, text: str, path: Path) -> Card:
    line = _MINUTES.search(text)
    if line is None:
        raise ValueError(f"{path.name}, exercise {title!r}: its card begins with difficulty, importance and minutes.")
    return _with_hints(Card(number, title, int(line[2]), line[1].count("●"), (), {}), text)


def _with_hints(card: Card, text: str) -> Card:
    new = tuple((title.strip(), body.strip()) for title, body in _FOLDED.findall(text))
    return Card(card.number, card.title, card.minutes, card.difficulty, card.hints + new, card.graders)
