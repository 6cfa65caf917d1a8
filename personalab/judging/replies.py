"""Judges' replies: the form in which a prompt wants the score (a bare number, a tag, JSON, another scale, REFUSAL), and
how to read the score in a reply."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from personalab.judging.asked import JudgePromptError
from personalab.judging.scales import named_scale

DELUSION_TAGS = ("avoiding_delusional_amplification", "normalizing_vs_exceptionalizing")
_TWO = re.compile(
    r"\b(yes|true|1|0)\b(?:\W{0,6}(?:or|/|\|)\W{0,6}| (?:if|when)\b[^\n\d]{3,120}?)\b(no|false|0|1)\b", re.I
)
_OTHER = re.compile(
    r"\b(?:letter grade|from A to [FEZ]|A[-–]F\b|low\W+(?:medium|moderate)\W+(?:or\W+)?high|percentile"
    r"|strongly (?:dis)?agree)",
    re.I,
)
_TAG = re.compile(r"<(\w*(?:score|rating|grade)\w*)>", re.I)
_JSON = re.compile(r"\{\{?\s*[\"'](\w+)[\"']\s*:")

_THOUGHT = r"(?:think|thinking|thought|reasoning|analysis|scratchpad)"  # in <>, [] (Magistral) or ◁▷ (Kimi)
_REASONING = re.compile(rf"[<\[◁]({_THOUGHT})[>\]▷].*?[<\[◁]/\1[>\]▷]", re.I | re.S)
_REASONING_END = re.compile(rf"\A.*(?:[<\[◁]/{_THOUGHT}[>\]▷]|<\|channel\|>final\b[^<]*<\|message\|>)", re.I | re.S)
_REASONING_BEGIN = re.compile(rf"<{_THOUGHT}>|[\[◁]think[\]▷]|<\|channel\|>(?:analysis|commentary)\b", re.I)
_FENCE = re.compile(r"```\w*\n?(.*?)```", re.S)
_WORDS = r"(?:score|rating|grade|mark|verdict|value|points?|answer|result)"
_TAGGED = re.compile(rf"<(\w*{_WORDS}\w*)>(.*?)</\1>", re.I | re.S)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_KEY = re.compile(_WORDS, re.I)
_LIMIT = re.compile(r"max|min|lowest|highest|scale|confidence", re.I)
_SCORE = r"(?<![\w.,/-])-?\d++(?:[.,]\d+)*+(?![\w/]|[-–—]\d)"
_LABELLED = re.compile(
    rf"(?P<final>\b(?:final|overall|total|therefore|so)\b[^\n\d]{{0,20}}?)?"
    rf"\b(?:{_WORDS}(?:(?:[ \t]+[a-z'’-]+){{1,3}}?(?=\s*[:=])|\s+(?:is|of|would be|should be|as))?"
    r"|(?:I|I'd|I’d|I'll|would|will)\s+(?:give|rate|score|assign|say)"
    rf"(?:\s+(?:it|this|that|the \w+))?(?:\s+(?:a|an|as))?)\]?\s*[:=→-]*\s*[\"'(\[]*(?P<number>{_SCORE}|REFUSAL\b)",
    re.I,
)
_RANGE = re.compile(
    r"(?P<word>(?:on|with|using)?\s*(?:a|the)?\s*\bscale\b[^.\n\d-]{0,20}|\b(?:from|between)\s+)?"
    r"(?<![\w.])(?P<low>-?\d+)\s*(?:-|–|—|to|and|through)\s*(?P<high>-?\d+)(?![\w.]\d|\d|\w)(?P<after>[ -]scale)?",
    re.I,
)
_OUT_OF = re.compile(r"(?P<value>-?\d+(?:\.\d+)?)\s*(?P<how>/|out of|\bof)\s*(?P<most>\d+)(?![\w]|\.\d)", re.I)
_PERCENT = re.compile(r"(?<=\d)\s*(?:%|percent\b)", re.I)
_REFUSAL = re.compile(
    r"(?:\b(?P<no>(?i:not|no|isn't|isn’t|never|without))\s+(?:an?\s+|any\s+|the\s+)?)?\bREFUSAL\b"
    r"(?P<denied>\s*[:=]\s*(?i:no|false|none)\b)?"
)
_NOT_EXACT = re.compile(
    r"(?:(?<![\w\"'/-])[<>≤≥]=?|\b(?:less|more|lower|higher|greater) than|\bat (?:least|most)"
    rf"|\b(?:over|under|above|below))\s*({_SCORE})(?!\d*\s*>)",
    re.I,
)
_MINUS = (
    (re.compile(r"[\u2212\uff0d\ufe63]|\bminus\s+(?=\d)", re.I), "-"),
    (re.compile(r"(?<=\d)\s*[–—]\s*(?=\d)"), "-"),
)
_DECLINES = re.compile(
    r"\b(?:cannot|can['’]t|won['’]t|not|unable to|decline to)\s+(?:\w+\s+)?(?:rate|score|judge|evaluate|assess|give)\b",
    re.I,
)
_ASIDE = re.compile(r"[(\[]([^()\[\]\n]*)[)\]]")
_CONTROL = re.compile(r"<\|[^|<>\s]{1,40}\|>")  # a judge's own template's: `<|begin_of_box|>85<|end_of_box|>` (GLM)
_EITHER = re.compile(rf"(?P<one>{_SCORE})\s*(?:or|to|and)\s+(?P<other>-?\d)")
_CHANGED = re.compile(r"\d\s*(?:→|[-=]+>)\s*-?\d")
_ENUMERATED = re.compile(r"^\s*\d+[.)]\s", re.M)


@dataclass(frozen=True)
class ReplyFormat:
    """How to write a score down.

    Attributes:
        low, high: ends of the scale.
        tag: name of an XML tag to put the number in.
        key: key of a JSON object to put it in.
        refusals: whether the prompt wants the word REFUSAL for an answer that refuses.
        delusion: whether it wants the two tags of the delusion rubric.
        words: what to say from the middle of the scale up and below it, where it wants YES or NO.
    """

    low: float = 0
    high: float = 100
    tag: str | None = None
    key: str | None = None
    refusals: bool = False
    delusion: bool = False
    words: tuple[str, str] | None = None

    @classmethod
    def asked_for(cls, instructions: str, default: tuple[int, int]) -> ReplyFormat:
        """Read the wanted form out of a prompt's instructions; `default` is the scale where they name none.

        Raises:
            JudgePromptError: if they name a scale that this judge has no numbers for, such as letter grades.
        """
        scale, words = named_scale(instructions), _TWO.search(instructions)
        if not scale and not words and (other := _OTHER.search(instructions)):
            raise JudgePromptError(
                f"The judge has no scale like {other[0]!r}: ask for a number, say from 0 to 100, or YES or NO."
            )
        low, high = scale or default
        tag = _TAG.search(instructions)
        delusion = all(name in instructions for name in DELUSION_TAGS)
        pair = (max(words.groups()), min(words.groups())) if words and not scale else None  # YES > NO, true > false
        return cls(low, high, tag and tag[1], _json_key(instructions), "REFUSAL" in instructions, delusion, pair)

    def write(self, share: float) -> str:
        """The reply for a score that lies at `share` (0 to 1) of the scale."""
        value = self.low + share * (self.high - self.low)
        number = f"{value:.2f}" if self.low == 0 and self.high <= 1 else str(round(value))
        if self.words:
            number = self.words[0] if share >= 0.5 else self.words[1]
        if self.tag:
            return f"<{self.tag}>{number}</{self.tag}>"
        return json.dumps({self.key: number if self.words else json.loads(number)}) if self.key else number


def _json_key(instructions: str) -> str | None:
    """The key under which the number goes: of those of the first object shown, one called score or the like."""
    if not (first := _JSON.search(instructions)):
        return None
    keys = re.findall(r"[\"'](\w+)[\"']\s*:", instructions[first.start() :].partition("}")[0])
    return next((key for key in keys if _KEY.search(key)), keys[0])


def read_score(reply: str, low: float = 0, high: float = 100) -> float | None:
    """The score in a judge's reply, on the scale from `low` to `high`.

    Reasoning (`<think>…</think>`) is left out, and so are mentions of the scale: "85/100", "2 out of 3", "on a scale of
    0 to 100". A number in a tag, a JSON field or after a label ("Score: 85", "I would give 85") counts before others;
    without one, the only number, or the one that has the first or the last line to itself.

    Returns:
        The score: a whole number, rounded where the scale has 20 steps or more; on a scale of 0 to 1 as it stands.
        None for REFUSAL.

    Raises:
        ValueError: if there is no score, it is off the scale, a fraction on a scale of few steps, given on another
            scale, or if it is unclear which of several numbers it is.
    """
    text = _REASONING_END.sub("", _REASONING.sub(" ", reply))
    text = _REASONING_BEGIN.split(text)[0]  # cut off in the middle of its thoughts
    text = _CONTROL.sub(" ", text)
    for sign, plain in _MINUS:
        text = sign.sub(plain, text)
    found = {_one(part, low, high) for part in _marked(text)} or {_one(text, low, high)}
    if len(found) > 1:
        raise ValueError(f"Which of these is the score, {sorted(map(str, found))}? The judge's reply: {_shown(reply)}")
    return found.pop()


def _marked(text: str) -> Iterator[str]:
    """What stands in a tag, in `\\boxed{}` or under a key of a JSON object that is called score, rating, ….

    The last kind that occurs wins; of tags, the last one that is called final.
    """
    if parsed := list(_objects(_FENCE.sub(r" \1 ", text))):
        items = [item for found in parsed for item in found.items()]
        if any("refus" in key.lower() and value is True for key, value in items):
            yield "REFUSAL"
        numbers = [(k, str(v)) for k, v in items if v is not None and not isinstance(v, bool | dict | list)]
        numbers = [(key, value) for key, value in numbers if not _LIMIT.match(key)]
        named = [value for key, value in numbers if _KEY.search(key)]
        yield from named or [value for _, value in numbers if re.fullmatch(r"-?[\d.]+", value.strip())]
        return
    tags = _TAGGED.findall(text)
    last = [content for tag, content in tags if "final" in tag.lower()] or [content for _, content in tags]
    yield from last or _BOXED.findall(text)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text, whatever stands around them; not one that has a key twice."""
    decoder, end = json.JSONDecoder(object_pairs_hook=_no_key_twice), 0
    for brace in itertools.islice(re.finditer(r"{", text), 100):
        if brace.start() < end:
            continue  # within the object before
        try:
            found, end = decoder.raw_decode(text, brace.start())
        except (ValueError, RecursionError):
            continue
        yield found


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key comes twice")
    return dict(pairs)


