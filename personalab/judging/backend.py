"""The embedded endpoint's judge: judge prompts in, replies out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from personalab.lm.generation import Completion, Request


def answer_judge_prompts(requests: Sequence[Request]) -> list[Completion]:
    """Reply to each judge prompt in the form it asks for.

    Raises:
        JudgePromptError: for a prompt that cannot be understood; the endpoint then asks one at a time.
    """
    from personalab.judging.prompts import read_prompt
    from personalab.judging.scoring import reply
    from personalab.lm.generation import Completion

    prompts = ["\n\n".join(m["content"] for m in request.messages if m["role"] != "assistant") for request in requests]
    replies = reply([read_prompt(prompt) for prompt in prompts])
    return [
        Completion(text, n_prompt=len(prompt.split()), n_tokens=len(text.split()), finish="stop")
        for prompt, text in zip(prompts, replies, strict=True)
    ]
