"""Section 1: a conversation as the model reads it, and where the answer begins."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from graders.harness import Case, check, difference, grader, kind_of, oracles
from personalab.lm.tiny import FAMILIES, load_tiny_model

Conversation = list[dict[str, str]]


@grader
def test_format_messages_response_index(tokenizer: Any) -> Iterator[Case]:
    """Rendered text and start index, for every family's template and for the notebook's own tokenizer."""
    own = [load_tiny_model(family)[1] for family in FAMILIES]
    for tok in [*own, *([tokenizer] if tokenizer is not None else [])]:
        for conversation in _CONVERSATIONS:
            yield _formatted(tok, conversation)


_CONVERSATIONS: list[Conversation] = [
    oracles.messages("You are a pirate.", "Where is the gold?", "Under the old oak, matey."),
    oracles.messages("", "How do tides work?", "The moon pulls on the sea.\n\nTwice a day it rises."),
    [{"role": "system", "content": ""}, *oracles.messages("", "What do you see?", "Waves, and a sail.")],
    [
        *oracles.messages("Answer briefly.", "Who are you?", "A friend of the sea."),
        {"role": "user", "content": "And what do you want?"},
        {"role": "assistant", "content": "Rest, and a fair wind."},
    ],
]


def _formatted(tok: Any, conversation: Conversation) -> Case:
    where = f"With the template of {tok.name_or_path!r}"
    return Case(
        where,
        lambda format_messages: format_messages([dict(m) for m in conversation], tok),
        partial(_check_format, where, tok, conversation),
    )


def _check_format(where: str, tok: Any, conversation: Conversation, found: Any) -> None:
    check(
        isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], str) and hasattr(found[1], "__index__"),
        f"{where}: expected (full_prompt: str, response_start_idx: int), found {kind_of(found)} {found!r:.200}.",
    )
    text, start = found[0], int(found[1])
    ids = tok(text, add_special_tokens=False)["input_ids"]
    right = oracles.renderings(conversation, tok)
    if tok.bos_token_id is not None:
        expected_bos = tok(right[0], add_special_tokens=False)["input_ids"].count(tok.bos_token_id)
        found_bos = ids.count(tok.bos_token_id)
        check(
            found_bos <= expected_bos,
            f"{where}: full_prompt holds {found_bos} BOS tokens, expected {expected_bos} (double BOS). The template "
            "writes one already.",
        )
    for message in conversation:
        check(
            message["content"].strip() in text,
            f"{where}: the {message['role']} message {message['content']!r} is not in full_prompt. If the template "
            "has no system role, put the system prompt at the beginning of the first user turn.",
        )
    check(
        any("".join(text.split()) == "".join(r.split()) for r in right),
        f"{where}: full_prompt is not what the template gives: {difference(right[0], text)}.",
    )
    _check_start(where, tok, text, start, conversation)


def _check_start(where: str, tok: Any, text: str, start: int, conversation: Conversation) -> None:
    ids, accepted = oracles.answer_spans(text, conversation[-1]["content"], tok)
    right = sorted({a for a, _ in accepted}, reverse=True)
    if start in right:
        return
    off = start - right[0]
    shown = tok.decode(ids[max(start - 2, 0) : start + 4])
    if off == 1 and tok.bos_token_id is not None and len(tok(text)["input_ids"]) == len(ids) + 1:
        likely = "one too high: did you tokenise with a second BOS (leave it out with add_special_tokens=False)?"
    elif off == 1:
        likely = "one too high (off by one): the first token of the answer would be lost."
    elif off == -1:
        likely = "one too low (off by one): the last token of the assistant's header would count as answer."
    elif sum(m["role"] == "assistant" for m in conversation) > 1 and off < 0:
        likely = "too low: is it the first assistant turn's? Take the last one."
    else:
        likely = "too high." if off > 0 else "too low: does the header of the assistant's turn count as prompt?"
    raise AssertionError(
        f"{where}: expected response_start_idx {right[0]}, found {start}: {likely} Around your index the tokens read "
        f"{shown!r}."
    )
