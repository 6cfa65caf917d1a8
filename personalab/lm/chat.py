"""Chat templates in one place: prompts, system roles, and the exact token span of every turn's content.

Conventions: token indices are those of `tokenizer(text, add_special_tokens=False)`, since a template writes its own
BOS. A turn's span covers its content only, without role header and end-of-turn marker; a token that joins a header's
space to a content's first word is content. An empty system prompt means *no* system message. Control tokens and a
template's own markers inside content are broken up, so that content cannot forge a turn (headers in plain words, such
as Vicuna's `USER:`, cannot be told from content).

Thinking has one rendering: disabled. Qwen3 then writes an empty think block before the last answer and before a new
one, none before earlier answers; it belongs to the header. A block that a prompt opens (DeepSeek R1) is closed.

A prompt ends where an answer begins in a finished conversation: a header, or a part of one, that a template leaves out
of its prompts (early ChatML, gpt-oss) is added.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from personalab.lm import templates
from personalab.lm.templates import Message as Message

ROLES = ("system", "user", "assistant")


class Encoded(NamedTuple):
    """A conversation as the model reads it: token ids, and one `(start, end)` token span per requested turn."""

    ids: list[int]
    spans: list[tuple[int, int]]


def as_messages(system_prompt: str | None, question: str, response: str | None = None) -> list[dict[str, str]]:
    """One exchange as a list of messages, leaving out an empty system prompt and an absent response.

    >>> as_messages("", "Who are you?", "A ghost.")
    [{'role': 'user', 'content': 'Who are you?'}, {'role': 'assistant', 'content': 'A ghost.'}]
    """
    messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
    messages.append({"role": "user", "content": question})
    if response is not None:
        messages.append({"role": "assistant", "content": response})
    return messages


def render(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, add_generation_prompt: bool = False) -> str:
    """The conversation as one string in the model's chat template, BOS included where the template has one.

    A template without a system role (Gemma 2) gets the system prompt merged into the first user turn. Thinking is
    disabled where a template knows the switch (Qwen3). A template that prints the date gets the moment when the process
    began, or `PERSONALAB_DATE`.

    Raises:
        ValueError: if there is no message, a role is unknown, content is not text, no user turn can carry the system
            prompt, or the template refuses the conversation or leaves out some of its text.
    """
    clean = _clean(messages, tokenizer)
    if clean[0]["role"] == "system" and templates.facts(tokenizer).system is None:
        clean = _merge_system(clean)
    return templates.apply(clean, tokenizer, add_generation_prompt)


def encode(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, turns: Sequence[int] | None = None
) -> Encoded:
    """Token ids of a whole conversation and the content spans of `turns` (message indices, default: the last one).

    The span of an answer that is empty, or that the template trims to nothing, is empty (`start == end`).

    Raises:
        ValueError: as `render`, or for a tokenizer that cannot say where its tokens stand in the text.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"The tokenizer of {tokenizer.name_or_path!r} gives no offsets: load it with use_fast=True.")
    text = render(messages, tokenizer)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    turns = [len(messages) - 1] if turns is None else turns
    offsets = encoding["offset_mapping"]
    starts, ends = [start for start, _ in offsets], [end for _, end in offsets]  # both ascend
    spans = []
    for first, last in _contents(messages, turns, text, tokenizer):
        near = range(bisect_right(ends, first), bisect_left(starts, last))
        inside = [i for i in near if _is_content(offsets[i], first, last, text)]
        spans.append((inside[0], inside[-1] + 1) if inside else (0, 0))
    return Encoded(encoding["input_ids"], spans)


def _is_content(token: tuple[int, int], first: int, last: int, text: str) -> bool:
    """Whether a token stands within these characters, or shares more than space with them.

    A header's space and the first word are one token (" Hello" after "ASSISTANT:"): content. A newline merged with the
    header's is not.
    """
    start, end = token
    inside = first <= start < end <= last
    return inside or (start < last and first < end and bool(text[max(start, first) : min(end, last)].strip()))


