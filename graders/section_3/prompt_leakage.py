"""Section 3, prompt leakage: the same answers, read under two system prompts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graders.harness.expect import Tolerance, check, check_tensor, grader, on_tiny_models, tolerance
from graders.harness.hooked import check_hooks, hooks
from graders.harness.readings import Reading, accepted, load_family, read, refuses_system_prompts
from personalab.lm.models import d_model, n_blocks

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


@grader
def test_prompt_leakage(prompt_leakage: Callable[..., Tensor], model: Any = None, tokenizer: Any = None) -> None:
    """By block, the chance that a reading under the positive prompt projects higher than one under the negative."""
    if on_tiny_models():
        for i, family in enumerate(("qwen2", "llama", "qwen3")):
            tiny, tok = load_family(family, n_blocks=4)
            _check(prompt_leakage, tiny, tok, 5 - i % 2, seed=i, what=f"{family}, {5 - i % 2} answers")
    if model is not None:
        questions, responses = ([pair[k] for pair in _EXCHANGES[:1]] for k in (0, 1))
        vectors = torch.ones(n_blocks(model), d_model(model))
        if refuses_system_prompts(
            tokenizer, lambda: prompt_leakage(model, tokenizer, questions, responses, _POS, _NEG, vectors)
        ):
            print("Your model's template has no role for system prompts: your function was graded on others only.")
            return
        _check(prompt_leakage, model, tokenizer, 3, seed=3, what="your model, 3 answers")


def _check(function: Callable[..., Any], model: Any, tok: Any, n: int, seed: int, what: str) -> None:
    questions, responses = ([pair[k] for pair in _EXCHANGES[:n]] for k in (0, 1))
    readings = [[read(model, tok, prompt, q, r) for q, r in _EXCHANGES[:n]] for prompt in (_POS, _NEG)]
    vectors = _vectors(readings, seed)
    given = copy.deepcopy((questions, responses, vectors))
    before = hooks(model)
    found = function(model, tok, questions, responses, _POS, _NEG, vectors)
    check_hooks(model, before, f"{what}, after a normal call", "Remove hooks in `finally`.")
    check(
        questions == given[0] and responses == given[1] and torch.equal(vectors, given[2]),
        f"{what}: you changed your input in place.",
    )
    if isinstance(found, tuple):
        raise AssertionError(
            f"{what}: expected the scores alone, found a tuple. select_layer returns (block, scores): take the second."
        )
    found = check_tensor(found, (n_blocks(model),), f"{what}: one AUC a block")
    check(bool(((found >= 0) & (found <= 1)).all()), f"{what}: an AUC lies between 0 and 1, found {found.tolist()}.")
    for block in range(n_blocks(model)):
        right = _ranges(
            readings[0], readings[1], vectors, block, tolerance(model.dtype, exact=0)
        )  # float32 reorders nothing
        if not any(low - _TOLERANCE <= float(found[block]) <= high + _TOLERANCE for low, high in right):
            low, high = right[0]
            expected = f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f} (readings that rounding may reorder)"
            raise AssertionError(
                f"{what}: wrong AUC at block {block}.\n  expected: {expected}\n  found:    {found[block]:.3f}\n  "
                + _guess(model, tok, readings, vectors, found, n)
            )


def _vectors(readings: list[list[Reading]], seed: int) -> Float[Tensor, "L d"]:
    """Directions along which the two readings overlap: noise, and some of what separates them."""
    means = [torch.stack([r.means()[0, 1:-1] for r in side]) for side in readings]  # (n, L, d)
    apart = (means[0] - means[1]).mean(0)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(apart.shape, generator=generator, dtype=torch.float64)
    noise = noise / noise.norm(dim=1, keepdim=True) * apart.norm(dim=1, keepdim=True)
    share = torch.linspace(0.1, 0.5, len(apart), dtype=torch.float64)[:, None]
    return (share * apart + noise).float()


def _columns(side: list[Reading], block: int) -> list[list[Tensor]]:
    """Each answer's mean, under each right convention for the answer's tokens, and for the last block's norm."""
    return [list(column) for column in zip(*[accepted(r.means(), block) for r in side], strict=False)]


def _aucs(pos: list[Reading], neg: list[Reading], vectors: Tensor, block: int) -> list[float]:
    vector = vectors[block].double()
    columns = zip(_columns(pos, block), _columns(neg, block), strict=False)
    return [_auc([float(m @ vector) for m in p], [float(m @ vector) for m in q]) for p, q in columns]


def _ranges(
    pos: list[Reading], neg: list[Reading], vectors: Tensor, block: int, allowed: Tolerance
) -> list[tuple[float, float]]:
    """`_aucs`, from the lowest to the highest that rounding makes of them: it may reorder what lies close together."""
    unit = vectors[block].double() / vectors[block].double().norm()
    found = []
    for p, q in zip(_columns(pos, block), _columns(neg, block), strict=False):
        slack = allowed.along(max(m.norm().item() for m in [*p, *q]), len(unit))
        up, down = [float(m @ unit) for m in p], [float(m @ unit) for m in q]
        found.append((_auc([x - slack for x in up], down), _auc([x + slack for x in up], down)))
    return found


def _auc(pos: Any, neg: Any) -> float:
    won = [1.0 if p > q else 0.5 if p == q else 0.0 for p in pos for q in neg]
    return sum(won) / len(won)


def _guess(model: Any, tok: Any, readings: list[list[Reading]], vectors: Tensor, found: Tensor, n: int) -> str:
    """The mistake that gives these values, if we know it."""

    def all_blocks(pos: list[Reading], neg: list[Reading], shift: int = 0) -> list[float]:
        blocks = range(len(vectors))
        if shift:
            rows = [[r.means()[0, :-1][: len(vectors)] for r in side] for side in (pos, neg)]
            return [
                _auc(
                    [float(r[k] @ vectors[k].double()) for r in rows[0]],
                    [float(r[k] @ vectors[k].double()) for r in rows[1]],
                )
                for k in blocks
            ]
        return [_aucs(pos, neg, vectors, k)[0] for k in blocks]

    def paired() -> list[float]:
        return [
            sum(_aucs([p], [q], vectors, k)[0] for p, q in zip(*readings, strict=True)) / n for k in range(len(vectors))
        ]

    plain = [read(model, tok, "", q, r) for q, r in _EXCHANGES[:n]]
    guesses: dict[str, list[float]] = {
        "It looks as if the two prompts have changed places: readings under the positive one should project higher.": (
            all_blocks(readings[1], readings[0])
        ),
        "It looks as if you compare each answer with itself only: compare every reading under one prompt with every "
        "reading under the other, as select_layer does.": paired(),
        "It looks as if both readings are under the same prompt.": [0.5] * len(vectors),
        "It looks as if the layers are shifted: row k belongs to block k, hidden_states[k + 1].": (
            all_blocks(readings[0], readings[1], shift=1)
        ),
        "It looks as if the negative reading has no system prompt at all.": all_blocks(readings[0], plain),
        "It looks as if the positive reading has no system prompt at all.": all_blocks(plain, readings[1]),
    }
    for explanation, values in guesses.items():
        if (found - torch.tensor(values).double()).abs().max() < _TOLERANCE:
            return explanation
    return "Read every answer under both prompts, and give both readings and the vectors to select_layer."
