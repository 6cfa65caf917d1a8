"""Section 3, prompt leakage: the same answers, read under two system prompts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graders.expect import check, check_tensor, grader
from graders.section_2_hooks import check_hooks, hooks
from graders.section_3_states import Reading, accepted, load_family, read
from personalab.models import n_blocks

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
    for i, family in enumerate(("qwen2", "llama", "qwen3")):
        tiny, tok = load_family(family, n_blocks=4)
        _check(prompt_leakage, tiny, tok, 5 - i % 2, seed=i, what=f"{family}, {5 - i % 2} answers")
    if model is not None:
        _check(prompt_leakage, model, tokenizer, 2, seed=3, what="your model, 2 answers", values=False)


def _check(
    function: Callable[..., Any], model: Any, tok: Any, n: int, seed: int, what: str, values: bool = True
) -> None:
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
    if not values:  # bfloat16 may turn the order of two readings that are nearly alike
        return
    for block in range(n_blocks(model)):
        right = _aucs(readings[0], readings[1], vectors, block)
        if min(abs(float(found[block]) - r) for r in right) > _TOLERANCE:
            raise AssertionError(
                f"{what}: wrong AUC at block {block}.\n  expected: {right[0]:.3f}\n  found:    {found[block]:.3f}\n  "
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


def _aucs(pos: list[Reading], neg: list[Reading], vectors: Tensor, block: int) -> list[float]:
    """Under each right convention for the answer's tokens, and for the last block's norm."""

    def projections(side: list[Reading]) -> list[list[float]]:
        return [[float(v @ vectors[block].double()) for v in accepted(r.means(), block)] for r in side]

    columns = zip(zip(*projections(pos), strict=False), zip(*projections(neg), strict=False), strict=False)
    return [_auc(p, q) for p, q in columns]


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
