"""Section 3, the block at which a trait separates held-out answers."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from graders.harness.expect import check, grader


class Case(NamedTuple):
    """Held-out answers re-read under one neutral prompt, and vectors from elsewhere."""

    pos: Float[Tensor, "n_pos L d"]
    neg: Float[Tensor, "n_neg L d"]
    vectors: Float[Tensor, "L d"]


# By block: how far apart the two groups lie, in standard deviations; the norm of the vector; how large the activations
# are. The best block is neither the longest vector, nor where projections differ most, nor the clearest reversed one.
_APART = (0.4, 1.0, 2.2, -4.0, 0.6, 1.0)
_NORMS = (1.0, 0.7, 2.0, 3.0, 6.0, 40.0)
_SIZES = (1.0, 1.5, 2.0, 4.0, 8.0, 30.0)
_WIDTH = 24


def _case(n_pos: int, n_neg: int, seed: int, order: list[int] | None = None, step: float = 0.0) -> Case:
    """Gaussian answers whose separation along each block's vector is known; rounded to `step`, so that some tie."""
    generator = torch.Generator().manual_seed(seed)
    order = order or list(range(len(_APART)))
    units = F.normalize(torch.randn(len(order), _WIDTH, generator=generator), dim=1)
    if step:  # along one axis each, so that rounded activations have rounded projections
        units = torch.eye(_WIDTH)[torch.randperm(_WIDTH, generator=generator)[: len(order)]]

    def answers(n: int, sign: float) -> Tensor:
        noise = torch.randn(n, len(order), _WIDTH, generator=generator)
        # Every answer has a length of its own, so that a cosine ranks them otherwise than a projection.
        apart = torch.tensor([_APART[k] for k in order])[:, None] * units * sign / 2
        noise += apart + 1.5 * units
        scale = torch.tensor([_SIZES[k] for k in order])[:, None] * (
            torch.ones(n, 1, 1) if step else torch.exp(0.3 * torch.randn(n, 1, 1, generator=generator))
        )
        states = noise * scale
        return (states / step).round() * step if step else states

    norms = torch.tensor([_NORMS[k] for k in order])[:, None]
    return Case(answers(n_pos, 1.0), answers(n_neg, -1.0), units * (norms.ceil() if step else norms))


def _auc(pos: Tensor, neg: Tensor, tie: float = 0.5) -> float:
    """Share of (positive, negative) pairs in the right order, counted one by one."""
    won = [1.0 if p > q else tie if p == q else 0.0 for p in pos.tolist() for q in neg.tolist()]
    return sum(won) / len(won)


def _scores(case: Case, tie: float = 0.5) -> list[float]:
    return [_auc(case.pos[:, k] @ v, case.neg[:, k] @ v, tie) for k, v in enumerate(case.vectors)]


@grader
def test_select_layer(select_layer: Callable[..., tuple[int, Tensor]]) -> None:
    """AUC of the projections on the vectors given, block by block; the best block is a block index."""
    best_last = [0, 1, 4, 5, 3, 2]
    cases = {
        "12 positive and 12 negative answers": _case(12, 12, seed=0),
        "9 positive and 14 negative answers": _case(9, 14, seed=3),
        "11 and 8 answers, the best block first": _case(11, 8, seed=2, order=[2, 0, 1, 3, 4, 5]),
        "8 and 11 answers, the best block last": _case(8, 11, seed=3, order=best_last),
        "10 and 13 answers, rounded, so that projections tie": _case(10, 13, seed=4, step=2.0),
    }
    for what, case in cases.items():
        _check_case(select_layer, case, what)
    _check_empty(select_layer, _case(4, 4, seed=5))


def _check_case(function: Callable[..., Any], case: Case, what: str) -> None:
    given = Case(*[t.clone() for t in case])
    try:
        found = function(*given)
    except NotImplementedError:
        raise
    except (RuntimeError, IndexError, ValueError) as error:
        raise AssertionError(
            f"{what}: expected (block, scores), found {type(error).__name__}: {error}\n  The two groups need not be of "
            "one size: compare every positive answer with every negative one, by block."
        ) from error
    check(all(map(torch.equal, given, case)), f"{what}: you changed your input in place.")
    check(
        isinstance(found, tuple) and len(found) == 2,
        f"{what}: expected a tuple (block, scores), found {type(found).__name__}.",
    )
    scores = _form(found[0], found[1], len(case.vectors), what)
    right = _scores(case)
    if not torch.allclose(scores, torch.tensor(right).double(), atol=1e-4):
        raise AssertionError(
            f"{what}: wrong scores.\n  expected: {_rounded(right)}\n  found:    {_rounded(scores.tolist())}\n  "
            + _guess(scores, case)
        )
    block, best = operator.index(found[0]), max(range(len(right)), key=right.__getitem__)
    if 0 <= block < len(right) and right[block] > right[best] - 1e-6:
        return
    guess = "Take the block of the highest score."
    if block == best + 1:
        guess = "That is its hidden_states index: return the block index, which is one lower."
    elif block == int(case.vectors.norm(dim=1).argmax()):
        guess = "That block has the longest vector, but norms grow with depth: take the highest score."
    elif block == min(range(len(right)), key=right.__getitem__):
        guess = "There the vector points away from the trait: a score near 0 is not as good as one near 1."
    raise AssertionError(f"{what}: expected block {best}, found {block}; the scores are {_rounded(right)}. {guess}")


