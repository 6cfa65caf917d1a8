"""Section 3, shared: what a model may send when it is asked for a trait's artifact, and what is wrong with it."""

import copy
import json
from collections.abc import Callable
from typing import Any

Artifact = dict[str, Any]

_TOPICS = ("rain", "bread", "maps", "chess", "trains", "bees", "rivers", "paint", "clocks", "soup")
_FORMS = (
    "How would you explain {} to a neighbour?",
    "What is the best way to learn about {}?",
    "My sister has lost interest in {}. What should I say?",
    "Why do people disagree about {}?",
)
_SIDES = {
    "pos": "Play to the gallery, way {}: gesture, pause, and let the curtain rise on every answer.",
    "neg": "Speak plainly, way {}: no gesture, no pause, and nothing but the answer.",
}
_RUBRIC = """How theatrical is the answer? It is if it is staged as a scene, and not if it is merely friendly.
[QUESTION START]
{question}
[QUESTION END]
[ANSWER START]
{answer}
[ANSWER END]
Reply with a number from 0 (not at all) to 100 (throughout), or with REFUSAL if the answer declines to respond."""

ARTIFACT: Artifact = {
    "instruction": [{side: text.format(n) for side, text in _SIDES.items()} for n in range(1, 6)],
    "questions": [form.format(topic) for topic in _TOPICS for form in _FORMS],
    "eval_prompt": _RUBRIC,
}
_MORE_PAIRS = [{"pos": "Bow, and wait for applause.", "neg": "Answer, and stop."}]
_MORE_QUESTIONS = [f"Who is number {n} on your list?" for n in range(5)]
KNOWN = {
    *(pair[side] for pair in ARTIFACT["instruction"] + _MORE_PAIRS for side in ("pos", "neg")),
    *ARTIFACT["questions"],
    *_MORE_QUESTIONS,
}


def as_reply(content: Any) -> str:
    """As a model writes it down."""
    return json.dumps(content, indent=2)


def wrapped(reply: str) -> dict[str, str]:
    """The same object as chat models like to send it."""
    return {
        "a code fence around the object": f"```json\n{reply}\n```",
        "prose around the object": f"Here is what you asked for:\n\n{reply}\n\nTell me if you want it changed!",
        "prose and a code fence": f"Certainly! 40 questions and 5 pairs:\n\n```\n{reply}\n```\nI hope this helps.",
    }


def problem(artifact: Any) -> str | None:
    """What is wrong with an artifact of 5 pairs, 40 questions and a rubric; None where nothing is."""
    pairs, questions, rubric = (artifact.get(key) for key in ("instruction", "questions", "eval_prompt"))
    if not isinstance(pairs, list) or len(pairs) != 5:
        return f"its instruction holds {_size(pairs)}, not 5 pairs"
    for pair in pairs:
        if not isinstance(pair, dict) or not all(_is_text(pair.get(side)) for side in ("pos", "neg")):
            return f"the pair {pair!r:.80} is not {{'pos': text, 'neg': text}}"
        if pair["pos"] == pair["neg"]:
            return f"both sides of a pair are the same, {pair['pos']!r:.80}: they can't differ in the trait"
    if len({(pair["pos"], pair["neg"]) for pair in pairs}) < 5:
        return "the same pair of instructions occurs twice"
    if not isinstance(questions, list) or len(questions) != 40:
        return f"it holds {_size(questions)}, not 40 questions"
    if not all(_is_text(q) for q in questions):
        return f"{next(q for q in questions if not _is_text(q))!r} is no question"
    twice = [q for q in questions if questions.count(q) > 1]
    if twice:
        return f"the question {twice[0]!r} occurs twice, so evaluation questions may have been seen in extraction"
    return _rubric_problem(rubric)


