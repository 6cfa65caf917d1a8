# Over 300 lines on purpose: one file an exercise, and its table of solutions is the content.
import re
from collections import defaultdict
from itertools import product

import pandas as pd

import utils
from checks.bank import right, wrong


def pair_of(pos, neg):
    parts = {f"{p}_{k}": r[k] for p, r in (("pos", pos), ("neg", neg)) for k in ("system_prompt", "response", "score")}
    return {"question": pos["question"], "instruction_idx": pos["instruction_idx"], **parts}


def sides(responses, polarity):
    return [r for r in responses if r["polarity"] == polarity]


def grouped(responses, key=lambda r: (r["question"], r["instruction_idx"])):
    groups = defaultdict(dict)
    for r in responses:
        groups[key(r)][r["polarity"]] = r
    return [(g["pos"], g["neg"]) for g in groups.values() if set(g) == {"pos", "neg"}]


def scored(pos, neg):
    return pos["score"] is not None and neg["score"] is not None


def effective(pos, neg, threshold=50):
    return scored(pos, neg) and pos["score"] >= threshold and neg["score"] < 50


@right
def by_groups(responses, trait_data, pos_threshold=50):
    return [pair_of(*both) for both in grouped(responses) if effective(*both, pos_threshold)]


@wrong("lacks instruction_idx, pos_score, neg_score|must be under 50, whatever pos_threshold")
def in_arena_style(responses: list[dict], trait_data: dict, pos_threshold: int = 50) -> list[dict]:
    """Negative scores under 100 - pos_threshold, scored again in here; no scores in the pairs."""

    def score(r):
        prompt = trait_data["eval_prompt"].format(question=r["question"], answer=r["response"])
        reply = utils.generate_response([{"role": "user", "content": prompt}], model=utils.judge_model())
        return int(reply) if re.fullmatch(r"\d+", reply) else None

    effective_pairs = []
    for instruction_idx in range(len(trait_data["instruction"])):
        for question in trait_data["questions"]:
            found = [r for r in responses if r["question"] == question and r["instruction_idx"] == instruction_idx]
            pos = next((r for r in found if r["polarity"] == "pos"), None)
            neg = next((r for r in found if r["polarity"] == "neg"), None)
            if pos is None or neg is None:
                continue
            pos_score, neg_score = score(pos), score(neg)
            if pos_score is None or neg_score is None:
                continue
            if pos_score >= pos_threshold and neg_score < 100 - pos_threshold:
                effective_pairs.append(
                    {
                        "question": question,
                        "pos_system_prompt": pos["system_prompt"],
                        "neg_system_prompt": neg["system_prompt"],
                        "pos_response": pos["response"],
                        "neg_response": neg["response"],
                    }
                )
    return effective_pairs


@wrong("must be under 50, whatever pos_threshold|neg < 50, whatever pos_threshold")
def one_threshold_for_both(responses, trait_data, pos_threshold=50):
    pairs = [(p, n) for p, n in grouped(responses) if scored(p, n)]
    return [pair_of(p, n) for p, n in pairs if n["score"] < pos_threshold <= p["score"]]


@right
def every_combination(responses, trait_data, pos_threshold=50):
    """Negative answers first."""
    return [
        pair_of(pos, neg)
        for neg, pos in product(sides(responses, "neg"), sides(responses, "pos"))
        if all(pos[k] == neg[k] for k in ("question", "instruction_idx"))
        and scored(pos, neg)
        and effective(pos, neg, pos_threshold)
    ]


@wrong("matched across instructions")
def by_question_alone(responses, trait_data, pos_threshold=50):
    pairs = product(sides(responses, "pos"), sides(responses, "neg"))
    return [pair_of(p, n) for p, n in pairs if p["question"] == n["question"] and effective(p, n)]


@wrong("matched across instructions")
def last_of_each_question(responses, trait_data, pos_threshold=50):
    neg = {r["question"]: r for r in sides(responses, "neg") if r["score"] is not None}
    pairs = [(p, neg[p["question"]]) for p in sides(responses, "pos") if p["question"] in neg]
    return [pair_of(*both) for both in pairs if effective(*both)]


@wrong("answers to two questions")
def by_instruction_alone(responses, trait_data, pos_threshold=50):
    pairs = product(sides(responses, "pos"), sides(responses, "neg"))
    return [pair_of(p, n) for p, n in pairs if p["instruction_idx"] == n["instruction_idx"] and effective(p, n)]


