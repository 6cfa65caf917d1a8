"""Chat templates in one place: prompts, system roles, and the exact token span of every turn's content.

Conventions: token indices are those of `tokenizer(text, add_special_tokens=False)`, since a template writes its own
BOS. A turn's span covers its content only, without role header and end-of-turn marker. An empty system prompt means
*no* system message. Control tokens inside content are broken up, so that content cannot forge a turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]
ROLES = ("system", "user", "assistant")

_PLACEHOLDER = "PERSONALABCONTENT"


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
    disabled where a template knows the switch (Qwen3).

    Raises:
        ValueError: if there is no message, a role is unknown, content is not text, or no user turn can carry the
            system prompt.
    """
    clean = _clean(messages, tokenizer)
    if clean[0]["role"] == "system" and not _has_system_role(tokenizer):
        clean = _merge_system(clean)
    return _apply(clean, tokenizer, add_generation_prompt)


def encode(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, turns: Sequence[int] | None = None
) -> Encoded:
    """Token ids of a whole conversation and the content spans of `turns` (message indices, default: the last one).

    The span of an answer that is empty, or that the template trims to nothing, is empty (`start == end`).
    """
    text = render(messages, tokenizer)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    turns = [len(messages) - 1] if turns is None else turns
    spans = []
    for turn in turns:
        first, last = _content_chars(messages, turn, text, tokenizer)
        offsets = encoding["offset_mapping"]
        # A token that starts before the content (a newline merged with the header's) belongs to the header.
        inside = [i for i, (a, b) in enumerate(offsets) if first <= a and b <= last and a < b]
        spans.append((inside[0], inside[-1] + 1) if inside else (0, 0))
    return Encoded(encoding["input_ids"], spans)


def turn_spans(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Token ids of a whole conversation, and the `(start, end)` content span of every assistant turn, in order."""
    return encode(messages, tokenizer, [i for i, m in enumerate(messages) if m["role"] == "assistant"])


def render_prompt(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> str:
    """The conversation as one string that ends where the model's answer begins."""
    return render(messages, tokenizer, add_generation_prompt=True)


def _content_chars(
    messages: Sequence[Message], turn: int, text: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, int]:
    """Character range of one message's content in `text`: what stands where a placeholder would stand."""
    probe = [dict(m) for m in messages]
    probe[turn]["content"] = _PLACEHOLDER
    before, _, after = render(probe, tokenizer).rpartition(_PLACEHOLDER)
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
    return _control_pattern(tokenizer).sub(lambda m: f"{m[0][0]} {m[0][1:]}", content)


@lru_cache(maxsize=32)
def _control_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    template = tokenizer.chat_template or ""
    control = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special or t.content in template}
    control |= {t for t in tokenizer.all_special_tokens if t}
    longest_first = sorted((t for t in control if len(t) > 1 and not t.isspace()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


@lru_cache(maxsize=32)
def _has_system_role(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template accepts a system message and prints it."""
    probe = [{"role": "system", "content": _PLACEHOLDER}, {"role": "user", "content": "x"}]
    try:
        return _PLACEHOLDER in _apply(probe, tokenizer, False)
    except TemplateError:
        return False


def _merge_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    system, *rest = messages
    if not rest or rest[0]["role"] != "user":
        raise ValueError("This model has no system role, so a system prompt must be followed by a user message.")
    return [{"role": "user", "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]


def _apply(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, add_generation_prompt: bool) -> str:
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt, enable_thinking=False
    )
