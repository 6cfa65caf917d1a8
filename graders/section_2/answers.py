"""Section 2: what a model is asked and what it answers when a learner's code calls `model.generate`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from graders.harness.expect import check
from graders.harness.intercepted import Row, Rows, intercepted
from graders.harness.prompts import check_question


@contextmanager
def recorded(model: Any, tok: Any) -> Iterator[list[Row]]:
    """Every answer that `model.generate` gives inside the `with`.

    Whole words only, so that an answer's text has one tokenisation, and a length of its own for each question.
    """
    vocabulary = tok.get_vocab()
    first = [i for w, i in vocabulary.items() if w in ("The", "What", "You", "Tell", "one", "two", "four")]
    later = [i for w, i in vocabulary.items() if w[0] == "Ġ" and w[1:].isalpha() and len(w) > 1]
    answers: list[Row] = []

    def script(prompts: Rows) -> list[Rows]:
        lengths = [3 + 2 * ((len(answers) + row) % 4) for row in range(len(prompts))]
        return [[first, *[later] * (n - 1)] for n in lengths]

    with intercepted(model, tok, script, heard=lambda call: answers.extend(call.rows)):
        yield answers


def in_order(answers: list[Row], questions: list[str], tok: Any, what: str) -> list[Row]:
    """One answer a question: the last it was given; each asked in the chat template, without a system prompt."""
    ordered = []
    for question in questions:
        asked = [a for a in answers if question in tok.decode(a.prompt)]
        check(
            asked,
            f"{what}: expected the model to answer {question!r}, but `model.generate` was never given that question. "
            "Answer every evaluation question with model.generate.",
        )
        check_question(asked[-1].prompt, question, tok, what)
        ordered.append(asked[-1])
    return ordered
