"""Section 2, shared: what a model is asked and what it answers when a learner's code calls `model.generate`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from graders.harness.expect import check
from graders.harness.prompts import check_prompt


class Answer(NamedTuple):
    """What the model was asked, and what it said: ids, without padding, up to the end marker."""

    prompt: list[int]
    new: list[int]


class _Words(LogitsProcessor):
    """Whole words only, so that an answer's text has one tokenisation; a length of its own for each question."""

    def __init__(self, tok: Any, n_prompt: int, lengths: list[int]) -> None:
        vocabulary = tok.get_vocab()
        self.first = [i for w, i in vocabulary.items() if w in ("The", "What", "You", "Tell", "one", "two", "four")]
        self.later = [i for w, i in vocabulary.items() if w[0] == "Ġ" and w[1:].isalpha() and len(w) > 1]
        self.end, self.n_prompt, self.lengths = tok.eos_token_id, n_prompt, lengths

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        allowed = torch.full_like(scores, float("-inf"))
        n = input_ids.shape[1] - self.n_prompt
        for row, length in enumerate(self.lengths):
            ids = self.first if n == 0 else self.later if n < length else [self.end]
            allowed[row, ids] = scores[row, ids]
        return allowed


@contextmanager
def recorded(model: Any, tok: Any) -> Iterator[list[Answer]]:
    """Every answer that `model.generate` gives inside the `with`."""
    answers: list[Answer] = []
    original = model.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        given = args[0] if args else kwargs["input_ids" if "input_ids" in kwargs else "inputs"]
        lengths = [3 + 2 * ((len(answers) + row) % 4) for row in range(len(given))]
        words = _Words(tok, given.shape[1], lengths)
        kwargs["logits_processor"] = LogitsProcessorList([*(kwargs.get("logits_processor") or []), words])
        output = original(*args, **kwargs)
        mask = kwargs.get("attention_mask", torch.ones_like(given))
        for prompt, seen, row in zip(given, mask, getattr(output, "sequences", output), strict=True):
            new = row[given.shape[1] :].tolist()
            new = new[: new.index(tok.eos_token_id)] if tok.eos_token_id in new else new
            answers.append(Answer(prompt[seen.bool()].tolist(), new))
        return output

    model.generate = generate
    try:
        yield answers
    finally:
        del model.generate


def in_order(answers: list[Answer], questions: list[str], tok: Any, what: str) -> list[Answer]:
    """One answer a question: the last it was given; each asked in the chat template, without a system prompt."""
    ordered = []
    for question in questions:
        asked = [a for a in answers if question in tok.decode(a.prompt)]
        check(
            asked,
            f"{what}: expected the model to answer {question!r}, but `model.generate` was never given that question. "
            "Answer every evaluation question with model.generate.",
        )
        right = [{"role": "user", "content": question}]
        system = {"role": "system", "content": "You are a helpful assistant."}
        check_prompt(asked[-1].prompt, right, tok, what, {"you add a system prompt: ask without": [system, *right]})
        ordered.append(asked[-1])
    return ordered
