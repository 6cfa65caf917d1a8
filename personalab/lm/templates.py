"""What a chat template does with messages, found out by rendering probes: nothing is assumed of any template.

Every message's text must arrive in what a template writes, under a role the template knows; whatever a template does
instead is a `ValueError` that names it. Facts about a tokenizer are found once and again whenever it changes (another
template, added tokens).
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]

# How templates write markers that their tokenizer may not know as tokens: `<|user|>`, `[INST]`, `<<SYS>>`.
_MARKERS = re.compile(r"<\|[^|<>{}\s]{1,40}\|>|\[/?[A-Z_]{2,20}\]|<</?[A-Z]{2,10}>>")
_WORD = "PERSONALABCONTENT"
_THINK = re.compile(r"<think>\s*$")
DATE = "PERSONALAB_DATE"  # environment: the day that templates print
_BEGAN = datetime.now()  # in its place: one moment for all that a process reads and writes
_facts: dict[tuple[object, ...], Facts] = {}


class Facts(NamedTuple):
    """What is known of a tokenizer and its template as they are now."""

    control: re.Pattern[str]  # every token and marker that content must not write
    parts: bool  # content goes in as a list of parts, as image models' templates want it
    system: str | None  # what stands before a leading system message; None where the template has no such role
    opening: str  # what a prompt lacks in front of an answer
    stop_tokens: tuple[int, ...]  # what ends an assistant's turn, where it is a token
    stop_string: str | None  # and where it is text, as in "\nUser:"
    checked: dict[tuple[object, ...], None]  # role sequences whose messages all arrive


def facts(tokenizer: PreTrainedTokenizerBase) -> Facts:
    """The facts of a tokenizer; asked for again once its template, its special tokens or its size change."""
    _moment()  # a wrong date is named before anything is found out with it
    # `len` stands for the added tokens, which take milliseconds to list where there are thousands (Gemma 3).
    key = (tokenizer.name_or_path, str(tokenizer.chat_template), len(tokenizer), str(tokenizer.special_tokens_map))
    if key not in _facts:
        if len(_facts) >= 64:
            _facts.clear()
        control, added = _control_pattern(tokenizer), {t.content for t in tokenizer.added_tokens_decoder.values()}
        parts = _wants_parts(tokenizer)
        system, opening = _before_system(tokenizer, parts), _opening(tokenizer, parts)
        tokens, string = _turn_end(tokenizer, parts, added)
        _facts[key] = Facts(control, parts, system, opening, tokens, string, {})
    return _facts[key]


def placeholder(messages: Sequence[Message], turn: int = 0) -> str:
    """A word that stands in none of the messages, to see where a content goes."""
    word = f"{_WORD}{turn}X"
    while any(word in m["content"] for m in messages):
        word += "X"
    return word


def apply(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, add_generation_prompt: bool) -> str:
    """The messages as the template writes them.

    Raises:
        ValueError: if the template refuses them, loses one's text, or writes one under a role it does not know.
    """
    known = facts(tokenizer)
    text = _written(messages, tokenizer, known.parts, add_generation_prompt)
    _check_roles(messages, tokenizer, known, add_generation_prompt)
    at = 0
    for i, message in enumerate(messages):
        content = message["content"].strip()
        found = text.find(content, 0 if message["role"] == "system" else at)
        if found < 0:
            raise ValueError(_lost(tokenizer, i, message["role"]))
        at = at if message["role"] == "system" else found + len(content)
    return text + known.opening if add_generation_prompt else text


def _written(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, parts: bool, add_generation_prompt: bool = False
) -> str:
    given: Sequence[Mapping[str, Any]] = messages
    if parts:
        given = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    try:
        return tokenizer.apply_chat_template(
            given,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=False,
            strftime_now=_moment().strftime,
        )
    except (TemplateError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(
            f"The chat template of {tokenizer.name_or_path!r} refuses a conversation of "
            f"{', '.join(m['role'] for m in messages)}: {error}"
        ) from error


def _moment() -> datetime:
    text = os.environ.get(DATE)
    try:
        return datetime.fromisoformat(text) if text else _BEGAN
    except ValueError:
        raise ValueError(f"{DATE} is {text!r}: write a day as 2026-07-26.") from None


def _lost(tokenizer: PreTrainedTokenizerBase, i: int, role: str) -> str:
    return (
        f"The chat template of {tokenizer.name_or_path!r} leaves out or changes the text of message {i} ({role}): "
        "the model would never read it. Give it a conversation that the template knows."
    )


def _check_roles(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, known: Facts, add_generation_prompt: bool
) -> None:
    """Every message of such a sequence of roles arrives, and no later system message under an invented role."""
    roles = tuple(m["role"] for m in messages)
    key = (*roles, add_generation_prompt)
    if key in known.checked:
        return
    probe = [{"role": role, "content": placeholder((), i)} for i, role in enumerate(roles)]
    text, end = _written(probe, tokenizer, known.parts, add_generation_prompt), 0
    for i, (role, message) in enumerate(zip(roles, probe, strict=True)):
        start = text.find(message["content"])
        if start < 0:
            raise ValueError(_lost(tokenizer, i, role))
        if role == "system" and i and _invented(text[end:start], known.system):
            raise ValueError(
                f"The chat template of {tokenizer.name_or_path!r} has no system message inside a conversation: it "
                f"writes message {i} under a role that the model does not know. Put it first, or into a user turn."
            )
        end = start + len(message["content"])
    known.checked[key] = None


def _invented(before: str, at_the_start: str | None) -> bool:
    return at_the_start is None or ("system" in before.lower() and "system" not in at_the_start.lower())


def _control_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    template = str(tokenizer.chat_template or "")  # several templates under names are a dict
    control = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special or t.content in template}
    control |= {t for t in tokenizer.all_special_tokens if t} | set(_MARKERS.findall(template))
    longest_first = sorted((t for t in control if len(t) > 1 and not t.isspace()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _wants_parts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether content arrives as a list of parts only."""
    probe = [{"role": "user", "content": _WORD}]
    return not _arrives(probe, tokenizer, False) and _arrives(probe, tokenizer, True)


