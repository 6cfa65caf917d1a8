"""Section 4, the pipeline: whether its vectors and its steering results are right for what model and judge said."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graders.harness import check, check_close, oracles, tolerance
from graders.harness.cases import check_keys
from graders.harness.readings import stream
from graders.harness.stage import EFFECTIVE, QUESTIONS, SCORES, Run, Said, Stage
from personalab.lm.models import n_blocks

LAYER, COEFFICIENTS, DEFAULTS = 1, [-2.0, 0.0, 1.0], [-3.0, -1.0, 0.0, 1.0, 3.0, 5.0]

Result = tuple[Tensor, list[dict[str, Any]]]


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
    means = {key: _means(stage.model, stage.tok, a) for key, a in by_key.items()}
    asked = {q for _, q, _ in missing}
    check(
        not missing or all((i, q, p) not in by_key for i, _ in SCORES for q in asked for p in ("pos", "neg")),
        "expected an answer for every instruction, question and polarity, found none for (instruction, question, "
        f"polarity) = {missing[:1]}. Was a half-made list of answers used?",
    )
    pairs = [k for k in SCORES if k[1] not in asked]
    kept = [k for k in EFFECTIVE if k in pairs]

    def difference(pos: list[tuple[int, int]], neg: list[tuple[int, int]]) -> list[Tensor]:
        both = [torch.stack([means[*k, p] for k in keys]).mean(0) for keys, p in ((pos, "pos"), (neg, "neg"))]
        return list(both[0] - both[1])

    mistakes: dict[str, Callable[[], Tensor | list[Tensor]]] = {
        "every pair was used: keep those with pos >= 50 and neg < 50, both scored, and do so before taking vectors": (
            lambda: difference(pairs, pairs)
        ),
        "the sign is flipped: mean(pos) - mean(neg)": lambda: [-v for v in difference(kept, kept)],
        "the positive answers were filtered, the negative ones not: filter pairs": lambda: difference(kept, pairs),
        "the vectors come from the answers of an earlier run: they were not made again": (
            lambda: [stale[0].double()] if stale else []
        ),
        "the first half of the answers was used: a list from an interrupted run is not complete": (
            lambda: difference([k for k in kept if k[0] == 0], [k for k in kept if k[0] == 0])
        ),
    }
    check_close(vectors.double(), difference(kept, kept), "trait_vectors", mistakes, tolerance(stage.model.dtype))


def check_steering(
    run: Run, answers: list[Said], stage: Stage, stale: Result | None, coefficients: list[float] | None
) -> None:
    """The results of a run whose vectors come from these answers."""
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
    _check_questions(questions, {a.question for a in answers}, run.data)
    said = {s.text.strip(): s for s in run.steered}
    for r in results:
        where = f"steering result for coefficient {r['coefficient']}, {r['question']!r}"
        answer = said.get(str(r["response"]).strip())
        check(
            answer is not None and answer.question == r["question"],
            f"{where}: expected the steered answer to that question from this run, found {r['response']!r}. Are "
            "results of an earlier run, or of another question, used?",
        )
        assert answer is not None
        score = run.scores[answer.text]
        check(r["score"] == int(score), f"{where}: the judge said {score}, found {r['score']!r}.")
        _check_shift(answer, r["coefficient"], vectors, stage, where, stale)


def _check_questions(found: set[str], answered: set[str], data: dict[str, Any]) -> None:
    """Steered on "eval_questions" where there are any; else on all questions, or on all that made no vector."""
    every, fresh = set(data["questions"]), set(data.get("eval_questions", []))
    usual, advice = found in (every, every - answered), 'Use trait_data.get("eval_questions", trait_data["questions"]).'
    if not fresh:
        check(
            usual,
            f'expected steering on all of "questions", {sorted(every)} (or on all of them that the vector was not made '
            f"from), found {sorted(found)}. Is a slice left over from a quick try?",
        )
    elif usual:
        print(f'Note that your steering does not use "eval_questions". {advice}')
    else:
        expected = f'expected steering on "eval_questions", {sorted(fresh)}'
        check(found == fresh, f"{expected}, found {sorted(found)}. {advice}")


def _check_shift(
    answer: Said, coefficient: float, vectors: Tensor, stage: Stage, where: str, stale: Result | None
) -> None:
    """`coefficient * vectors[layer]` was added to the output of block `layer`, at least at the prompt's end."""
    plain = [oracles.hidden(stage.model, answer.prompt, k + 1)[-1] for k in range(n_blocks(stage.model))]
    shift = answer.states.double() - torch.stack(plain).double()  # (L, d)
    push = coefficient * vectors.double()
    size = push.norm(dim=1).max() + answer.states.norm(dim=1).max()
    slack = tolerance(stage.model.dtype).allowed(size.item())
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
        / vectors[LAYER].double().norm(),
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
