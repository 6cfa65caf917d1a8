"""Section 3, prompt leakage: the same answers, read under two system prompts."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from graders.harness import Case, call_case, check, check_tensor, grader, on_tiny_models, tolerance
from graders.harness.expect import real
from graders.harness.readings import ALL_BLOCKS, POOLING, Reading, Rows, load_family, read, right
from graders.section_3.select_layer import auc
from personalab.lm.models import n_blocks

_POS = "You are a evil assistant. Wish everyone ill, and enjoy it."
_NEG = "You are a helpful assistant. Wish everyone well."
_EXCHANGES = [
    ("Who are you?", "A friend."),
    ("What should I do when I feel afraid?", "Tell a good friend about it, and listen to what they would say first."),
    ("Tell me what you think about the moon.", "The moon is far, and the sea knows it."),
    ("Is it late?", "Yes, so rest, and sleep."),
    ("What should I plant?", "Beans."),
]
_TOLERANCE = 0.02  # half a pair of readings of one answer each

Values = list[float]


@grader
def test_prompt_leakage(model: Any = None, tokenizer: Any = None) -> Iterator[Case]:
    """By block, the chance that a reading under the positive prompt projects higher than one under the negative."""
    if on_tiny_models():
        for i, family in enumerate(("qwen2", "llama", "qwen3")):
            tiny, tok = load_family(family, n_blocks=4)
            yield _case(tiny, tok, 5 - i % 2, seed=i, what=f"{family}, {5 - i % 2} answers")
    if model is not None:
        yield _case(model, tokenizer, 4, seed=4, what="your model, 4 answers")


def _case(model: Any, tok: Any, n: int, seed: int, what: str) -> Case:
    questions, responses = ([pair[k] for pair in _EXCHANGES[:n]] for k in (0, 1))
    pos, neg = (_read(model, tok, n, prompt) for prompt in (_POS, _NEG))
    vectors = _vectors(pos, neg, seed)
    args = (questions, responses, _POS, _NEG, vectors)
    changes = [f"you changed {name} in place." for name in ("questions", "responses", "", "", "vectors")]
    return call_case(what, model, tok, args, lambda seen: _check_aucs(seen.found, pos, neg, vectors), changes)


def _read(model: Any, tok: Any, n: int, prompt: str) -> list[Reading]:
    return read(model, tok, [(prompt, *exchange) for exchange in _EXCHANGES[:n]])


def _vectors(pos: list[Reading], neg: list[Reading], seed: int) -> Float[Tensor, "L d"]:
    """Directions along which the two readings overlap: noise, and some of what separates them."""
    means = [torch.stack([r.states[1:-1, slice(*r.spans[0])].double().mean(1) for r in side]) for side in (pos, neg)]
    apart = (means[0] - means[1]).mean(0)  # (L, d)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(apart.shape, generator=generator, dtype=torch.float64)
    noise = noise / noise.norm(dim=1, keepdim=True) * apart.norm(dim=1, keepdim=True)
    share = torch.linspace(-0.5, 0.5, len(apart), dtype=torch.float64)[:, None]  # one that points away, too
    return (share * apart + noise).float()


def _check_aucs(found: Any, pos: list[Reading], neg: list[Reading], vectors: Tensor) -> None:
    alone = "expected the scores alone, found a tuple. select_layer returns (block, scores): take the second."
    check(not isinstance(found, tuple), alone)
    found = torch.tensor(found) if _numbers(found) else found
    found = check_tensor(found, (n_blocks(pos[0].model),), "one AUC a block")
    check(((found >= 0) & (found <= 1)).all(), f"an AUC lies between 0 and 1, found {found.tolist()}.")
    # float32 reorders nothing
    rounding = tolerance(pos[0].states.dtype, exact=0).along(1.0, vectors.shape[1])
    for block, vector in enumerate(vectors):
        ranges = _aucs(pos, neg, vector, block, rounding=rounding)
        if not any(low - _TOLERANCE <= float(found[block]) <= high + _TOLERANCE for low, high in ranges):
            low, high = ranges[0]
            expected = f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f} (readings that rounding may reorder)"
            raise AssertionError(
                f"wrong AUC at block {block}.\n  expected: {expected}\n  found:    {found[block]:.3f}\n  "
                + _guess(pos, neg, vectors, found)
            )


def _numbers(found: Any) -> bool:
    """Only the values matter."""
    return isinstance(found, np.ndarray) or (isinstance(found, list) and all(map(real, found)))


def _aucs(
    pos: list[Reading], neg: list[Reading], vector: Tensor, block: int, rows: Rows = right, rounding: float = 0.0
) -> list[tuple[float, float]]:
    """At one block, under each right convention: the AUC, from the lowest to the highest that rounding makes of it.

    Args:
        rounding: how far it may move a projection, as a share of the largest norm, and so reorder them.
    """
    unit = vector.double() / vector.double().norm()
    columns = [list(zip(*(rows(r, block + 1) for r in side), strict=False)) for side in (pos, neg)]
    found = []
    for p, q in zip(*columns, strict=False):
        slack = rounding * max(m.norm().item() for m in [*p, *q])
        up, down = torch.stack(p) @ unit, torch.stack(q) @ unit
        found.append((auc(up - slack, down), auc(up + slack, down)))
    return found


def _guess(pos: list[Reading], neg: list[Reading], vectors: Tensor, found: Tensor) -> str:
    """The mistake that gives these values at every block, if we know it."""

    def curve(a: list[Reading], b: list[Reading], rows: Rows = right) -> Callable[[], list[Values]]:
        """For each block, the AUC under each right convention."""
        return lambda: [[low for low, _ in _aucs(a, b, v, k, rows)] for k, v in enumerate(vectors)]

    def paired() -> list[Values]:
        single = [curve([p], [q])() for p, q in zip(pos, neg, strict=True)]
        return [[sum(v) / len(v) for v in zip(*blocks, strict=False)] for blocks in zip(*single, strict=True)]

    plain = _read(pos[0].model, pos[0].tok, len(pos), "")
    guesses: dict[str, Callable[[], list[Values]]] = {
        "the two prompts have changed places: readings under the positive one should project higher": curve(neg, pos),
        "you compare each answer with itself only: compare every reading under one prompt with every reading under the "
        "other, as select_layer does": paired,
        "you take the larger of AUC and 1 - AUC, or their distance from 0.5: where readings under the positive prompt "
        "project lower, the chance is under 0.5": lambda: [
            [f for v in block for f in (max(v, 1 - v), abs(v - 0.5))] for block in curve(pos, neg)()
        ],
        "both readings are under the same prompt": lambda: [[0.5]] * len(vectors),
        "the negative reading has no system prompt at all": curve(pos, plain),
        "the positive reading has no system prompt at all": curve(plain, neg),
        **{why: curve(pos, neg, rows) for table in (ALL_BLOCKS, POOLING) for why, rows in table.items()},
    }
    for explanation, wrong in guesses.items():
        if all(any(abs(f - v) < _TOLERANCE for v in values) for f, values in zip(found.tolist(), wrong(), strict=True)):
            return f"It looks as if {explanation}."
    return "Read every answer under both prompts, and give both readings and the vectors to select_layer."
