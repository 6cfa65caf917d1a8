"""The scale that a judge prompt names, and which way it runs."""

from __future__ import annotations

import re

from personalab.judging.asked import JudgePromptError
from personalab.judging.rubrics import TRAIT_STEMS

LARGEST = 1000  # our choice: a scale beyond it is a year or a price
_COUNT = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "nine": 9, "ten": 10}
_COUNT |= {"eight": 8, "hundred": 100, "one hundred": 100, "a hundred": 100}
_NUMBER = rf"(?<![\w.])(-?\d{{1,4}}(?:\.\d)?|(?:{'|'.join(sorted(_COUNT, key=len, reverse=True))})\b)"
_SCALE = (
    re.compile(rf"{_NUMBER}\s*(?:\([^)]{{0,80}}\)\s*)?(?:to|through|and|-|–|—)\s*\+?{_NUMBER}(?![\d%])", re.I),
    re.compile(rf"(?:out of |(?<![\w/])(?:X|N|_+|\d{{1,3}})\s*/\s*){_NUMBER}(?![\d/])", re.I),
)
_RATED = re.compile(r"\b(?:scal|scor|rat|grad|number|how\b|degree|extent|from|between)", re.I)
_POINTS = re.compile(rf"{_NUMBER}[- ]point\b", re.I)
_LEVEL = re.compile(r"^[^\w-]*(?:- )?(-?\d{1,3})\s*(?:=|:|-|–|—|\)|if\b|means\b|\()", re.M)
_LISTED = re.compile(r"(?<![\w.-])-?\d{1,2}(?:\s*,\s*-?\d{1,2})+,?\s+or\s+-?\d{1,2}\b")
_LENGTH = re.compile(r"\s*(?:short |brief |full )?(?:sentence|word|paragraph|line|bullet|token|minute)", re.I)
_WITHOUT = re.compile(
    r"\b(?:not?|non|none|never|free|least|absent|without|lacks?|minimal\w*|low|little|barely|hardly)\b|n['’]t\b", re.I
)
_FREE_OF = re.compile(r"\w*[ -](?:free|absent)\b", re.I)
_END = re.compile(r"(?<![\w.])(-?\d{1,3})\s*(?:=|:|\(|means\b|is\b)\s*[\"“'(]*([^\n,;.)\d]{1,60})", re.I)


def named_scale(instructions: str) -> tuple[float, float] | None:
    """The scale that instructions name: a range near a word about rating, "out of 10", "X/10", "0, 1 or 2", "10-point",
    or their levels."""
    found = []
    for match in (m for pattern in _SCALE for m in pattern.finditer(instructions)):
        if _LENGTH.match(instructions, match.end()):  # "explain in 1-2 sentences"
            continue
        ends = [float(_COUNT.get(end.lower(), end)) for end in match.groups()]
        low, high = (0.0, ends[0]) if len(ends) == 1 else (min(ends), max(ends))  # "from 10 (very) to 1"
        near = _RATED.search(instructions[max(0, match.start() - 40) : match.start()])
        if low < high <= LARGEST and (low in (0, 1) or low == -high):
            return low, high
        if low < high <= 100 and near:
            found.append((low, high))
    if found:
        return found[0]
    if listed := _LISTED.search(instructions):
        numbers = [int(n) for n in re.findall(r"-?\d+", listed[0])]
        if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            return float(numbers[0]), float(numbers[-1])
    if points := _POINTS.search(instructions):
        most = float(_COUNT.get(points[1].lower(), points[1]))
        return (0.0 if most >= 100 else 1.0), most
    levels = [int(n) for n in _LEVEL.findall(instructions)]
    if len(levels) >= 2 and (min(levels) in (0, 1) or min(levels) == -max(levels)) and max(levels) > min(levels):
        return float(min(levels)), float(max(levels))
    return None


def check_direction(instructions: str, trait: str, high: float) -> None:
    """Raise JudgePromptError where the top of the scale is the absence of the trait: "0 = very evil, 100 = not evil".

    The judge's scores rise with the trait.
    """
    stems = TRAIT_STEMS.get(trait, re.escape(trait))
    ends = [
        (float(n), bool(_WITHOUT.search(label[: at.start()]) or _FREE_OF.match(label[at.end() :])))
        for n, label in _END.findall(instructions)
        if (at := re.search(stems, label, re.I))
    ]
    without, most = ([n for n, absent in ends if absent is which] for which in (True, False))
    if high in without or (without and most and min(without) > max(most)):
        raise JudgePromptError(
            f"The scale runs the other way: its top is no {trait} at all. The judge's scores rise with the trait: turn "
            "the scale round, and the scores."
        )
