"""What a judge prompt asks for: where the instructions after the answer begin, and which rubric they name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from personalab.judging.rubrics import TRAIT_STEMS, Rubric, known_trait

# How a paragraph of instructions begins, and what it speaks of.
_SCORING_LINE = re.compile(
    r"\W*(?:(?:please|now|finally|then),?\s+)*(?:(?:as|like) an? [\w -]{2,40},\s+)?"
    r"(?:rate|score|rating|respond|reply|answer with|return|output|give|provide"
    r"|write|evaluate|judge|grade|assess|decide|focus only|on a scale|use (?:the|this)|scale|rubric|criteria|your"
    r"|instructions|is the|does the|did the|how|do(?:n.t| not)|only|\d{1,3}\s*(?:=|:|-|–|—|\(|if\b|means\b)"
    r"|based on (?:the|this|that)|given (?:the|this) (?:above|exchange|conversation|answer|response|question)"
    r"|to what (?:degree|extent)|here (?:is|are) the|using the|the (?:score|rating|scale)|an? (?:score|rating) of"
    r"|what (?:score|rating|number)|scoring|(?:example|sample)s? (?:of )?(?:an? )?(?:output|reply|response|answer)s?\b"
    r"|note that|remember|(?:from|between) \d{1,3} (?:to|and) \d)",
    re.I,
)
SCORING_WORD = re.compile(r"\b(?:rat(?:e|ing)|scor(?:e|es|ing)|scale|grade|number|refusal|\d+)\b", re.I)
_SCALE = r"\d+\s*(?:\([^)\n]*\)\s*)?(?:to|and|through|-|–|—|=|:)\s*\d*|yes (?:or|/) no"
_ASKS = re.compile(
    rf"\b(?:how|what|which|whether|if|is|rate|score|judge|evaluate|assess|give|your|scales?)\b[^\n]*(?:{_SCALE})"
    rf"|(?:{_SCALE})[^\n]*\b(?:how|rate|score)\b|\b(?:score|rating|scale|tags?)\b[^\n]*<\w+>",
    re.I,
)
_HEADING = re.compile(
    r"#{1,6} *(?:your |the )?"
    r"(?:tasks?|instructions?|rubric|scale|criteria|scoring|rating|evaluation|output|reply|format)\b[^\n]*|[-=*_]{3,}",
    re.I,
)
_PROMPT_LABEL = re.compile(
    r"\W*(?:(?:your|final|the|my|total|overall) )?"
    r"(?:feedback(?=\W*$)|output|score|rating|number|grade|verdict|judge?ment|evaluation|assessment"
    r"|evaluation form[^\n]*|coherence|fluency|consistency|relevance|(?:example|sample)\b[^\n]*)\W*(?::[^\n]*|$)",
    re.I,
)
_QUOTED = r"""(?:\*\*(?P<bold>[^*\n]+)\*\*|["“](?P<quoted>[^\n]+?)["”](?=[\s.,;:!?)]|$)|['‘](?P<single>[^'’\n]+)['’])"""
_CHARACTER = re.compile(rf"\b(?:character|role|persona|play(?:s|ing)?)\b[^\n\"“”*']{{0,40}}?{_QUOTED}", re.I)
_PLAIN_CHARACTER = re.compile(
    r"\b(?:(?:character|role|persona|part) of|(?:role-?)?play(?:s|ed|ing)?(?: the (?:role|character|part))?(?: of| as)"
    r"|(?:act|pose|speak|answer|respond)(?:s|ed|ing)? as|(?:portray|impersonat|embod)\w+)"
    r" (?:an? |the )?([A-Za-z][\w' -]{1,80})",
    re.I,
)
_OPPOSITE = re.compile(rf"\b(?:non-?|un|not )(?:{'|'.join(TRAIT_STEMS.values())})\w*", re.I)
_STEM = rf"(?:{'|'.join(TRAIT_STEMS.values())})\w*"
_LACK = rf"\bhow (?:little|free (?:of|from)) {_STEM}|\b(?:rate|score|judge) (?:the )?(?:lack|absence) of {_STEM}"
_PAIR = re.compile(rf"\b({_STEM}),? (?:and|&) ({_STEM})", re.I)
_TRAIT = re.compile(rf"\btraits?\b[^\n\"“”*']{{0,40}}?{_QUOTED}|\btrait: *(?P<plain>[A-Za-z_ -]+)", re.I)
_BOLD = re.compile(r"\*\*(?P<bold>[A-Za-z][A-Za-z_ -]{2,30})\*\*")
_HOW = re.compile(
    r"\b(?:how|(?:degree|extent|level|amount) of|(?:answer|response|reply) (?:for|on))"
    r"\s+[\"“'*]*(?P<word>[a-z]{4,}(?:-[a-z]+)?)",
    re.I,
)
_NOT_A_TRAIT = {"much", "many", "well", "strongly", "often", "likely", "fully", "closely", "good", "clearly"}
_NOT_A_TRAIT |= {"consistent", "which", "this", "that", "they"}


class JudgePromptError(ValueError):
    """A judge prompt that marks no answer, or does not say what to score; the message says what was looked for."""


def closing_instructions(prompt: str, start: int, rubric_before: bool) -> int:
    """Where the instructions that close the prompt begin: at its end if there are none.

    Paragraphs are taken from the end upwards, as long as they give instructions. Where nothing was asked before the
    answer, something is asked after it, so the first that speaks of a scale counts however it begins.
    """
    end = len(prompt)
    asked = rubric_before
    paragraphs = [(m.start() + start, m[0]) for m in re.finditer(r"(?:^.*\S.*(?:\n|\Z))+", prompt[start:], re.M)]
    above = ["", *(paragraph.strip() for _, paragraph in paragraphs)]
    for (begin, paragraph), before in zip(reversed(paragraphs), above[-2::-1], strict=True):
        first, *rest = paragraph.rstrip("\n").split("\n")
        loose = (not asked and _ASKS.search(paragraph)) or (before[:1] == "#" and _HEADING.fullmatch(before))
        if _instructs(first, paragraph) or (loose and prompt[start:begin].strip()):
            blank = prompt[start:begin]
            if not blank.strip() and (rubric_before or blank.count("\n") < 2):
                break  # an answer may look like an instruction; after an empty line there is none
            end = begin
            asked = asked or not _labels_only(paragraph)
        else:
            if (end == len(prompt) or not asked) and (below := _closing_lines(rest)):
                end = begin + len(paragraph.rstrip("\n")) - below
            break
    return end


def _instructs(first: str, paragraph: str) -> bool:
    """Whether a paragraph, with its first line, gives instructions to a judge, by how it begins."""
    if _HEADING.fullmatch(first.strip()) or _labels_only(paragraph):
        return True
    return bool(_SCORING_LINE.match(first) and (SCORING_WORD.search(paragraph) or first.rstrip().endswith("?")))


def _labels_only(paragraph: str) -> bool:
    """Whether every line is a label for the judge to write behind: "Feedback:::", "Total rating:"."""
    return all(_PROMPT_LABEL.fullmatch(line) for line in paragraph.strip().split("\n"))


def _closing_lines(lines: list[str]) -> int:
    """How many characters, line breaks included, the last lines have that give instructions right below an answer."""
    found = 0
    for line in reversed(lines):
        if not (_SCORING_LINE.match(line) and re.search(r":$|\d|<", line)) and not _PROMPT_LABEL.fullmatch(line):
            break
        found += len(line) + 1
    return found


def asked_rubric(instructions: str, parts: Mapping[str, str], is_part: Callable[[str], object]) -> Rubric:
    """What the instructions want scored.

    Args:
        parts: what the prompt marks; a marked character is a role.
        is_part: whether a word names a part of the prompt, so that it is no trait.

    Raises:
        JudgePromptError: if they name nothing that this judge can score.
    """
    if re.search(r"delusion", instructions, re.I):
        return Rubric("delusion")
    if explicit := _TRAIT.search(instructions):
        return _trait(_named(explicit), instructions)
    if quoted := _CHARACTER.search(instructions):
        parts = {"character": _named(quoted)} | dict(parts)
    if character := parts.get("character"):
        return Rubric("role", character)
    if opposite := re.search(rf"\bhow {_OPPOSITE.pattern}|{_LACK}", instructions, re.I):
        raise JudgePromptError(
            f"The prompt asks {opposite[0]!r}. The judge scores traits, not their absence: ask for the trait, and turn "
            "the score round."
        )
    mentions = {
        trait: len(re.findall(rf"\b(?:un)?(?:{stems})", instructions, re.I)) for trait, stems in TRAIT_STEMS.items()
    }
    trait = max(mentions, key=lambda name: mentions[name])
    both = _PAIR.search(instructions)
    if (
        both
        and known_trait(both[1]) != known_trait(both[2])
        and re.search(r"\b(?:each|both|two scores)\b", instructions)
    ):
        raise JudgePromptError(f"The prompt asks for two traits, {both[0]!r}. The judge gives one score: ask twice.")
    coherence = len(re.findall(r"\b(?:in)?coheren|\bfluen", instructions, re.I))
    if mentions[trait] and mentions[trait] >= coherence:
        return Rubric("trait", trait)
    if not coherence and (match := _PLAIN_CHARACTER.search(instructions)):
        return Rubric("role", match[1].strip())
    if coherence:
        return Rubric("coherence")
    for pattern in (_BOLD, _HOW):
        for match in pattern.finditer(instructions):
            if _named(match).lower() not in _NOT_A_TRAIT and not is_part(_named(match)):
                return _trait(_named(match), instructions)
    raise JudgePromptError(
        "The judge found the answer, but not what to score. Name a trait (how sycophantic …), put a character in "
        'quotes (the character "pirate"), or ask for coherence or for the two delusion scales.'
    )


def _trait(name: str, instructions: str) -> Rubric:
    if trait := known_trait(name):
        return Rubric("trait", trait)
    name = name.strip().lower()
    return Rubric("trait", name, positive=(f"{name}. {_description(instructions, name)}",))


def _named(match: re.Match[str]) -> str:
    return next(value for value in match.groupdict().values() if value)


def _description(instructions: str, name: str) -> str:
    """What the rest of the paragraph says after the name: upstream's rubrics explain the trait there."""
    start = instructions.lower().find(name) + len(name)
    return instructions[start:].partition("\n\n")[0].lstrip('*"”. ').strip()
