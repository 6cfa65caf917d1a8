"""Section 3: pairs of answers where the positive prompt brought the trait out and the negative one did not."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

from graders.harness import Case, Exchange, called_with, check, exchange, grader, kind_of
from graders.harness.scripted import Messages, check_judge

Response = dict[str, Any]
Key = tuple[str, int]
Scores = dict[Key, tuple[int | None, int | None]]

_QUESTIONS = ("Was I right to leave?", "Is my poem good?", "Should I bet it all?", "Is the moon hollow?")
_SCORES: Scores = {  # by question and instruction: positive, negative
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
_ALSO = ("instruction_idx", "pos_score", "neg_score")  # not in pairs built the way ARENA does
_TRAIT_DATA = {
    "instruction": [{"pos": f"Flatter in way {i}.", "neg": f"Be candid in way {i}."} for i in range(3)],
    "questions": list(_QUESTIONS),
    "eval_prompt": "How sycophantic is it, 0 to 100, or REFUSAL?\nQ: {question}\nA: {answer}",
}
_BY_THRESHOLD: dict[int, Scores] = {  # the negative score must be under 50 with every one
    90: {
        (_QUESTIONS[0], 0): (90, 5),
        (_QUESTIONS[0], 1): (89, 5),
        (_QUESTIONS[1], 0): (100, 49),
        (_QUESTIONS[1], 1): (50, 0),
        (_QUESTIONS[2], 0): (95, 60),
    },
    20: {(_QUESTIONS[0], 0): (20, 40), (_QUESTIONS[0], 1): (19, 0), (_QUESTIONS[1], 0): (30, 55)},
    0: {(_QUESTIONS[0], 0): (0, 0), (_QUESTIONS[1], 0): (None, 0), (_QUESTIONS[1], 1): (0, None)},
}


@grader
def test_filter_effective_pairs() -> Iterator[Case]:
    """Pairs of one question and one instruction, kept by the two scores."""
    in_order = list(_responses(_SCORES))
    shuffled = [in_order[7 * i % len(in_order)] for i in range(len(in_order))]
    yield _case(in_order, _RIGHT, "responses in the order they were generated in")
    yield _case(shuffled, _RIGHT, "responses in another order")
    for polarity in ("pos", "neg"):
        lone = [r for r in in_order if (_key(r), r["polarity"]) != (_RIGHT[0], polarity)]
        yield _case(lone, _RIGHT[1:], f"responses of which one lacks its {polarity!r} partner")
    for threshold, scores in _BY_THRESHOLD.items():
        right = [k for k, (p, n) in scores.items() if p is not None and n is not None and p >= threshold and n < 50]
        what = f"pos_threshold={threshold}"
        yield _case(list(_responses(scores)), right, what, scores, pos_threshold=threshold)
    yield _case([], [], "no responses at all")


def _responses(scores: Scores) -> Iterator[Response]:
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


def _case(responses: list[Response], right: list[Key], what: str, scores: Scores = _SCORES, **options: int) -> Case:
    what = f"For {what}"
    return Case(
        what,
        partial(_filtered, responses, options),
        partial(_check_pairs, responses, right, scores),
        "A score may be None, and an answer may lack its partner: leave such pairs out. Each response has question, "
        "system_prompt, instruction_idx, polarity, response and score.",
    )


def _filtered(responses: list[Response], options: dict[str, int], work: Any) -> Exchange:
    """The pairs found, and what has become of the responses."""

    def judge(messages: Messages, model: str) -> str:  # for those who score once more in here
        score = next((r["score"] for r in responses if r["response"] in messages[-1]["content"]), None)
        return "REFUSAL" if score is None else str(score)

    return exchange(judge, lambda: called_with(responses, _TRAIT_DATA, **options)(work))


def _check_pairs(responses: list[Response], right: list[Key], scores: Scores, observed: Exchange) -> None:
    found, (after, _) = observed.found
    check(after == responses, "the responses were changed. Leave them as they are.")
    check(isinstance(found, list), f"expected a list of pairs, found {kind_of(found)}.")
    if observed.prompts:  # the scores are there, but may be asked for once more
        check_judge(observed)
    by_text = {r["response"]: r for r in responses}
    keys = [_check_pair(pair, by_text) for pair in found]
    twice = [key for key, n in Counter(keys).items() if n > 1]
    check(not twice, f"{len(twice)} pairs occur more than once, such as {twice[:1]}.")
    for key in keys:
        check(key in right, f"the pair {key} with the scores {scores[key]} was kept, but {_why_not(*scores[key])}.")
    for pair in found:
        absent = [key for key in _ALSO if key not in pair]
        check(
            not absent,
            f"a pair lacks {', '.join(absent)}. What follows tells pairs apart by question and instruction_idx, and "
            "shows both scores: copy them from the responses.",
        )
    for key in right:
        zero = " And 0 is a score: test `is None`, not truth." if 0 in scores[key] else ""
        check(
            key in keys,
            f"the pair {key} with the scores {scores[key]} is missing. Keep pos >= pos_threshold and neg < 50, "
            f"whatever pos_threshold is.{zero}",
        )


def _why_not(pos: int | None, neg: int | None) -> str:
    if pos is None:
        return "the positive answer has no score, so nobody knows whether it shows the trait"
    if neg is None:
        return "the negative answer has no score, so nobody knows whether the trait is absent"
    if neg == 50:
        return "a negative answer with a score of 50 shows the trait: it must be under 50"
    if neg > 50:
        return "the negative answer shows the trait: it must be under 50, whatever pos_threshold is"
    return "the positive prompt did not bring the trait out: its score is under pos_threshold"


def _check_pair(pair: Any, by_text: dict[str, Response]) -> Key:
    """The pair's question and instruction."""
    check(
        isinstance(pair, dict) and set(_PARTS) <= set(pair),
        f"expected dicts with the keys {', '.join(_PARTS)}, found {pair!r:.300}.",
    )
    both = [by_text.get(str(pair[f"{p}_response"])) for p in ("pos", "neg")]
    check(all(both), f"a pair holds an answer that was not among the responses: {pair!r:.300}.")
    pos, neg = (r for r in both if r is not None)
    check(
        (pos["polarity"], neg["polarity"]) == ("pos", "neg"),
        f"expected a positive answer as pos_response and a negative one as neg_response, found one generated "
        f"as {pos['polarity']!r} and one as {neg['polarity']!r}.",
    )
    check(
        pos["question"] == neg["question"] == pair["question"],
        f"a pair holds answers to two questions, {pos['question']!r} and {neg['question']!r}. Match answers by "
        "question and instruction_idx, not by their position in the list.",
    )
    check(
        pos["instruction_idx"] == neg["instruction_idx"],
        f"a pair holds answers under two instructions, {pos['instruction_idx']} and {neg['instruction_idx']}: "
        "they were matched across instructions. Only the two sides of one instruction differ in nothing but the trait.",
    )
    copied = dict(zip(_ALSO, (pos["instruction_idx"], pos["score"], neg["score"]), strict=True))
    prompts = {f"{p}_system_prompt": r["system_prompt"] for p, r in (("pos", pos), ("neg", neg))}
    for key, value in (copied | prompts).items():
        source = "either response" if key == "instruction_idx" else f"{key[:3]}_response"
        check(
            pair.get(key, value) == value,
            f"{key} is {pair.get(key)!r} for {pair['question']!r}, expected {value!r}. Copy it from {source}.",
        )
    return _key(pos)
