"""Reading a judge prompt: the parts it marks, what it asks about them, and in which form it wants the answer.

A part (question, answer, character, history) is recognised in any usual form:

* blocks: `[QUESTION START] … [QUESTION END]`, `<response> … </response>`
* labelled lines: `Question: …`, `**Model response:** …`, `## Answer`, `Here is the response:`
* a character in quotes or bold: `the character is "pirate"`, `displays the role: **pirate**`

What a part holds is untrusted. An answer ends at the *last* marker of its kind, and what the prompt asks for is read
outside of the parts, so an answer that imitates markers or instructions stays an answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from personalab.judging.asked import SCORING_WORD, JudgePromptError, asked_rubric, closing_instructions
from personalab.judging.replies import ReplyFormat
from personalab.judging.rubrics import Rubric
from personalab.judging.scales import check_direction

PART_WORDS = {
    "answer": "answer response reply completion output assistant a",
    "question": "question prompt query user human message q",
    "history": "history conversation transcript dialogue dialog chat context",
    "character": "character role persona",
}
_REFERENCE = {"reference", "gold", "golden", "correct", "expected", "ideal", "truth"}
_PART_OF = {word: part for part, words in PART_WORDS.items() for word in words.split()}
_NAME = r"[A-Za-z][A-Za-z_ '’-]{0,40}"
_OPENING = re.compile(
    rf"\[(?P<a>{_NAME})[ _](?:START|BEGIN)\]|\[(?:The )?(?:START|BEGIN)(?: OF)?[ _](?P<b>{_NAME})\]"
    rf"|<(?P<tag>{_NAME})(?: [\w-]+=[^<>\n]*)?>",
    re.I,
)
_LABEL = re.compile(
    r"^[ \t]*(?:(?P<heading>#+|\[)[ \t]*)?(?:(?:[-*>]|\d{1,2}[.)])[ \t]+)?(?:\*\*|__)?"
    r"(?P<name>[A-Za-z][A-Za-z'’ ]{0,60}?)[ \t]*"
    r"(?:(?:\*\*|__)?[:：](?:\*\*|__)?|(?(heading)\]?$|(?:\*\*|__)$))[ \t]*",
    re.M,
)
_EXAMPLE = re.compile(
    r"\W*(?:(?:here|these|is|are|for|an?|some|few-shot|worked|scored|\d+|two|three) )*examples?(?: \d+)?\W*", re.I
)
_UNFILLED = re.compile(r"\{\{?\s*\w+\s*\}?\}")
_FENCED = re.compile(r"(?:```[^\n`]*|~~~|<<<|\"{3}|'{3})\n(.*)\n(?:```|~~~|>>>|\"{3}|'{3})", re.S)
_TAIL = re.compile(r"(?:\s*<\|[\w-]{1,30}\|>(?:\s*assistant\b)?)+\s*\Z")  # of a prompt sent in a model's own template
_CUT = "\0"  # where a part with markers stood: no labelled part goes beyond it
_IMPERATIVE = re.compile(r"(?:rate|score|judge|evaluate|grade|assess|decide|give|your|is|does|how|please|now)\b", re.I)
_TURN = re.compile(
    r"^[ \t]*[\[(<*#]*(?P<role>user|human|assistant|ai|model|bot)[\])>*]*(?:[ \t]*:|(?<=[>\])]))[ \t*]*", re.I | re.M
)


@dataclass(frozen=True)
class Task:
    """What a judge prompt asks: a rubric, applied to an answer, replied to in a format."""

    rubric: Rubric
    answer: str
    question: str = ""
    history: tuple[dict[str, str], ...] = ()
    reply: ReplyFormat = field(default_factory=ReplyFormat)


def read_prompt(prompt: str) -> Task:
    """The task in a judge prompt.

    Raises:
        JudgePromptError: if no answer (or, where the rubric needs it, no question) is marked, or the prompt asks for
            nothing that this judge can score.
    """
    prompt = prompt.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").replace(_CUT, " ")
    prompt = _TAIL.sub("", prompt)
    _check_examples(prompt)
    parts, instructions = _blocks(prompt)
    if not {"question", "answer"} <= set(parts):
        labelled, instructions = _labels(instructions)
        _check_rounds(prompt, labelled)
        parts = labelled | parts
    instructions = instructions.replace(f"\n{_CUT}\n", "\n").replace(_CUT, "")
    if "answer" not in parts:
        raise JudgePromptError(
            "The judge found no answer to score. Mark it as [ANSWER START] … [ANSWER END], as <response> … </response> "
            "or with a line that begins 'Response:' or 'Answer:'."
        )
    for part, content in parts.items():
        if _UNFILLED.fullmatch(content):
            raise JudgePromptError(f"The prompt's {part} is still {content}: fill the template in before you send it.")
    fenced = {part: match[1] for part in ("question", "answer") if (match := _FENCED.fullmatch(parts.get(part, "")))}
    if len(fenced) == 2:  # the template's fences; one alone may be the answer's own
        parts |= fenced
    rubric = asked_rubric(instructions, parts, _part)
    history = tuple(_turns(parts.get("history", "")))
    question = parts.get("question") or (history[-1]["content"] if history else "")
    if not question and rubric.kind != "coherence":
        raise JudgePromptError(
            "The judge found the answer, but not the question it answers. Mark it as [QUESTION START] … [QUESTION END] "
            "or <question> … </question>, or with a line that begins 'Question:'."
        )
    history = history or ({"role": "user", "content": question},)
    reply = ReplyFormat.asked_for(instructions, rubric.scale)
    if rubric.kind == "trait":
        check_direction(instructions, rubric.name, reply.high)
    return Task(rubric, parts["answer"], question, history, reply)


def _check_examples(prompt: str) -> None:
    """Raise JudgePromptError where the first question or answer stands under the heading of an example."""
    named = [(m, m["a"] or m["b"] or m["tag"]) for m in _OPENING.finditer(prompt)]
    named += [(m, m["name"]) for m in _LABEL.finditer(prompt)]
    first = min((m.start() for m, name in named if _part(name)), default=0)
    above = prompt[:first].rstrip().rpartition("\n")[2]
    if above.strip() and _EXAMPLE.fullmatch(above):
        raise JudgePromptError(
            f"Under {above.strip()!r} the prompt shows an answer with its score, and the judge would take it for the "
            "one to score. It needs no examples: leave them out."
        )


def _check_rounds(prompt: str, labelled: dict[str, str]) -> None:
    """Raise JudgePromptError where what stands under the answer's label holds further questions of the template's own:
    scored examples before the answer (the prompt ends in their label), or a transcript of several rounds."""
    answer, last = labelled.get("answer", ""), prompt.rstrip().rpartition("\n")[2].strip()
    scored = re.search(rf"^{re.escape(last)}[ \t]*\S", answer, re.M) if re.fullmatch(r"[\w ]{1,30}:", last) else None
    if scored and {"question", "answer"} <= {part for part, _ in _label_lines(answer[scored.end() :])}:
        raise JudgePromptError(
            f"The prompt shows answers with their {last!r} before the one to score, and the judge cannot tell which "
            "that is. It needs no examples: leave them out."
        )
    if labelled.get("history") == "" and any(m["role"].lower() in ("user", "human") for m in _TURN.finditer(answer)):
        raise JudgePromptError(
            "The prompt's conversation has several rounds, and nothing says which answer to score: mark that one as "
            "[ANSWER START] … [ANSWER END]."
        )


def _part(name: str) -> str | None:
    """The part that a marker or label stands for: "Model's response to the question" is the answer.

    An answer to compare with ("Reference answer") and a system prompt are parts that nobody asks for.
    """
    head = re.split(r"\b(?:to|of|for|from|by|in|about)\b", name.replace("_", " ").lower())[0]
    words = re.findall(r"[a-z]+", re.sub(r"['’]s\b", "", head))
    if {"and", "or"} & set(words):
        return None
    if len(words) > 1:
        words = [word for word in words if word not in ("a", "q")]
    part = next((_PART_OF[word] for word in reversed(words) if word in _PART_OF), None)
    if part == "question" and "system" in words:
        return "system"
    return "reference" if part == "answer" and _REFERENCE & set(words) else part


def _blocks(prompt: str) -> tuple[dict[str, str], str]:
    """Parts between an opening and a closing marker, and the text outside of them.

    A marker stands at the start (opening) or end (closing) of a line, or next to another; elsewhere it is a mention.
    """
    parts: dict[str, str] = {}
    outside, at = [], 0
    labelled_answer = next((m for part, m in _label_lines(prompt) if part == "answer"), None)
    for match in _OPENING.finditer(prompt):
        if labelled_answer and "answer" not in parts:
            between = prompt[max(at, labelled_answer.end()) : match.start()]
            if match.start() > labelled_answer.end() and between.strip():
                break  # all that follows is the content of an answer that has a label and no markers
        name = match["a"] or match["b"] or match["tag"]
        part = _part(name)
        before = prompt[: match.start()].rpartition("\n")[2].rstrip()
        if match.start() < at or part is None or part in parts or before[-1:] not in ("", ":", ">", "]"):
            continue
        name = re.escape(name)
        closing = rf"</{name}>" if match["tag"] else rf"\[{name}[ _](?:END|STOP)\]|\[(?:The )?END(?: OF)?[ _]{name}\]"
        rest = prompt[match.end() :]
        at_line_ends = list(re.finditer(rf"(?:{closing})(?=\s*(?:$|[<\[]))", rest, re.I | re.M))
        if ends := at_line_ends or list(re.finditer(closing, rest, re.I)):
            end = ends[-1 if part == "answer" else 0]
            parts[part] = rest[: end.start()].strip()
            outside.append(prompt[at : match.start()])
            at = match.end() + end.end()
    return parts, f"\n{_CUT}\n".join([*outside, prompt[at:]])


def _label_lines(prompt: str) -> list[tuple[str, re.Match[str]]]:
    """Lines that look like the label of a part; those that give an order ("Rate the answer:") only if no other does."""
    found = [(part, m) for m in _LABEL.finditer(prompt) if (part := _part(m["name"])) and len(m["name"].split()) <= 7]
    return [(part, m) for part, m in found if not _IMPERATIVE.match(m["name"])] or found


def _labels(prompt: str) -> tuple[dict[str, str], str]:
    """Parts after labelled lines, each up to the next label; the last up to the closing instructions."""
    labels: dict[str, re.Match[str]] = {}
    for part, match in _label_lines(prompt):
        if part not in labels and "answer" not in labels:  # what follows the answer's label is the answer
            labels[part] = match
    parts, outside, at = {}, [], 0
    starts = [*(m.start() for m in labels.values()), len(prompt)]
    rubric_before = bool(SCORING_WORD.search(prompt[: starts[0]]))
    for (part, match), limit in zip(labels.items(), starts[1:], strict=True):
        last = limit == len(prompt)
        end = closing_instructions(prompt, match.end(), rubric_before) if last else limit
        end = next((cut for cut in [prompt.find(_CUT, match.end(), end)] if cut >= 0), end)
        parts[part] = prompt[match.end() : end].strip()
        outside.append(prompt[at : match.start()])
        at = end
    # The template's own last words come first, before any that the end of an answer may imitate.
    closing = reversed(re.split(r"\n\s*\n", prompt[at:]))
    return parts, "\n".join([*outside, *closing])


def _turns(history: str) -> Iterator[dict[str, str]]:
    """`User: …` and `Assistant: …` turns; text without such labels is one message of the user."""
    labels = list(_TURN.finditer(history))
    ends = [m.start() for m in labels[1:]] + [len(history)]
    for match, end in zip(labels, ends, strict=False):  # no labels: no turns
        role = "user" if match["role"].lower() in ("user", "human") else "assistant"
        yield {"role": role, "content": history[match.end() : end].strip()}
    if not labels and history.strip():
        yield {"role": "user", "content": history.strip()}
