"""Section 3: how coherent an answer is, by a judge."""

import re
from collections.abc import Iterator
from typing import Any

from graders.harness import Case, Exchange, check, difference, exchange, grader
from graders.harness.judge_scores import ANSWER, QUESTION, failed_call, misfilled, prompt_case, reply_cases
from graders.harness.scripted import embedded_task
from personalab.judging.asked import JudgePromptError
from personalab.judging.rubrics import TRAIT_STEMS

_NAME = "score_coherence"
_PLAIN = ("How long is an hour?", "As long as a flight over the tower, dear guest. Whoo!")
_ANY: dict[str, tuple[int | None, ...]] = {"72.5": (72, 73, None)}  # cut, rounded, or no whole number
_NAMED = re.compile(rf"\b(?:{'|'.join(stems.partition('|')[0] for stems in TRAIT_STEMS.values())})\w*", re.I)
_END = re.compile(r"(?<![\d.])(0|100)(?!\.?\d)")
_PRAISE = re.compile(
    r"(?P<no>\b(?:no|not|\w+n['’]t|cannot|never|without|less|lower|low|little|lack\w*|poor|hard\w*|difficult)\b"
    r"(?: \w+){0,3}? )?(?:(?P<bad>(?:in|non-?)coheren|gibberish|nonsens|garbled|meaningless|\bmess\b|\bword salad"
    r"|(?:un|in)(?:intelligib|comprehensi)|worst)|coheren|fluen|sense\b|perfect|best\b)",
    re.I,
)


@grader
def test_score_coherence() -> Iterator[Case]:
    """The judge sees question and answer as they are and is told the scale; its reply becomes a score or None."""
    yield prompt_case(_NAME, _score, _check_parts)
    yield Case(f"{_NAME} on a plain answer", lambda work: exchange("50", lambda: work(*_PLAIN)), _check_rubric)
    yield from reply_cases(_NAME, _score, _ANY, refusals=False)
    yield failed_call(_NAME, _score)


def _score(work: Any) -> Any:
    return work(QUESTION, ANSWER)


def _check_parts(observed: Exchange) -> None:
    prompt = observed.prompts[-1]
    for name, part in {"question": QUESTION, "answer": ANSWER}.items():
        shown = repr(part) if len(part) < 100 else f"{part[:60]!r}… ({len(part)} characters)"
        check(part in prompt, f"expected the {name} {shown} as it is in the judge's prompt. {misfilled(prompt)}")


def _check_rubric(observed: Exchange) -> None:
    """The scale, no trait, and what the embedded judge makes of it, where it can read it: an API's can read more."""
    question, answer = _PLAIN
    rubric = observed.prompts[-1].replace(answer, "").replace(question, "")
    rubric = re.sub(r"(?i)\b(?:(zero)|(?:a|one) hundred)\b", lambda m: "0" if m[1] else "100", rubric)
    check(
        {"0", "100"} <= {*_END.findall(rubric)},
        "the judge's prompt does not name the scale: say that 0 is incoherent and 100 coherent, and ask for the number "
        "alone. A judge left alone answers from 1 to 10, or in words.",
    )
    check(
        _praise(rubric, "100") != -1 or _praise(rubric, "0") == -1,
        f"the scale of your prompt is inverted: 0 stands for gibberish, and 100 for a coherent answer.\n  It reads: "
        f"{' '.join(rubric.split())!r:.400}",
    )
    names = _NAMED.findall(rubric)
    check(not names, f"your prompt names a trait, {names[:1]}. Leave it out: coherence is how well an answer holds.")
    try:
        task = embedded_task(observed.bodies[-1])
    except JudgePromptError as error:
        print(f"Note that the cpu tier's judge can't read your prompt. It says: {error}")
        return
    check(
        task.rubric.kind == "coherence",
        f"your prompt mentions other things than coherence, and the embedded judge reads it as a question about "
        f"{task.rubric.name or task.rubric.kind}. Leave that word out, and ask how coherent the answer is.",
    )
    low, high = task.reply.low, task.reply.high
    check((low, high) == (0, 100), f"the cpu tier's judge reads the scale as {low:g} to {high:g}, not 0 to 100.")
    for part, right, found in (("answer", answer, task.answer), ("question", question, task.question or question)):
        wrong = difference(right, found)
        check(not wrong, f"what the cpu tier's judge takes for the {part} is not it: {wrong}. Mark both parts.")


def _praise(rubric: str, end: str) -> int:
    """What is said of an end of the scale: 1 that it is coherent, -1 that it isn't, 0 nothing that we understand."""
    for match in _END.finditer(rubric):
        before, after = re.split(r"[.;\n]", rubric[: match.start()])[-1], re.split(r"[.;\n]", rubric[match.end() :])[0]
        behind = before.endswith("(") and after.startswith(")")  # gibberish (0)
        said = [*_PRAISE.finditer(_END.split(before)[-1] if behind else _END.split(after)[0])]
        if match[0] == end and said:
            nearest = said[-1] if behind else said[0]
            return -1 if bool(nearest["no"]) != bool(nearest["bad"]) else 1
    return 0