def _one(text: str, low: float, high: float) -> float | None:
    """The one score in a text without reasoning and markup."""
    shown = _shown(text)
    plain = re.sub(r"[*`#]+|__+", " ", text).strip()
    plain = _without_scale(plain, low, high, shown)
    words = [m for m in _REFUSAL.finditer(plain) if not m["no"] and not m["denied"]]
    numbers = [m for m in re.finditer(_SCORE, plain)]
    if re.fullmatch(r"\W*refusal\W*", plain, re.I) or (words and (words[0].start() < 2 or not numbers)):
        return None
    labelled = list(_LABELLED.finditer(plain))
    final = {m["number"] for m in labelled if m["final"]} or {m["number"] for m in labelled}
    if not final:
        if words:
            raise ValueError(f"A refusal or a score? The judge's reply: {shown}")
        final = _alone(plain)
    if not final and numbers:
        if _DECLINES.search(plain):
            raise ValueError(f"The judge declines to score, in words other than REFUSAL: {shown}")
        final = {m[0] for m in numbers}
    if len({_value(number) for number in final}) > 1:
        raise ValueError(f"Which of the numbers {sorted(final)} is the score? The judge's reply: {shown}")
    if not final:
        raise ValueError(f"No score in the judge's reply: {shown}")
    if final & set(_NOT_EXACT.findall(plain)):
        raise ValueError(f"A limit is no score. The judge's reply: {shown}")
    if final & {m["one"] for m in _EITHER.finditer(plain)}:
        raise ValueError(f"One of two numbers, or between them? The judge's reply: {shown}")
    if _CHANGED.search(plain):
        raise ValueError(f"Before the arrow or behind it? The judge's reply: {shown}")
    number = final.pop()
    if low < 0 and re.search(rf"[-–—]\s+{re.escape(number)}(?![\d.])", plain):
        raise ValueError(f"A minus or a dash before {number}? The judge's reply: {shown}")
    return _on_scale(number, low, high, shown)


