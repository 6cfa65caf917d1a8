"""Section 1: a conversation as the model reads it, and where the answer begins."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from graders.harness import Case, check, difference, grader, kind_of, oracles
from personalab.lm.tiny import FAMILIES, load_tiny_model

_CONVERSATIONS: list[oracles.Messages] = [
    oracles.messages("You are a pirate.", "Where is the gold?", "Under the old oak, matey."),
    oracles.messages("", "How do tides work?", "The moon pulls on the sea.\n\nTwice a day it rises."),
    [{"role": "system", "content": ""}, *oracles.messages("", "What do you see?", "Waves, and a sail.")],
    [
        *oracles.messages("Answer briefly.", "Who are you?", "A friend of the sea."),
        *oracles.messages("", "And what do you want?", "Rest, and a fair wind."),
    ],
]


@grader
def test_format_messages_response_index(tokenizer: Any) -> Iterator[Case]:
    """Rendered text and start index, for every family's template and for the notebook's own tokenizer."""
    own = [load_tiny_model(family)[1] for family in FAMILIES]
    for tok in [*own, *([tokenizer] if tokenizer is not None else [])]:
        for conversation in _CONVERSATIONS:
            yield Case(
                f"With the template of {tok.name_or_path!r}",
                partial(lambda given, tok, work: work([dict(m) for m in given], tok), conversation, tok),
                partial(_check_format, tok, conversation),
            )


def _check_format(tok: Any, conversation: oracles.Messages, found: Any) -> None:
    check(
        isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], str) and hasattr(found[1], "__index__"),
        f"expected (full_prompt: str, response_start_idx: int), found {kind_of(found)} {found!r:.200}.",
    )
    text, start = found[0], int(found[1])
    ids, right = tok(text, add_special_tokens=False)["input_ids"], oracles.renderings(conversation, tok)
    if tok.bos_token_id is not None:
        bos = ids.count(tok.bos_token_id)
        expected = tok(right[0], add_special_tokens=False)["input_ids"].count(tok.bos_token_id)
        check(
            bos <= expected,
            f"full_prompt holds {bos} BOS tokens, expected {expected} (double BOS). The template writes one already.",
        )
    for message in conversation:
        check(
            message["content"].strip() in text,
            f"the {message['role']} message {message['content']!r} is not in full_prompt. If the template has no "
            "system role, put the system prompt at the beginning of the first user turn.",
        )
    check(
        any("".join(text.split()) == "".join(r.split()) for r in right),
        f"full_prompt is not what the template gives: {difference(right[0], text)}.",
    )
    _check_start(tok, text, start, conversation)


def _check_start(tok: Any, text: str, start: int, conversation: oracles.Messages) -> None:
    ids, accepted = oracles.answer_spans(text, conversation[-1]["content"], tok)
    right = sorted({a for a, _ in accepted}, reverse=True)
    if start in right:
        return
    off, shown = start - right[0], tok.decode(ids[max(start - 2, 0) : start + 4])
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
        f"expected response_start_idx {right[0]}, found {start}: {likely} Around your index the tokens read {shown!r}."
    )
