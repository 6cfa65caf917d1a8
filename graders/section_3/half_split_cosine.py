"""Section 3: how alike two vectors are that share no question."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from graders.harness.cases import Case, grader, kind_of, refused
from graders.harness.differences import same
from graders.harness.expect import check, real

_WIDTH = 6
_DRAWS = 60
_CLOSE = 1e-4  # of a cosine


class Pairs(NamedTuple):
    """Differences of pairs, and the question of each."""

    differences: Float[Tensor, "n d"]
    questions: list[Any]


class Seen(NamedTuple):
    """What the draws gave, one after the other from one generator, and then once more from an equal one."""

    values: list[Any]
    again: list[Any]
    changed: bool  # the input
    global_noise: bool  # PyTorch's, NumPy's or Python's own generator moved


def _pairs(sizes: list[int], seed: int, names: Callable[[int], Any]) -> Pairs:
    """Some pairs a question, in a mixed order; a question has a direction of its own, and lengths vary widely."""
    generator = torch.Generator().manual_seed(seed)
    order = [i for i, size in enumerate(sizes) for _ in range(size)]
    order = [order[k] for k in torch.randperm(len(order), generator=generator).tolist()]
    own = torch.randn(len(sizes), _WIDTH, generator=generator)
    noise = 0.5 * torch.randn(len(order), _WIDTH, generator=generator)
    length = torch.exp(0.7 * torch.randn(len(order), 1, generator=generator))
    return Pairs(length * (own[order] + noise + 0.6), [names(i) for i in order])


@grader
def test_half_split_cosine() -> Iterator[Case]:
    """Every value must be that of one of the possible halvings of the questions, and the halvings must vary."""
    for what, pairs in {
        "6 questions with 1 to 5 pairs each": _pairs([5, 1, 3, 2, 4, 1], 0, lambda i: f"Question {i}?"),
        "5 questions (an odd number)": _pairs([2, 4, 1, 3, 2], 1, lambda i: 10 - i),
        "6 questions with 3 pairs each": _pairs([3] * 6, 2, lambda i: f"Why {i}?"),
    }.items():
        yield Case(what, partial(_drawn, pairs), partial(_check, what, pairs))
    two = _pairs([1, 3], 4, lambda i: i)
    yield Case("2 questions", partial(_drawn, two), partial(_check, "2 questions", two))
    one = _pairs([4], 3, lambda i: "The same?")
    why = "one question has no two halves."
    yield refused("4 pairs of one question", lambda work: work(*one, torch.Generator().manual_seed(0)), why)
    why = "every pair needs its question."
    many = _pairs([2, 2, 2], 5, lambda i: i)
    short = (many.differences, many.questions[:-1])
    yield refused("6 pairs with 5 question_ids", lambda work: work(*short, torch.Generator().manual_seed(0)), why)


def _drawn(pairs: Pairs, work: Any) -> Seen:
    given, runs = copy.deepcopy(pairs), []
    before = _noise()
    for _ in range(2):
        generator = torch.Generator().manual_seed(7)
        runs.append([work(*given, generator) for _ in range(_DRAWS)])
    return Seen(runs[0], runs[1], changed=not same((*pairs,), (*given,)), global_noise=_noise() != before)


def _noise() -> tuple[bytes, bytes, Any]:
    """The state of the three generators that everybody shares."""
    state: Any = np.random.get_state()
    return (
        torch.get_rng_state().numpy().tobytes(),
        state[1].tobytes() + bytes(str(state[2]), "ascii"),
        random.getstate(),
    )


def _check(what: str, pairs: Pairs, seen: Seen) -> None:
    check(not seen.changed, f"{what}: you changed your input in place.")
    check(
        not seen.global_noise,
        f"{what}: a global generator of random numbers has moved on. Draw from the `generator` given and seed nothing: "
        "other cells' results depend on the global one.",
    )
    for value in seen.values:
        kind = kind_of(value)
        check(real(value), f"{what}: expected a float, found {kind}. (A tensor's number: `.item()`.)")
        check(-1.001 <= value <= 1.001, f"{what}: a cosine lies between -1 and 1, found {value}.")
    check(seen.values == seen.again, f"{what}: equal generators gave other values. All luck comes from `generator`.")
    possible = _halvings(pairs)
    for value in seen.values:
        if not _among(value, possible):
            raise AssertionError(
                f"{what}: {value:.4f} belongs to no halving of the questions; the possible ones give "
                f"{min(possible):.4f} to {max(possible):.4f}.\n  {_guess(seen.values, pairs)}"
            )
    different, due = (len({round(value, 4) for value in values}) for values in (seen.values, possible))
    check(
        different >= due - 2,
        f"{what}: {_DRAWS} draws from one generator gave {different} different value(s), though there are "
        f"{due} halvings. It looks as if the split is "
        f"{'always the same' if different == 1 else 'one of a few'}: draw it from `generator`, any halving of all.",
    )


def _among(value: float, values: list[float]) -> bool:
    return any(abs(value - v) < _CLOSE for v in values)


def _halves(items: list[Any]) -> Iterator[tuple[set[Any], set[Any]]]:
    """All splits into two halves whose sizes differ by one at most."""
    for size in {len(items) // 2, (len(items) + 1) // 2}:
        for chosen in combinations(items, size):
            yield set(chosen), set(items) - set(chosen)


def _halvings(pairs: Pairs, vectors: Tensor | None = None, by_question: bool = False) -> list[float]:
    """The cosine of every halving of the questions."""
    values, names = (pairs.differences if vectors is None else vectors).double(), list(dict.fromkeys(pairs.questions))

    def mean(half: set[Any]) -> Tensor:
        rows = [values[[q == name for q in pairs.questions]] for name in names if name in half]
        return torch.stack([r.mean(0) for r in rows]).mean(0) if by_question else torch.cat(rows).mean(0)

    return [F.cosine_similarity(mean(a), mean(b), dim=0).item() for a, b in _halves(names)]


def _uneven(pairs: Pairs) -> list[float]:
    """The cosine of every split of the questions in two, of whatever sizes."""
    names, found = list(dict.fromkeys(pairs.questions)), []
    for size in range(1, len(names)):
        for chosen in combinations(names, size):
            here = torch.tensor([q in chosen for q in pairs.questions])
            a, b = (pairs.differences[mask].double().mean(0) for mask in (here, ~here))
            found.append(F.cosine_similarity(a, b, dim=0).item())
    return found


def _guess(values: list[float], pairs: Pairs) -> str:
    """The mistake of which all values are, if we know it."""
    units = F.normalize(pairs.differences, dim=1)
    centred = pairs.differences - pairs.differences.mean(0)
    mistakes: dict[str, Callable[[], list[float]]] = {
        "you average over questions first: every pair counts once, so that a question with more pairs counts more": (
            lambda: _halvings(pairs, by_question=True)
        ),
        "you normalise the differences first: a half's vector is their plain mean": lambda: _halvings(pairs, units),
        "you subtract the mean of all differences first: the vectors are means of the differences themselves": (
            lambda: _halvings(pairs, centred)
        ),
        "your halves hold unequal numbers of questions: they may differ by one at most": lambda: _uneven(pairs),
        "you return 1 minus the cosine": lambda: [1 - v for v in _halvings(pairs)],
    }
    for explanation, wrong in mistakes.items():
        expected = wrong()
        if all(_among(value, expected) for value in values):
            return f"It looks as if {explanation}."
    if max(Counter(pairs.questions).values()) > 1:
        return (
            "It looks as if you split the pairs, so that one question's pairs lie in both halves: split the questions, "
            "and let each half keep all pairs of its own."
        )
    return "Split the questions in two, average each half's differences, and take the cosine of the two means."