@wrong("another order.*not by their position|another order.*across instructions")
def by_position(responses, trait_data, pos_threshold=50):
    pairs = zip(sides(responses, "pos"), sides(responses, "neg"), strict=False)
    return [pair_of(*both) for both in pairs if effective(*both)]


@wrong("negative answer has no score")
def unscored_negative_counts_as_zero(responses, trait_data, pos_threshold=50):
    return [
        pair_of(pos, neg)
        for pos, neg in grouped(responses)
        if (pos["score"] or 0) >= pos_threshold and (neg["score"] or 0) < 50
    ]


@wrong("positive answer has no score")
def unscored_positive_kept(responses, trait_data, pos_threshold=50):
    return [
        pair_of(pos, neg)
        for pos, neg in grouped(responses)
        if neg["score"] is not None
        and neg["score"] < 50
        and (pos["score"] if pos["score"] is not None else 100) >= pos_threshold
    ]


@wrong("A score may be None")
def compares_none(responses, trait_data, pos_threshold=50):
    return [pair_of(p, n) for p, n in grouped(responses) if p["score"] >= pos_threshold and n["score"] < 50]


@wrong("0 is a score")
def zero_is_unscored(responses, trait_data, pos_threshold=50):
    return [pair_of(p, n) for p, n in grouped(responses) if p["score"] and n["score"] and effective(p, n)]


@wrong("under 50")
def negative_ignored(responses, trait_data, pos_threshold=50):
    return [pair_of(p, n) for p, n in grouped(responses) if scored(p, n) and p["score"] >= pos_threshold]


@wrong("did not bring the trait out")
def positive_ignored(responses, trait_data, pos_threshold=50):
    return [pair_of(p, n) for p, n in grouped(responses) if scored(p, n) and n["score"] < 50]


@wrong("score of 50 shows the trait")
def negative_at_the_threshold(responses, trait_data, pos_threshold=50):
    return [pair_of(p, n) for p, n in grouped(responses) if scored(p, n) and p["score"] >= 50 >= n["score"]]


@wrong("is missing. Keep pos >= pos_threshold")
def strictly_greater(responses, trait_data, pos_threshold=50):
    return [pair_of(p, n) for p, n in grouped(responses) if effective(p, n, pos_threshold + 1)]


@wrong("did not bring the trait out")
def by_difference(responses, trait_data, pos_threshold=50):
    return [pair_of(p, n) for p, n in grouped(responses) if scored(p, n) and p["score"] > n["score"]]


@wrong("pos_threshold=90.*under pos_threshold")
def threshold_ignored(responses, trait_data, pos_threshold=50):
    return [pair_of(*both) for both in grouped(responses) if effective(*both)]


@wrong("lack its partner")
def partner_expected(responses, trait_data, pos_threshold=50):
    found = {(r["question"], r["instruction_idx"], r["polarity"]): r for r in responses}
    pairs = [(r, found[r["question"], r["instruction_idx"], "neg"]) for r in sides(responses, "pos")]
    return [pair_of(*both) for both in pairs if effective(*both, pos_threshold)]


@wrong("one generated as 'neg'")
def swapped(responses, trait_data, pos_threshold=50):
    return [
        pair_of(neg, pos) | {"question": pos["question"]}
        for pos, neg in grouped(responses)
        if effective(pos, neg, pos_threshold)
    ]


@wrong("neg_system_prompt is")
def one_system_prompt(responses, trait_data, pos_threshold=50):
    return [p | {"neg_system_prompt": p["pos_system_prompt"]} for p in by_groups(responses, trait_data, pos_threshold)]


@wrong("instruction_idx is 0 .*expected 2. Copy it from either response")
def one_instruction_for_all(responses, trait_data, pos_threshold=50):
    return [p | {"instruction_idx": 0} for p in by_groups(responses, trait_data, pos_threshold)]


@wrong("pos_score is 10 .*expected 90")
def scores_swapped(responses, trait_data, pos_threshold=50):
    pairs = by_groups(responses, trait_data, pos_threshold)
    return [p | {"pos_score": p["neg_score"], "neg_score": p["pos_score"]} for p in pairs]