def _without_scale(text: str, low: float, high: float, shown: str) -> str:
    """`text` without its mentions of the scale.

    Raises:
        ValueError: where it names another scale.
    """

    def drop_range(match: re.Match[str]) -> str:
        if (float(match["low"]), float(match["high"])) == (low, high):
            return " "
        if (match["word"] and "scale" in match["word"].lower()) or match["after"]:
            raise ValueError(f"The judge uses another scale than {low:g} to {high:g}: {shown}")
        return match[0]

    def drop_most(match: re.Match[str]) -> str:
        if match["how"].lower() == "of" and float(match["most"]) != high:
            return match[0]  # "2 of 3 claims"
        if float(match["most"]) != high:
            raise ValueError(f"The judge's score is out of {match['most']}, not of {high:g}: {shown}")
        return match["value"]

    def drop_ends(match: re.Match[str]) -> str:  # "(0 = none; 100 = full)"
        return " " if {float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", match[1])} == {low, high} else match[0]

    text = _OUT_OF.sub(drop_most, _RANGE.sub(drop_range, _ASIDE.sub(drop_ends, text)))
    if high != 100 and _PERCENT.search(text):
        raise ValueError(f"The judge's score is a percentage, on a scale from {low:g} to {high:g}: {shown}")
    return _PERCENT.sub(" ", text)


def _alone(text: str) -> set[str]:
    """The numbers that have the first or the last line for themselves, or begin the reply before a comma, a colon …."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ends = {lines[0], lines[-1]} if lines else set()
    scores = [(line, m[0]) for line in ends for m in re.finditer(_SCORE, line)]
    found = {number for line, number in scores if not re.sub(r"[\W_]", "", line.replace(number, ""))}
    begins = re.match(rf"[\W_]*?({_SCORE})\s*(?:[,:;(–—.)]|-\s|because\b)", text)
    return found or ({begins[1]} if begins and not _ENUMERATED.search(text[begins.end() :]) else set())


def _value(number: str) -> float | str:
    """The number, or as it stands what is none: REFUSAL, "85,5"."""
    return float(number) if re.fullmatch(r"-?\d+(?:\.\d+)?", number) else number


def _on_scale(number: str, low: float, high: float, shown: str) -> float | None:
    value = _value(number)
    if isinstance(value, str):
        if value.upper() == "REFUSAL":
            return None
        raise ValueError(f"The judge's score {value} is no number: {shown}")
    if not low <= value <= high:
        raise ValueError(f"The judge's score {number} is not on the scale from {low:g} to {high:g}: {shown}")
    if high - low <= 1:
        return value
    if "." in number and high - low < 20:
        raise ValueError(f"The judge's score {number} is no whole number, on a scale from {low:g} to {high:g}: {shown}")
    return int(value + 0.5) if value >= 0 else -int(0.5 - value)


def _shown(reply: str) -> str:
    return repr(reply if len(reply) <= 200 else f"{reply[:200]}…")
