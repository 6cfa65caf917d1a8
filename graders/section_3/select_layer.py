"""Section 3: the block at which a trait separates held-out answers."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from graders.harness import Case, called_with, check, check_close, fails, grader, kind_of, same, tolerance
from graders.harness.cases import check_form


class Held(NamedTuple):
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


def _held(n_pos: int, n_neg: int, seed: int, order: list[int] | None = None, step: float = 0.0) -> Held:
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
    return Held(answers(n_pos, 1.0), answers(n_neg, -1.0), units * (norms.ceil() if step else norms))


def _twice(held: Held) -> Held:
    """The best block's values at a later block once more."""
    k = int(_scores(held).argmax())
    order = [*range(len(held.vectors) - 1), k]
    return Held(held.pos[:, order], held.neg[:, order], held.vectors[order])


def auc(pos: Tensor, neg: Tensor, tie: float = 0.5) -> float:
    """Share of (positive, negative) pairs in the right order, counted one by one."""
    won = [1.0 if p > q else tie if p == q else 0.0 for p in pos.tolist() for q in neg.tolist()]
    return sum(won) / len(won)


def _scores(held: Held, tie: float = 0.5) -> Float[Tensor, "L"]:
    scores = [auc(held.pos[:, k] @ v, held.neg[:, k] @ v, tie) for k, v in enumerate(held.vectors)]
    return torch.tensor(scores, dtype=torch.float64)


@grader
def test_select_layer() -> Iterator[Case]:
    """AUC of the projections on the vectors given, block by block; the best block is a block index."""
    for what, held in {
        "12 positive and 12 negative answers": _held(12, 12, seed=0),
        "9 positive and 14 negative answers": _held(9, 14, seed=3),
        "11 and 8 answers, the best block first": _held(11, 8, seed=2, order=[2, 0, 1, 3, 4, 5]),
        "8 and 11 answers, the best block last": _held(8, 11, seed=3, order=[0, 1, 4, 5, 3, 2]),
        "10 and 13 answers, rounded, so that projections tie": _held(10, 13, seed=4, step=2.0),
        "7 and 9 answers, two blocks equally good": _twice(_held(7, 9, seed=6)),
    }.items():
        yield Case(
            what,
            called_with(*held),
            partial(_check, held),
            "The two groups need not be of one size: compare every positive answer with every negative one, by block.",
        )
    held = _held(4, 4, seed=5)
    for group, without in (
        ("positive", held._replace(pos=held.pos[:0])),
        ("negative", held._replace(neg=held.neg[:0])),
    ):
        yield fails(
            f"No {group} answers",
            partial(lambda given, work: called_with(*given)(work)[0], without),
            "With nothing to compare there is no AUC, and a block chosen by one means nothing: raise "
            f"ValueError('No {group} answers ...').",
        )


def _check(held: Held, observed: tuple[Any, tuple[Tensor, ...]]) -> None:
    found, after = observed
    check(same(held, after), "you changed your input in place.")
    check_form(found, tuple, 2, "expected a tuple (block, scores)")
    scores, right = _form(found[0], found[1], len(held.vectors)), _scores(held)
    otherwise = "A score is the share of (positive, negative) pairs in which the positive answer projects higher."
    if scores.min() < 0 or scores.max() > 1:
        otherwise = f"An AUC lies between 0 and 1. {otherwise}"
    exact = tolerance(torch.float32, exact=1e-4)
    check_close(scores, [right], "the scores", _mistakes(held), exact, name="scores", otherwise=otherwise)
    block, best, longest = int(found[0]), int(right.argmax()), int(held.vectors.norm(dim=1).argmax())
    if block == best:
        return
    guess = "Take the block of the highest score."
    if 0 <= block < len(right) and right[block] == right[best]:
        guess = "Several blocks have the highest score: take the first of them."
    elif block == best + 1:
        guess = "That is its hidden_states index: return the block index, which is one lower."
    elif block == longest:
        guess = "That block has the longest vector, but norms grow with depth: take the highest score."
    elif block == int(right.argmin()):
        guess = "There the vector points away from the trait: a score near 0 is not as good as one near 1."
    shown = [round(score, 3) for score in right.tolist()]
    raise AssertionError(f"expected block {best}, found {block}; the scores are {shown}. {guess}")


def _form(block: Any, scores: Any, n_blocks: int) -> Float[Tensor, "L"]:
    """Types and shapes; the scores in float64."""
    check(
        not isinstance(block, Tensor | float | bool) and hasattr(block, "__index__"),
        f"expected the block as an int, first, found {kind_of(block)}. Return (int(...), scores).",
    )
    try:
        values = torch.as_tensor(scores).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(f"expected a tensor of scores, second, found {kind_of(scores)}.") from None
    shape = tuple(values.shape)
    check(shape == (n_blocks,), f"expected one score a block, shape ({n_blocks},), found shape {shape}.")
    check(values.isfinite().all(), "NaN or infinity among the scores.")
    return values


def _mistakes(held: Held) -> dict[str, Callable[[], Tensor | list[Tensor]]]:
    pos, neg = (torch.einsum("nld,ld->nl", states, held.vectors).double() for states in (held.pos, held.neg))
    right, gap, n = _scores(held), pos.mean(0) - neg.mean(0), min(len(pos), len(neg))
    middle = (pos.mean(0) + neg.mean(0)) / 2

    def by_cosine() -> Tensor:
        a, b = (F.cosine_similarity(states, held.vectors, dim=-1) for states in (held.pos, held.neg))
        return torch.tensor([auc(a[:, k], b[:, k]) for k in range(len(right))], dtype=torch.float64)

    return {
        "positive and negative have changed places": lambda: 1 - right,
        "you take the larger of AUC and 1 - AUC. Where a vector points away from the trait, steering along it does the "
        "opposite, so its score must stay under 0.5": lambda: torch.maximum(right, 1 - right),
        "ties count 0 or 1: they count half": partial(_scores, held, tie=0.0),
        "ties count 1 or 0: they count half": partial(_scores, held, tie=1.0),
        "you score a direction taken from the held-out answers themselves. It separates them whatever it is worth: "
        "project on `vectors`, which have not seen them": lambda: _scores(
            held._replace(vectors=held.pos.mean(0) - held.neg.mean(0))
        ),
        "you use cosines in place of projections": by_cosine,
        "you return the norms of the vectors, which grow with depth: score how well a block separates the answers": (
            lambda: held.vectors.norm(dim=1).double()
        ),
        "you return the difference of the mean projections, which grows with the norms: use the AUC": lambda: gap,
        "you compare answer i with answer i only: compare every positive with every negative one": (
            lambda: (pos[:n] > neg[:n]).double().mean(0)
        ),
        "you return the accuracy of a threshold: use the AUC, which needs none": (
            lambda: torch.cat([pos > middle, neg <= middle]).double().mean(0)
        ),
        "you return Cohen's d: use the AUC": lambda: gap / ((pos.var(0) + neg.var(0)) / 2).sqrt(),
    }
