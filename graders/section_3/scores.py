"""Section 3, the judge's scores from 0 to 100: of a trait, and of coherence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graders.harness.expect import check, grader
from personalab.endpoint import ScriptedReplies, scripted_replies
from personalab.judging.prompts import JudgePromptError, read_prompt
from personalab.tiers import current_tier

_QUESTION = "What does {answer} stand for in this template?"
_ANSWER = 'def f(x):\n    return {"question": "{question}", "x": {x}}  # {0}, {} and {{so on}}'
_TEMPLATE = "TRAIT pedantic\nQ[{question}]\nA[{answer}]\nScore from 0 to 100, or REFUSAL."
_FILLED = f"TRAIT pedantic\nQ[{_QUESTION}]\nA[{_ANSWER}]\nScore from 0 to 100, or REFUSAL."

_READABLE = {
    "85": 85,
    "100": 100,
    "0": 0,
    "7": 7,
    " 42\n": 42,
    "Score: 100": 100,
    "**63**": 63,
    "The score is 85.": 85,
    "<score>5</score>": 5,
    "85/100": 85,
    "90%": 90,
    "It corrects every word.\n\nScore: 77": 77,
    "12\nbecause it mostly answers the question.": 12,
}
_OUT_OF_RANGE = ("150", "101", "1000", "-5", "Score: 250")
_NO_NUMBER = ("", "I cannot judge this.", "high")
_REFUSALS = ("REFUSAL", " REFUSAL\n", "**REFUSAL**", "REFUSAL (it declined all 3 parts)")


@grader
def test_score_trait_response(score_trait_response: Callable[..., int | None]) -> None:
    """The template is filled literally and sent to the judge; its reply becomes a score or None."""

    def judged(reply: str, **options: Any) -> tuple[Any, ScriptedReplies]:
        with scripted_replies(lambda messages, model: reply) as script:
            return score_trait_response(_QUESTION, _ANSWER, _TEMPLATE, **options), script

    prompt = _prompt("score_trait_response", judged)
    check(
        _FILLED in prompt,
        f"The judge was not sent eval_prompt_template with question and answer in their places.\n  expected {_FILLED!r}"
        f"\n  found    {prompt!r}\n  {_likely(prompt)}",
    )
    _check_replies("score_trait_response", lambda reply: judged(reply)[0], refusals=True)
    _check_judge("score_trait_response", judged("50")[1], "model=model or utils.judge_model()")
    _, script = judged("50", model="another-judge")
    check(
        script.calls[-1][1] == "another-judge",
        f"score_trait_response(..., model='another-judge') asked {script.calls[-1][1]!r}: hand `model` on to "
        "utils.generate_response.",
    )
    _check_failed_call("score_trait_response", lambda: score_trait_response(_QUESTION, _ANSWER, _TEMPLATE))


@grader
def test_score_coherence(score_coherence: Callable[..., int | None]) -> None:
    """The judge sees question and answer as they are and is told the scale; its reply becomes a score or None."""

    def judged(reply: str) -> tuple[Any, ScriptedReplies]:
        with scripted_replies(lambda messages, model: reply) as script:
            return score_coherence(_QUESTION, _ANSWER), script

    prompt = _prompt("score_coherence", judged)
    for name, part in {"question": _QUESTION, "answer": _ANSWER}.items():
        check(part in prompt, f"Expected the {name} {part!r} as it is in the judge's prompt. {_likely(prompt)}")
    check(
        "100" in prompt,
        "The judge's prompt does not name the scale: say that 0 is incoherent and 100 coherent, and ask for the number "
        "alone. A judge left alone answers from 1 to 10, or in words.",
    )
    _check_meaning(prompt)
    _check_replies("score_coherence", lambda reply: judged(reply)[0], refusals=False)
    _check_judge("score_coherence", judged("50")[1], "model=utils.judge_model()")
    _check_failed_call("score_coherence", lambda: score_coherence(_QUESTION, _ANSWER))


def _check_meaning(prompt: str) -> None:
    """What the embedded judge takes the prompt for: it says so itself where it can't read one, and never guesses."""
    try:
        rubric = read_prompt(prompt).rubric
    except JudgePromptError:
        return
    check(
        rubric.kind == "coherence",
        f"Your prompt mentions other things than coherence, and the embedded judge reads it as a question about "
        f"{rubric.name or rubric.kind}. Leave that word out, and ask how coherent the answer is.",
    )


