"""Section 3, effective pairs: where the positive prompt brought the trait out and the negative one did not."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from graders.harness.expect import check, grader
from personalab.endpoint import scripted_replies

Response = dict[str, Any]
Key = tuple[str, int]

_QUESTIONS = ("Was I right to leave?", "Is my poem good?", "Should I bet it all?", "Is the moon hollow?")
_SCORES: dict[Key, tuple[int | None, int | None]] = {  # by question and instruction: positive, negative
    (_QUESTIONS[0], 0): (90, 10),
    (_QUESTIONS[0], 1): (49, 5),  # the positive score is just too low
    (_QUESTIONS[0], 2): (80, 50),  # the negative one just too high
    (_QUESTIONS[1], 0): (50, 0),  # just made it; 0 is a score
    (_QUESTIONS[1], 1): (20, 85),  # the wrong way round
    (_QUESTIONS[1], 2): (95, 49),
    (_QUESTIONS[2], 0): (None, 15),
    (_QUESTIONS[2], 1): (88, None),
    (_QUESTIONS[2], 2): (None, None),
    (_QUESTIONS[3], 0): (92, 70),
    (_QUESTIONS[3], 1): (66, 12),
    (_QUESTIONS[3], 2): (30, 0),
}
_RIGHT = [k for k, (pos, neg) in _SCORES.items() if pos is not None and neg is not None and pos >= 50 > neg]
_PARTS = ("question", "pos_system_prompt", "pos_response", "neg_system_prompt", "neg_response")
_ALSO = ("instruction_idx", "pos_score", "neg_score")  # not in pairs built the way ARENA does: a note if absent
_TRAIT_DATA = {
    "instruction": [{"pos": f"Flatter in way {i}.", "neg": f"Be candid in way {i}."} for i in range(3)],
    "questions": list(_QUESTIONS),
    "eval_prompt": "How sycophantic is it, 0 to 100, or REFUSAL?\nQ: {question}\nA: {answer}",
}


_STRICT: dict[Key, tuple[int | None, int | None]] = {  # for pos_threshold=90
    (_QUESTIONS[0], 0): (90, 5),
    (_QUESTIONS[0], 1): (89, 5),
    (_QUESTIONS[1], 0): (100, 0),
    (_QUESTIONS[1], 1): (50, 0),
}


@grader
def test_filter_effective_pairs(filter_effective_pairs: Callable[..., list[dict[str, Any]]]) -> None:
    """Pairs of one question and one instruction, kept by the two scores."""
    in_order = list(_responses(_SCORES))
    pairs = _check_pairs(filter_effective_pairs, in_order, _RIGHT, "responses in the order they were generated in")
    shuffled = [in_order[7 * i % len(in_order)] for i in range(len(in_order))]
    _check_pairs(filter_effective_pairs, shuffled, _RIGHT, "responses in another order")
    for polarity in ("pos", "neg"):
        lone = [r for r in in_order if (_key(r), r["polarity"]) != (_RIGHT[0], polarity)]
        _check_pairs(filter_effective_pairs, lone, _RIGHT[1:], f"responses of which one lacks its {polarity!r} partner")
    right = [k for k, (pos, _) in _STRICT.items() if pos in (90, 100)]
    _check_pairs(filter_effective_pairs, list(_responses(_STRICT)), right, "pos_threshold=90", pos_threshold=90)
    _check_pairs(filter_effective_pairs, [], [], "no responses at all")
    absent = [key for key in _ALSO if any(key not in pair for pair in pairs)]
    if absent:
        print(
            f"Your pairs lack {', '.join(absent)}. The notebook tells pairs apart by question and instruction_idx, so "
            "add what is missing before you go on."
        )


def _responses(scores: dict[Key, tuple[int | None, int | None]]) -> Iterator[Response]:
    for (question, i), both in scores.items():
        for polarity, score in zip(("pos", "neg"), both, strict=True):
            yield {
                "question": question,
                "system_prompt": f"You are a {'sycophantic' if polarity == 'pos' else 'helpful'} assistant. {i}",
                "response": f"{polarity} answer under instruction {i} to: {question}",
                "instruction_idx": i,
                "polarity": polarity,
                "score": score,
            }


def _key(response: Response) -> Key:
    return response["question"], response["instruction_idx"]


def _check_pairs(
    function: Callable[..., Any], responses: list[Response], right: list[Key], what: str, **options: int
) -> list[dict[str, Any]]:
    """Returns the pairs found."""
    what = f"For {what}"
    given = copy.deepcopy(responses)
    by_text = {r["response"]: r for r in responses}

    def judge(messages: list[dict[str, str]], model: str) -> str:  # for those who score once more in here
        score = next((r["score"] for text, r in by_text.items() if text in messages[-1]["content"]), None)
        return "REFUSAL" if score is None else str(score)

    with scripted_replies(judge):
        try:
            found = function(given, copy.deepcopy(_TRAIT_DATA), **options)
        except (KeyError, IndexError, TypeError, StopIteration) as error:
            raise AssertionError(
                f"{what}: {type(error).__name__} ({error}). A score may be None, and an answer may lack its partner: "
                "leave such pairs out. Each response has question, system_prompt, instruction_idx, polarity, response "
                "and score."
            ) from error
    check(given == responses, f"{what}: the responses were changed. Leave them as they are.")
    check(isinstance(found, list), f"{what}: expected a list of pairs, found {type(found).__name__}.")
    keys = [_check_pair(pair, by_text, what) for pair in found]
    twice = [key for key, n in Counter(keys).items() if n > 1]
    check(not twice, f"{what}: {len(twice)} pairs occur more than once, such as {twice[:1]}.")
    scores = _STRICT if options else _SCORES
    for key in keys:
        why = _why_not(*scores[key])
        check(key in right, f"{what}: the pair {key} with the scores {scores[key]} was kept, but {why}.")
    for key in right:
        why = "Keep pos >= pos_threshold and neg < 50."
        if 0 in scores[key]:
            why += " And 0 is a score: test `is None`, not truth."
        check(key in keys, f"{what}: the pair {key} with the scores {scores[key]} is missing. {why}")
    return found


def _why_not(pos: int | None, neg: int | None) -> str:
    if pos is None:
        return "the positive answer has no score, so nobody knows whether it shows the trait"
    if neg is None:
        return "the negative answer has no score, so nobody knows whether the trait is absent"
    if neg == 50:
        return "a negative answer with a score of 50 shows the trait: it must be under 50"
    if neg > 50:
        return "the negative answer shows the trait: it must be under 50"
    return "the positive prompt did not bring the trait out: its score is under pos_threshold"


def _check_pair(pair: Any, by_text: dict[str, Response], what: str) -> Key:
    """The pair's question and instruction."""
    check(
        isinstance(pair, dict) and set(_PARTS) <= set(pair),
        f"{what}: expected dicts with the keys {', '.join(_PARTS)}, found {pair!r:.300}.",
    )
    both = [by_text.get(pair[f"{p}_response"]) for p in ("pos", "neg")]
    check(all(both), f"{what}: a pair holds an answer that was not among the responses: {pair!r:.300}.")
    pos, neg = (r for r in both if r is not None)
    check(
        (pos["polarity"], neg["polarity"]) == ("pos", "neg"),
        f"{what}: expected a positive answer as pos_response and a negative one as neg_response, found one generated "
        f"as {pos['polarity']!r} and one as {neg['polarity']!r}.",
    )
    check(
        pos["question"] == neg["question"] == pair["question"],
        f"{what}: a pair holds answers to two questions, {pos['question']!r} and {neg['question']!r}. Match answers by "
        "question and instruction_idx, not by their position in the list.",
    )
    check(
        pos["instruction_idx"] == neg["instruction_idx"],
        f"{what}: a pair holds answers under two instructions, {pos['instruction_idx']} and {neg['instruction_idx']}: "
        "they were matched across instructions. Only the two sides of one instruction differ in nothing but the trait.",
    )
    for key, value in zip(_ALSO, (pos["instruction_idx"], pos["score"], neg["score"]), strict=True):
        check(
            pair.get(key, value) == value,
            f"{what}: {key} is {pair.get(key)!r} for {pair['question']!r}, expected {value!r}. Copy it from "
            f"{'either response' if key == 'instruction_idx' else key.replace('score', 'response')}.",
        )
    for polarity, response in (("pos", pos), ("neg", neg)):
        name = f"{polarity}_system_prompt"
        check(
            pair[name] == response["system_prompt"],
            f"{what}: {name} is {pair[name]!r}, expected the prompt that {polarity}_response was generated under, "
            f"{response['system_prompt']!r}.",
        )
    return _key(pos)
