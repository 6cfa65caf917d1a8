"""Section 3: how much of a trait an answer shows, by a judge."""

from collections.abc import Iterator
from typing import Any

from graders.harness import Case, Exchange, check, difference, exchange, grader
from graders.harness.judge_scores import ANSWER, QUESTION, failed_call, misfilled, prompt_case, reply_cases

_NAME = "score_trait_response"
_TEMPLATE = "TRAIT pedantic\nQ[{question}]\nA[{answer}]\nScore from 0 to 100, or REFUSAL."
_ROUNDED: dict[str, tuple[int | None, ...]] = {"72.5": (72, 73), "40.8": (41,)}  # Python rounds a half to even
_FILLED = f"TRAIT pedantic\nQ[{QUESTION}]\nA[{ANSWER}]\nScore from 0 to 100, or REFUSAL."


@grader
def test_score_trait_response() -> Iterator[Case]:
    """The template is filled literally and sent to the judge; its reply becomes a score or None."""
    yield prompt_case(_NAME, _score, _check_filled)
    yield from reply_cases(_NAME, _score, _ROUNDED, refusals=True)
    yield Case(
        f"{_NAME}(..., model='another-judge')",
        lambda work: exchange("50", lambda: _score(work, model="another-judge")).models[-1:],
        lambda found: check(found == ["another-judge"], f"asked {found}: hand `model` on."),
    )
    yield failed_call(_NAME, _score)


def _score(work: Any, **options: str) -> Any:
    return work(QUESTION, ANSWER, _TEMPLATE, **options)


def _check_filled(observed: Exchange) -> None:
    """Some message is the template, filled; there may be others beside it."""
    contents = [m["content"] for body in observed.bodies for m in body["messages"]]
    check(
        _FILLED in [content.strip() for content in contents],
        "the judge was not sent eval_prompt_template with question and answer in their places, and nothing else in "
        f"that message: {difference(_FILLED, contents[-1])}.\n  {misfilled(contents[-1])}",
    )
