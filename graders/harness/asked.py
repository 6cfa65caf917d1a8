"""Section 3, shared: what a model was asked through `model.generate`, and what it would answer to it alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from graders.harness.expect import check
from graders.harness.probes import greedy
from graders.harness.prompts import Messages, check_prompt, prompts


@dataclass(frozen=True)
class Asked:
    """One row of one `model.generate`: the ids it was to continue, without padding."""

    ids: list[int]
    padded_right: bool


@contextmanager
def recorded_prompts(model: Any, tok: Any) -> Iterator[list[Asked]]:
    """Every prompt that `model.generate` gets inside the `with`."""
    rows: list[Asked] = []
    original = model.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        given = args[0] if args else kwargs["input_ids" if "input_ids" in kwargs else "inputs"]
        # Without a mask, transformers masks what equals the padding token.
        mask = kwargs.get("attention_mask")
        mask = given != tok.pad_token_id if mask is None else mask.bool()
        for ids, seen in zip(given, mask, strict=True):
            rows.append(Asked(ids[seen].tolist(), not seen[-1] or int(ids[-1]) == tok.pad_token_id))
        return original(*args, **kwargs)

    model.__dict__["generate"] = generate
    try:
        yield rows
    finally:
        del model.__dict__["generate"]


def check_asked(
    asked: Sequence[Asked], conversation: Messages, tok: Any, what: str, wrong: dict[str, Messages]
) -> None:
    """The model was asked this conversation; else say what is wrong with the prompt most like it."""
    right = prompts(conversation, tok)
    if not asked or any(a.ids in right for a in asked):  # nothing to go by: the answers will tell
        return
    unpadded = [[t for t in a.ids if t != tok.pad_token_id] for a in asked]
    check(
        not any(ids in right for ids in unpadded),
        f"{what}: the padding is read as if it were text. Hand the attention mask to model.generate as well: "
        "model.generate(**inputs, ...).",
    )
    wanted = [m["content"] for m in conversation]
    closest = max(asked, key=lambda a: sum(text in tok.decode(a.ids) for text in wanted))
    check_prompt(closest.ids, conversation, tok, what, wrong)


def answers(model: Any, tok: Any, conversation: Messages, n: int) -> list[str]:
    """The likeliest answer to each right rendering of a conversation, on its own and without padding."""
    return [decoded(tok, greedy(model, ids, n)) for ids in prompts(conversation, tok)]


def decoded(tok: Any, ids: list[int]) -> str:
    """Text of an answer, without special tokens and surrounding space."""
    return tok.decode(ids, skip_special_tokens=True).strip()
