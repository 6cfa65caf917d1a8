"""Section 3: how coherent an answer is, by a judge."""

from collections.abc import Iterator
from typing import Any

from graders.harness import Case, check, grader
from graders.harness.judge_scores import ANSWER, QUESTION, failed_call, misfilled, prompt_case, reply_cases
from personalab.judging.asked import JudgePromptError
from personalab.judging.prompts import read_prompt

_NAME = "score_coherence"


@grader
def test_score_coherence() -> Iterator[Case]:
    """The judge sees question and answer as they are and is told the scale; its reply becomes a score or None."""
    yield prompt_case(_NAME, _score, _check_prompt, "model=utils.judge_model()")
    yield from reply_cases(_NAME, _score, refusals=False)
    yield failed_call(_NAME, _score)


def _score(work: Any) -> Any:
    return work(QUESTION, ANSWER)


def _check_prompt(prompt: str) -> None:
    """Its parts, the scale, and what the embedded judge takes it for: that says so itself where it can't read one."""
    for name, part in {"question": QUESTION, "answer": ANSWER}.items():
        check(part in prompt, f"expected the {name} {part!r} as it is in the judge's prompt. {misfilled(prompt)}")
    check(
        "100" in prompt,
        "the judge's prompt does not name the scale: say that 0 is incoherent and 100 coherent, and ask for the number "
        "alone. A judge left alone answers from 1 to 10, or in words.",
    )
    try:
        rubric = read_prompt(prompt).rubric
    except JudgePromptError:
        return
    check(
        rubric.kind == "coherence",
        f"your prompt mentions other things than coherence, and the embedded judge reads it as a question about "
        f"{rubric.name or rubric.kind}. Leave that word out, and ask how coherent the answer is.",
    )