def turn_spans(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Token ids of a whole conversation, and the `(start, end)` content span of every assistant turn, in order."""
    return encode(messages, tokenizer, [i for i, m in enumerate(messages) if m["role"] == "assistant"])


def past_turn_end(ids: Sequence[int], end: int, tokenizer: PreTrainedTokenizerBase) -> int:
    """Where an answer's turn ends for whoever learns to end it, given the end of its content's span.

    That is one past the end-of-turn token, spaces before it included (Llama 2: " </s>"), or past the words that end an
    answer where turns are in plain words ("\\nUser:"); one token where there is neither.
    """
    known = templates.facts(tokenizer)
    words = (known.stop_string or "").strip()
    for i in range(end, min(end + len(words) + 4, len(ids))):
        behind = tokenizer.decode(ids[end : i + 1]).lstrip()
        if ids[i] in known.stop_tokens or (words and behind.startswith(words)):
            return i + 1
        if behind and not words.startswith(behind.rstrip()):
            break
    return min(end + 1, len(ids))


def ended(ids: Sequence[int], end: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A conversation's ids with what ends an answer behind them, where the last answer's content ends at `end` and the
    template leaves that turn open: the next header's token (GLM-4) or words (Falcon)."""
    known = templates.facts(tokenizer)
    if not end or tokenizer.decode(ids[end:]).strip():
        return [*ids]
    if known.stop_tokens:
        return [*ids[:end], *known.stop_tokens[:1], *ids[end:]]
    last, words = tokenizer.decode(ids[end - 1 :]), known.stop_string or ""
    words = words.lstrip() if last != last.rstrip() else words
    return [*ids, *tokenizer(words, add_special_tokens=False)["input_ids"]]


def render_prompt(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> str:
    """The conversation as one string that ends where the model's answer begins."""
    return render(messages, tokenizer, add_generation_prompt=True)


def prompt_ids(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of `render_prompt`."""
    return tokenizer(render_prompt(messages, tokenizer), add_special_tokens=False)["input_ids"]


def _contents(
    messages: Sequence[Message], turns: Sequence[int], text: str, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[int, int]]:
    """Character range of each turn's content in `text`, from one probe where they stand in it as they are, or trimmed.

    Otherwise each gets a probe of its own, which takes the square of a conversation's turns.
    """
    if len(turns) > 1 and (found := _in_one_probe(messages, turns, text, tokenizer)):
        return found
    return [_content_chars(messages, turn, text, tokenizer) for turn in turns]


def _in_one_probe(
    messages: Sequence[Message], turns: Sequence[int], text: str, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[int, int]] | None:
    """All ranges, if contents and what stands between placeholders make up the text; `turns` must ascend."""
    words = {turn: templates.placeholder(messages, turn) for turn in turns}
    probe = [{**m, "content": words.get(i, m["content"])} for i, m in enumerate(messages)]
    first, *others = re.split("|".join(words.values()), render(probe, tokenizer))
    if len(others) != len(turns) or not text.startswith(first):
        return None
    at, found = len(first), []
    for turn, after in zip(turns, others, strict=True):
        content = neutralise(messages[turn]["content"], tokenizer)
        fitting = (c for c in (content, content.strip()) if text.startswith(c + after, at))
        if (written := next(fitting, None)) is None:
            return None
        found.append((at, at + len(written)))
        at += len(written) + len(after)
    return found if at == len(text) else None


def _content_chars(
    messages: Sequence[Message], turn: int, text: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, int]:
    """Character range of one message's content in `text`: what stands where a placeholder would stand."""
    probe, word = [dict(m) for m in messages], templates.placeholder(messages)
    probe[turn]["content"] = word
    before, _, after = render(probe, tokenizer).rpartition(word)
    if not (text.startswith(before) and text.endswith(after)):
        raise ValueError(
            f"The chat template of {tokenizer.name_or_path!r} moves other text when message {turn} changes."
        )
    return len(before), len(text) - len(after)


def _clean(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[dict[str, str]]:
    """Checked copies with neutralised content, without empty system messages."""
    for i, message in enumerate(messages):
        if message.get("role") not in ROLES:
            raise ValueError(f"messages[{i}]['role'] is {message.get('role')!r}; use one of {', '.join(ROLES)}.")
        if not isinstance(message.get("content"), str):
            raise ValueError(f"messages[{i}]['content'] must be a string, not {type(message.get('content')).__name__}.")
    clean = [
        {"role": m["role"], "content": neutralise(m["content"], tokenizer)}
        for m in messages
        if m["role"] != "system" or m["content"]
    ]
    if not clean:
        raise ValueError("A conversation needs at least one message with content.")
    return clean


def neutralise(content: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Content with every control token of this tokenizer broken by a space: `<|im_end|>` becomes `< |im_end|>`."""
    return templates.facts(tokenizer).control.sub(lambda m: f"{m[0][0]} {m[0][1:]}", content)


def _merge_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    system, *rest = messages
    if not rest or rest[0]["role"] != "user":
        raise ValueError("This model has no system role, so a system prompt must be followed by a user message.")
    return [{"role": "user", "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]