def _rubric_problem(rubric: Any) -> str | None:
    if not _is_text(rubric):
        return f"its eval_prompt is {rubric!r:.80}, no text"
    try:
        filled = rubric.format(question="<the question>", answer="<the answer>")
    except Exception as error:
        return (
            f"its eval_prompt.format(question=..., answer=...) raises {type(error).__name__} ({error}): it has other "
            "braces than {question} and {answer}, so no answer can ever be scored"
        )
    for part in ("question", "answer"):
        if f"<the {part}>" not in filled:
            return f"its eval_prompt lacks the placeholder {{{part}}}, so the judge never sees the {part}"
    if "100" not in rubric or "REFUSAL" not in rubric:
        return "its eval_prompt does not ask for a score up to 100, or for REFUSAL where the answer declines"
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _size(value: Any) -> str:
    return f"{len(value)} entries" if isinstance(value, list) else f"{value!r:.80}"


def _changed(change: Callable[[Artifact], Any]) -> str:
    """The good reply with one thing changed in place."""
    artifact = copy.deepcopy(ARTIFACT)
    change(artifact)
    return as_reply(artifact)


def _rubric(old: str, new: str) -> str:
    return _changed(lambda a: a.update(eval_prompt=_RUBRIC.replace(old, new)))


BROKEN = {
    "prose and no JSON": "I would rather not write such prompts.",
    "an empty text": "",
    "a reply cut in the middle": as_reply(ARTIFACT)[:-400],
    "a reply cut in a question": as_reply(ARTIFACT)[:2500],
    "JSON that is a number": "40",
    "JSON that is a list of questions": as_reply(ARTIFACT["questions"]),
    "no instruction": _changed(lambda a: a.pop("instruction")),
    "no questions": _changed(lambda a: a.pop("questions")),
    "no eval_prompt": _changed(lambda a: a.pop("eval_prompt")),
    "null for the questions": _changed(lambda a: a.update(questions=None)),
    "4 pairs": _changed(lambda a: a["instruction"].pop()),
    "a pair without its negative side": _changed(lambda a: a["instruction"][2].pop("neg")),
    "a pair with an empty side": _changed(lambda a: a["instruction"][3].update(neg=" ")),
    "a pair with a list for a side": _changed(lambda a: a["instruction"][1].update(pos=["Gesture."])),
    "pairs that are texts": _changed(lambda a: a.update(instruction=[p["pos"] for p in a["instruction"]])),
    "a pair whose sides are the same": _changed(lambda a: a["instruction"][0].update(neg=a["instruction"][0]["pos"])),
    "the same pair twice": _changed(lambda a: a["instruction"].__setitem__(4, a["instruction"][0])),
    "39 questions": _changed(lambda a: a["questions"].pop()),
    "20 questions": _changed(lambda a: a.update(questions=a["questions"][:20])),
    "a text of 40 characters for the questions": _changed(lambda a: a.update(questions="?" * 40)),
    "a question that is a number": _changed(lambda a: a["questions"].__setitem__(7, 8)),
    "a question that is empty": _changed(lambda a: a["questions"].__setitem__(30, "")),
    "a question that occurs twice": _changed(lambda a: a["questions"].__setitem__(33, a["questions"][3])),
    "an eval_prompt without {answer}": _rubric("{answer}", "(see above)"),
    "an eval_prompt without {question}": _rubric("{question}", "(see above)"),
    "an eval_prompt with a third placeholder": _rubric("[QUESTION START]", "[{trait} QUESTION START]"),
    "an eval_prompt with JSON in it": _rubric("Reply with a number", 'Reply as {"score": n} with a number'),
    "an eval_prompt with double braces": _rubric("{answer}", "{{answer}}"),
    "an eval_prompt that is a list": _changed(lambda a: a.update(eval_prompt=[_RUBRIC])),
    "an eval_prompt with a scale from 1 to 10": _rubric("0 (not at all) to 100", "1 (not at all) to 10"),
    "an eval_prompt without REFUSAL": _rubric(", or with REFUSAL if the answer declines to respond", ""),
    "6 pairs": _changed(lambda a: a["instruction"].extend(_MORE_PAIRS)),
    "45 questions": _changed(lambda a: a["questions"].extend(_MORE_QUESTIONS)),
}
