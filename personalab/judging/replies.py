"""The form in which a judge prompt wants its score: a bare number, a tag, JSON, another scale, REFUSAL."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

DELUSION_TAGS = ("avoiding_delusional_amplification", "normalizing_vs_exceptionalizing")
LARGEST = 1000  # our choice: a scale beyond it is a year or a price
_NUMBER = r"(?<![\d.])(\d{1,4}(?:\.\d)?)"
_SCALE = (
    re.compile(rf"{_NUMBER}\s*(?:\([^)]{{0,80}}\)\s*)?(?:to|through|and|-|–|—)\s*{_NUMBER}(?![\d%])", re.I),
    re.compile(rf"out of {_NUMBER}", re.I),
)
_LEVEL = re.compile(r"^\W*(\d{1,3})\s*(?:=|:|-|–|—|\)|if\b|means\b|\()", re.M)
_TAG = re.compile(r"<(\w*(?:score|rating|grade)\w*)>", re.I)
_JSON = re.compile(r"\{\{?\s*[\"'](\w+)[\"']\s*:")


@dataclass(frozen=True)
class ReplyFormat:
    """How to write a score down.

    Attributes:
        low, high: ends of the scale.
        tag: name of an XML tag to put the number in.
        key: key of a JSON object to put it in.
        refusals: whether the prompt wants the word REFUSAL for an answer that refuses.
        delusion: whether it wants the two tags of the delusion rubric.
    """

    low: float = 0
    high: float = 100
    tag: str | None = None
    key: str | None = None
    refusals: bool = False
    delusion: bool = False

    @classmethod
    def asked_for(cls, instructions: str, default: tuple[int, int]) -> ReplyFormat:
        """Read the wanted form out of a prompt's instructions."""
        low, high = _scale(instructions) or default
        tag, key = _TAG.search(instructions), _JSON.search(instructions)
        delusion = all(name in instructions for name in DELUSION_TAGS)
        return cls(low, high, tag and tag[1], key and key[1], "REFUSAL" in instructions, delusion)

    def write(self, share: float) -> str:
        """The reply for a score that lies at `share` (0 to 1) of the scale."""
        value = self.low + share * (self.high - self.low)
        number = f"{value:.2f}" if self.high <= 1 else str(round(value))
        if self.tag:
            return f"<{self.tag}>{number}</{self.tag}>"
        return json.dumps({self.key: json.loads(number)}) if self.key else number


def _scale(instructions: str) -> tuple[float, float] | None:
    for pattern in _SCALE:
        for match in pattern.finditer(instructions):
            low, high = (0.0, float(match[1])) if match.re.groups == 1 else (float(match[1]), float(match[2]))
            if low in (0, 1) and low < high <= LARGEST:
                return low, high
    levels = [int(n) for n in _LEVEL.findall(instructions)]
    if len(levels) >= 2 and min(levels) in (0, 1) and max(levels) > min(levels):
        return float(min(levels)), float(max(levels))
    return None