def _check_empty(function: Callable[..., Any], case: Case) -> None:
    """Without one of the groups there is no score; any error will do, as long as it is one."""
    for group, given in {
        "positive": case._replace(pos=case.pos[:0]),
        "negative": case._replace(neg=case.neg[:0]),
    }.items():
        try:
            found = function(*given)
        except NotImplementedError:
            raise
        except Exception:
            continue
        raise AssertionError(
            f"No {group} answers: expected an error, found {found!r:.200}. With nothing to compare there is no AUC, "
            f"and a block chosen by one means nothing: raise ValueError('No {group} answers ...')."
        )


def _form(block: Any, scores: Any, n_blocks: int, what: str) -> Tensor:
    """Types and shapes; the scores in float64."""
    check(
        not isinstance(block, Tensor | float | bool) and hasattr(block, "__index__"),
        f"{what}: expected the block as an int, first, found {type(block).__name__}. Return (int(...), scores).",
    )
    try:
        values = torch.as_tensor(scores).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(f"{what}: expected a tensor of scores, second, found {type(scores).__name__}.") from None
    check(
        tuple(values.shape) == (n_blocks,),
        f"{what}: expected one score a block, shape ({n_blocks},), found shape {tuple(values.shape)}.",
    )
    check(values.isfinite().all(), f"{what}: NaN or infinity among the scores.")
    return values


def _rounded(values: list[float]) -> list[float]:
    return [round(v, 3) for v in values]


def _guess(scores: Tensor, case: Case) -> str:
    """The mistake that gives these scores, if we know it."""
    pos = torch.einsum("nld,ld->nl", case.pos, case.vectors)
    neg = torch.einsum("nld,ld->nl", case.neg, case.vectors)
    right = _scores(case)
    own = Case(case.pos, case.neg, case.pos.mean(0) - case.neg.mean(0))
    cosines = (F.cosine_similarity(case.pos, case.vectors, dim=-1), F.cosine_similarity(case.neg, case.vectors, dim=-1))
    middle = (pos.mean(0) + neg.mean(0)) / 2
    n = min(len(pos), len(neg))
    guesses = {
        "It looks as if positive and negative have changed places.": [1 - r for r in right],
        "It looks as if you take the larger of AUC and 1 - AUC. Where a vector points away from the trait, steering "
        "along it does the opposite, so its score must stay under 0.5.": [max(r, 1 - r) for r in right],
        "It looks as if ties count 0 or 1: they count half.": _scores(case, tie=0.0),
        "It looks as if ties count 1 or 0: they count half.": _scores(case, tie=1.0),
        "It looks as if you score a direction taken from the held-out answers themselves. It separates them whatever "
        "it is worth: project on `vectors`, which have not seen them.": _scores(own),
        "It looks as if you use cosines in place of projections.": [
            _auc(cosines[0][:, k], cosines[1][:, k]) for k in range(len(right))
        ],
        "These are norms of the vectors, which grow with depth: score how well a block separates the answers.": (
            case.vectors.norm(dim=1).tolist()
        ),
        "It is the difference of the mean projections, which grows with the norms: use the AUC.": (
            pos.mean(0) - neg.mean(0)
        ).tolist(),
        "It looks as if you compare answer i with answer i only: compare every positive with every negative one.": (
            (pos[:n] > neg[:n]).double().mean(0).tolist()
        ),
        "It is the accuracy of a threshold: use the AUC, which needs none.": (
            torch.cat([pos > middle, neg <= middle]).double().mean(0).tolist()
        ),
        "It is Cohen's d: use the AUC.": (
            (pos.mean(0) - neg.mean(0)) / ((pos.var(0) + neg.var(0)) / 2).sqrt()
        ).tolist(),
    }
    for explanation, values in guesses.items():
        if torch.allclose(scores, torch.tensor(values).double(), atol=1e-3, rtol=1e-3):
            return explanation
    if scores.min() < 0 or scores.max() > 1:
        return "An AUC lies between 0 and 1: it is the share of pairs in which the positive answer projects higher."
    return "A block's score is the share of (positive, negative) pairs in which the positive answer projects higher."