def _arrives(probe: Sequence[Message], tokenizer: PreTrainedTokenizerBase, parts: bool) -> bool:
    try:
        return _WORD in _written(probe, tokenizer, parts)
    except ValueError:
        return False


def _before_system(tokenizer: PreTrainedTokenizerBase, parts: bool) -> str | None:
    probe = [{"role": "system", "content": _WORD}, {"role": "user", "content": "x"}]
    return _written(probe, tokenizer, parts).split(_WORD)[0] if _arrives(probe, tokenizer, parts) else None


def _opening(tokenizer: PreTrainedTokenizerBase, parts: bool) -> str:
    """What a conversation has before an answer and a prompt lacks: all of the header where a template ignores
    `add_generation_prompt`, the rest of it (gpt-oss' channel), the end of a think block that the prompt opens.

    A space in front of the first word belongs to that.
    """
    probe = _talk("user", "assistant")
    try:
        prompt, whole = _written(probe[:1], tokenizer, parts, True), _written(probe, tokenizer, parts)
    except ValueError:
        return ""
    before, found, _ = whole.partition(probe[1]["content"])
    if found and before.startswith(prompt):
        return before[len(prompt) :].rstrip(" ")
    return "\n</think>\n\n" if _THINK.search(prompt) else ""


def _talk(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": placeholder((), i)} for i, role in enumerate(roles)]


def _turn_end(tokenizer: PreTrainedTokenizerBase, parts: bool, added: set[str]) -> tuple[tuple[int, ...], str | None]:
    """What a template writes between an answer and the next question: its first token or, without one, its text.

    Where that text counts the turns ("[Round 2]"), it is what comes before the number.
    """
    probe = _talk("user", "assistant", "user", "assistant", "user")
    for messages in (probe, probe[:3], probe[:2]):
        try:
            text = _written(messages, tokenizer, parts)
        except ValueError:
            continue
        if probe[1]["content"] in text:
            break
    else:
        return (), None
    contents = "|".join(m["content"] for m in probe)
    ends = re.split(contents, text)[2::2]  # behind each answer
    both = zip(ends[0], ends[1] if len(messages) == len(probe) else ends[0], strict=False)
    end = "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], both))
    known = [t for t in sorted(added, key=len, reverse=True) if t.strip() and end.lstrip().startswith(t.strip())]
    if known:
        return (tokenizer.convert_tokens_to_ids(known[0]),), None
    if not end.strip():
        return (), None
    space = end[: len(end) - len(end.lstrip())]
    return (), ("\n" if "\n" in space else space) + end.strip()