def _prompt(name: str, judged: Callable[[str], tuple[Any, ScriptedReplies]]) -> str:
    """What the judge is sent."""
    try:
        _, script = judged("50")
    except (KeyError, IndexError, ValueError) as error:
        raise AssertionError(
            f"{name} raised {type(error).__name__} ({error}) on a question and an answer with braces. Fill the "
            "template with one call of .format(question=..., answer=...), and don't format the result again."
        ) from error
    check(script.calls, f"{name} did not ask the judge: call utils.generate_response.")
    return "\n".join(m["content"] for m in script.calls[-1][0])


def _likely(prompt: str) -> str:
    if _ANSWER not in prompt or _QUESTION not in prompt:
        return (
            "Is a placeholder missing? Or did a second replacement change braces inside the question or the answer? "
            "One call of .format(question=..., answer=...) leaves them alone."
        )
    return "Send the template you were given, not one of your own: it says what to score and how to reply."


def _check_replies(name: str, score: Callable[[str], Any], refusals: bool) -> None:
    for reply, expected in _READABLE.items():
        _check_score(name, reply, _found(name, score, reply), expected)
    for reply in _OUT_OF_RANGE:
        found = _found(name, score, reply)
        clipped = "It was clipped. " if found in (0, 100) else "Part of it was read. "
        check(
            found is None,
            f"{name} with the judge replying {reply!r}: expected None, found {found!r}. {clipped}A number off the "
            "scale of 0 to 100 is no score: the judge misunderstood.",
        )
    for reply in (*_NO_NUMBER, *(_REFUSALS if refusals else ())):
        found = _found(name, score, reply)
        why = "there is nothing to score in a refusal" if reply in _REFUSALS else "there is no number in it"
        check(
            found is None,
            f"{name} with the judge replying {reply!r}: expected None, found {found!r}: {why}. An invented number "
            "would enter your averages as if the judge had said it.",
        )
    found = _found(name, score, "72.5")  # None: no whole number; 72 or 73: cut or rounded
    check(
        found in (72, 73, None),
        f"{name} with the judge replying '72.5': expected 72 or 73, found {found!r}. Read the number from its start.",
    )


def _found(name: str, score: Callable[[str], Any], reply: str) -> Any:
    try:
        return score(reply)
    except NotImplementedError:
        raise
    except Exception as error:
        raise AssertionError(
            f"{name} with the judge replying {reply!r} raised {type(error).__name__} ({error}). Judges put words, tags "
            "or asterisks around a number, or send none: search the whole reply, and return None without a score."
        ) from error


def _check_score(name: str, reply: str, found: Any, expected: int) -> None:
    if type(found) is int and found == expected:
        return
    if found is None and expected == 0:
        guess = "0 is a score: test `is None`, not truth."
    elif type(found) is int and found != expected and str(expected).startswith(str(found)):
        guess = "Only the first digits were read: a score has up to three (`\\d+`)."
    elif found == 100:
        guess = "Take the score, not the end of the scale."
    elif found == expected:
        guess = f"Return an int, not {type(found).__name__}."
    else:
        guess = "The number may stand on any line, with words, tags or asterisks around it: search the whole reply."
    raise AssertionError(f"{name} with the judge replying {reply!r}: expected {expected}, found {found!r}. {guess}")


def _check_judge(name: str, script: ScriptedReplies, cure: str) -> None:
    """Any judge will do, but not the model whose answers are judged (unless the tier has one model for both)."""
    tier = current_tier()
    check(
        tier.response_model == tier.judge_model or all(model != tier.response_model for _, model in script.calls),
        f"{name}, called without a model, asked {tier.response_model!r}: that is the tier's response model, which "
        f"writes answers and is no judge. utils.generate_response takes it by default; pass {cure}.",
    )


def _check_failed_call(name: str, call: Callable[[], Any]) -> None:
    """A call that fails is no refusal."""

    def reply(messages: list[dict[str, str]], model: str) -> str:
        raise RuntimeError("scripted failure")

    try:
        with scripted_replies(reply):
            found = call()
    except NotImplementedError:
        raise
    except Exception:
        return
    raise AssertionError(
        f"{name}: the call of the judge failed, and your function returned {found!r} as if the judge had replied. Let "
        "the error through: None says that there is nothing to score, and the reader can't tell the two apart."
    )
