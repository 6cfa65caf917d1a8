"""Section 4, the pipeline: whether its vectors and its steering results are right for what model and judge said."""

from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graders.harness import check, check_close, tolerance
from graders.harness.cases import check_keys
from graders.harness.prompts import prompts
from graders.harness.readings import stream
from graders.harness.stage import COHERENCE, EFFECTIVE, QUESTIONS, SCORES, Run, Said, Stage

LAYER, COEFFICIENTS, DEFAULTS = 1, [-2.0, 0.0, 1.0], [-3.0, -1.0, 0.0, 1.0, 3.0, 5.0]

Result = tuple[Tensor, list[dict[str, Any]]]
Key = tuple[int, int]  # instruction, question


def _pairs(coherent: Callable[[int, int], bool]) -> list[Key]:
    """Pairs kept under another rule for the coherence of a pair's two answers; -1 stands for no score."""

    def numbers(texts: tuple[str, str]) -> tuple[int, int]:
        pos, neg = (int(text) if text.isdigit() else -1 for text in texts)
        return pos, neg

    scores = {key: numbers(texts) for key, texts in SCORES.items()}
    return [k for k, (pos, neg) in scores.items() if pos >= 50 > neg >= 0 and coherent(*numbers(COHERENCE[k]))]


_WRONG_PAIRS: dict[str, list[Key]] = {
    "every pair was used: keep those with pos >= 50 and neg < 50, both scored, and do so before taking vectors": (
        list(SCORES)
    ),
    "coherence was not looked at: in a pair both answers have a coherence of 50 or more (score_coherence)": (
        _pairs(lambda pos, neg: True)
    ),
    "the coherence of a pair's two answers was averaged: each must be 50 or more": (
        _pairs(lambda pos, neg: pos + neg >= 100)
    ),
    "only the positive answer's coherence was looked at: both must be coherent": _pairs(lambda pos, neg: pos >= 50),
    "only the negative answer's coherence was looked at: both must be coherent": _pairs(lambda pos, neg: neg >= 50),
    "an answer without a coherence score was taken for coherent": (
        _pairs(lambda pos, neg: all(c >= 50 or c < 0 for c in (pos, neg)))
    ),
    "a coherence of just 50 was not enough": _pairs(lambda pos, neg: min(pos, neg) > 50),
    "a pair without a score of its negative answer was used, as if that were 0: leave it out": [*EFFECTIVE, (1, 3)],
    "one pair a question was used, the first: keep all that are effective": [(0, 0), (1, 1)],
    "one pair a question was used, the last: keep all that are effective": [(1, 0), (1, 1)],
    "the first half of the answers was used: a list from an interrupted run is not complete": [(0, 0)],
}


def _means(model: Any, tok: Any, said: Said) -> Float[Tensor, "conventions L d"]:
    """Mean over the answer after every block: content only, with the end marker, to the end of the rendering."""
    ending = tok("\n", add_special_tokens=False)["input_ids"]
    states = stream(model, [*said.prompt, *said.new, tok.eos_token_id, *ending]).double()  # (L + 2, tokens, d)
    start, end = len(said.prompt), len(said.prompt) + len(said.new)
    raw, normed = states[1:-1], torch.cat([states[1:-2], states[-1:]])
    return torch.stack([s[:, start:b].mean(1) for s in (raw, normed) for b in (end, end + 1, end + 2)])


def check_vectors(vectors: Tensor, answers: list[Said], stage: Stage, stale: Result | None = None) -> None:
    """The vectors that these answers amount to, later ones in place of earlier ones."""
    by_key = {(a.instruction, QUESTIONS.index(a.question), a.polarity): a for a in answers}
    missing = [k for i, q in SCORES for k in ((i, q, "pos"), (i, q, "neg")) if k not in by_key]
    check(
        not missing,
        "expected an answer for every instruction, question and polarity, found none for (instruction, question, "
        f"polarity) = {missing[:1]}. Was a half-made list of answers used, or only some of the questions?",
    )

    @cache
    def means(instruction: int, question: int, polarity: str) -> Float[Tensor, "conventions L d"]:
        return _means(stage.model, stage.tok, by_key[instruction, question, polarity])

    def difference(pos: list[Key], neg: list[Key]) -> list[Tensor]:
        both = [torch.stack([means(*k, p) for k in keys]).mean(0) for keys, p in ((pos, "pos"), (neg, "neg"))]
        return list(both[0] - both[1])

    mistakes: dict[str, Callable[[], Tensor | list[Tensor]]] = {
        "the sign is flipped: mean(pos) - mean(neg)": lambda: [-v for v in difference(EFFECTIVE, EFFECTIVE)],
        "the positive answers were filtered, the negative ones not: filter pairs": (
            lambda: difference(EFFECTIVE, list(SCORES))
        ),
        "the vectors come from the answers of an earlier run: they were not made again": (
            lambda: [stale[0].double()] if stale else []
        ),
    }
    mistakes |= {why: partial(difference, keys, keys) for why, keys in _WRONG_PAIRS.items()}
    right, near = difference(EFFECTIVE, EFFECTIVE), tolerance(stage.model.dtype)
    check_close(vectors.double(), right, "trait_vectors", mistakes, near)