@wrong("neg_score is None .*expected 10")
def negative_score_left_empty(responses, trait_data, pos_threshold=50):
    return [p | {"neg_score": None} for p in by_groups(responses, trait_data, pos_threshold)]


@wrong("expected dicts with the keys")
def tuples(responses, trait_data, pos_threshold=50):
    return [both for both in grouped(responses) if effective(*both, pos_threshold)]


@wrong("more than once")
def twice(responses, trait_data, pos_threshold=50):
    return 2 * by_groups(responses, trait_data, pos_threshold)


@wrong("responses were changed")
def drops_the_score(responses, trait_data, pos_threshold=50):
    found = by_groups(responses, trait_data, pos_threshold)
    for r in responses:
        r.pop("score")
    return found


def table_of(responses):
    """A row a pair; NaN where there is no score."""
    keys, values = ["question", "instruction_idx"], ["system_prompt", "response", "score"]
    table = pd.DataFrame(responses, columns=[*keys, "polarity", *values])
    sides = [table[table.polarity == p].drop(columns="polarity") for p in ("pos", "neg")]
    pos, neg = (
        side.rename(columns={v: f"{p}_{v}" for v in values}) for p, side in zip(("pos", "neg"), sides, strict=True)
    )
    return pos.merge(neg, on=keys)


@right
def with_pandas(responses, trait_data, pos_threshold=50):
    """Scores become floats; what is NaN is neither large nor small."""
    table = table_of(responses).astype({"pos_score": float, "neg_score": float})
    return table[(table.pos_score >= pos_threshold) & (table.neg_score < 50)].to_dict("records")


@right
def scores_again(responses, trait_data, pos_threshold=50):
    """Asks the judge once more, and copies what it had said before."""
    by_key, found = {(r["question"], r["instruction_idx"], r["polarity"]): r for r in responses}, []
    for (question, i, polarity), pos in by_key.items():
        neg = by_key.get((question, i, "neg"))
        if polarity == "pos" and neg is not None:
            told = [
                utils.generate_response(
                    [
                        {
                            "role": "user",
                            "content": trait_data["eval_prompt"].format(question=question, answer=r["response"]),
                        }
                    ],
                    model=utils.judge_model(),
                    temperature=0.0,
                )
                for r in (pos, neg)
            ]
            if all(t.isdigit() for t in told) and int(told[0]) >= pos_threshold and int(told[1]) < 50:
                found.append(pair_of(pos, neg))
    return found


def keeping(words, keep=effective, pairs=grouped, change=lambda pairs: pairs):
    """A wrong solution: other pairs, kept by something else, or changed in the end."""

    def solution(responses, trait_data, pos_threshold=50):
        return change([pair_of(*both) for both in pairs(responses) if keep(*both, pos_threshold)])

    solution.__module__ = __name__
    return wrong(words)(solution)


mirrored_threshold = keeping(
    "whatever pos_threshold", lambda p, n, t: scored(p, n) and p["score"] >= t and n["score"] < 100 - t
)
unscored_count_as_zero = keeping(
    "has no score", lambda p, n, t: (p["score"] or 0) >= t and (n["score"] if n["score"] is not None else 100) < 50
)
wide_apart = keeping("was kept|is missing", lambda p, n, t: scored(p, n) and p["score"] - n["score"] >= t)
at_least_fifty = keeping(
    "pos_threshold=20.*is missing", lambda p, n, t: scored(p, n) and p["score"] >= max(t, 50) and n["score"] < 50
)
one_pair_a_question = keeping(
    "is missing", change=lambda pairs: list({pair["question"]: pair for pair in pairs}.values())
)
without_instruction = keeping(
    "lacks instruction_idx",
    change=lambda pairs: [{k: v for k, v in pair.items() if k != "instruction_idx"} for pair in pairs],
)
without_scores = keeping(
    "lacks pos_score, neg_score",
    change=lambda pairs: [{k: v for k, v in pair.items() if not k.endswith("score")} for pair in pairs],
)
three_at_most = keeping("is missing", change=lambda pairs: sorted(pairs, key=lambda p: -p["pos_score"])[:3])


@wrong("that is the model under study")
def asks_the_model_under_study(responses, trait_data, pos_threshold=50):
    for r in responses:
        utils.generate_response([{"role": "user", "content": r["response"]}], temperature=0.0)
    return by_groups(responses, trait_data, pos_threshold)
