"""What a model was asked through `model.generate`, and what it would answer to it alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from graders.harness.expect import check
from graders.harness.intercepted import Row, intercepted
from graders.harness.probes import greedy
from graders.harness.prompts import Messages, check_prompt, prompts


@contextmanager
def recorded_prompts(model: Any, tok: Any) -> Iterator[list[Row]]:
    """Every prompt that `model.generate` gets inside the `with`, as the row that continues it."""
    rows: list[Row] = []
    with intercepted(model, tok, heard=lambda call: rows.extend(call.rows)):
        yield rows


def check_asked(asked: Sequence[Row], conversation: Messages, tok: Any, what: str, wrong: dict[str, Messages]) -> None:
    """The model was asked this conversation; else say what is wrong with the prompt most like it."""
    right = prompts(conversation, tok)
    if not asked or any(a.prompt in right for a in asked):  # nothing to go by: the answers will tell
        return
    unpadded = [[t for t in a.prompt if t != tok.pad_token_id] for a in asked]
    check(
        not any(ids in right for ids in unpadded),
        f"{what}: the padding is read as if it were text. Hand the attention mask to model.generate as well: "
        "model.generate(**inputs, ...).",
    )
    wanted = [m["content"] for m in conversation]
    closest = max(asked, key=lambda a: sum(text in tok.decode(a.prompt) for text in wanted))
    check_prompt(closest.prompt, conversation, tok, what, wrong)


def answers(model: Any, tok: Any, conversation: Messages, n: int) -> list[str]:
    """The likeliest answer to each right rendering of a conversation, on its own and without padding."""
    return [decoded(tok, greedy(model, ids, n)) for ids in prompts(conversation, tok)]


def decoded(tok: Any, ids: list[int]) -> str:
    """Text of an answer, without special tokens and surrounding space."""
    return tok.decode(ids, skip_special_tokens=True).strip()