def check_steering(run: Run, stage: Stage, stale: Result | None, coefficients: list[float] | None) -> None:
    """The results of a run, under the vectors that it returned."""
    vectors, results = run.found
    check_keys(results, ("coefficient", "question", "response", "score"))
    coefficients = DEFAULTS if coefficients is None else coefficients
    found = Counter((r["coefficient"], r["question"]) for r in results)
    questions = {q for _, q in found}
    check(
        set(found) == {(c, q) for c in coefficients for q in questions}
        and bool(questions)
        and max(found.values()) == 1,
        f"expected one result for each coefficient of {coefficients} and each question, found {sorted(found)}. "
        "steering_coefficients=None stands for -3, -1, 0, 1, 3, 5.",
    )
    _check_questions(questions, run.data)
    by_text, plain = {s.text.strip(): s for s in run.steered}, cache(partial(_plain, stage.model))
    for r in results:
        where = f"steering result for coefficient {r['coefficient']}, {r['question']!r}"
        answer = by_text.get(str(r["response"]).strip())
        check(
            answer is not None and answer.question == r["question"],
            f"{where}: expected the steered answer to that question from this run, found {r['response']!r}. Are "
            "results of an earlier run, or of another question, used?",
        )
        assert answer is not None
        check(
            answer.prompt in prompts([{"role": "user", "content": answer.question}], stage.tok),
            f"{where}: expected the question alone in its chat template, found {stage.tok.decode(answer.prompt)!r}. "
            "Steered answers come without a system prompt: what they show is the vector's doing.",
        )
        said, score = run.scores[answer.text], r["score"]
        right = score is None if said == "REFUSAL" else score is not None and score == int(said)
        check(right, f"{where}: the judge said {said}, found {score!r}. None stands for REFUSAL, and for it alone.")
        shift = answer.states.double() - plain(tuple(answer.prompt))
        _check_shift(shift, r["coefficient"], vectors.double(), answer.states.norm(dim=1).max(), where, stale)


def _check_questions(found: set[str], data: dict[str, Any]) -> None:
    """Steered on all "eval_questions" where there are any, else on all "questions"."""
    key = "eval_questions" if "eval_questions" in data else "questions"
    right = set(data[key])
    check(
        found == right,
        f'expected steering on all of "{key}", {sorted(right)}, found {sorted(found)}. Use '
        'trait_data.get("eval_questions", trait_data["questions"]). Is a slice left over from a quick try?',
    )


def _plain(model: Any, prompt: tuple[int, ...]) -> Float[Tensor, "L d"]:
    """What the blocks put out at the prompt's end, the last one after the final norm."""
    states = stream(model, list(prompt))[:, -1].double()
    return torch.cat([states[1:-2], states[-1:]])


def _check_shift(
    shift: Float[Tensor, "L d"],
    coefficient: float,
    vectors: Float[Tensor, "L d"],
    size: Tensor,
    where: str,
    stale: Result | None,
) -> None:
    """`coefficient * vectors[layer]` was added to the output of block `layer`, at least at the prompt's end.

    Args:
        size: norm of the largest state.
    """
    push = coefficient * vectors
    slack = tolerance(torch.float32).allowed((push.norm(dim=1).max() + size).item())
    moved = [k for k, s in enumerate(shift) if s.norm() > slack]
    first = moved[0] if moved else None
    expected = LAYER if coefficient else None
    check(
        first == expected,
        f"{where}: expected {'a change from block ' + str(LAYER) + ' on' if coefficient else 'no change'} "
        f"(layer={LAYER} is a **block** index), found {'none' if first is None else f'one from block {first} on'}.",
    )
    if not coefficient or (shift[LAYER] - push[LAYER]).norm() < slack:
        return
    mistakes = {
        f"row {k} of the vectors is added: row `layer` = {LAYER} belongs to block `layer`": push[k]
        for k in range(len(vectors))
    } | {
        "the vector is normalised first: add coefficient * trait_vectors[layer] as it is": push[LAYER]
        / vectors[LAYER].norm(),
        "the coefficient is not that of the result": shift[LAYER].norm() * push[LAYER] / push[LAYER].norm(),
        "the sign is wrong": -push[LAYER],
    }
    if stale:
        mistakes["the vector of an earlier run is added"] = coefficient * stale[0][LAYER].double()
    guess = next((why for why, p in mistakes.items() if (shift[LAYER] - p).norm() < slack), "")
    raise AssertionError(
        f"{where}: expected {coefficient} * trait_vectors[{LAYER}] added to the output of block {LAYER}, found "
        f"something else. {'It looks as if ' + guess + '.' if guess else ''}"
    )
