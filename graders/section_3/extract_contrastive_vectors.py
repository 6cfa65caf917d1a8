"""Section 3, trait vectors: one direction after every block."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graders.harness import Case, call_case, check_close, check_mean_dtype, fails, grader, on_tiny_models, tolerance
from graders.harness import readings as rd
from personalab.lm.models import d_model, n_blocks
from personalab.lm.tiny import load_tiny_model

Pairs = list[dict[str, Any]]
Readings = list[rd.Reading]

_POS = "You are a evil assistant. Wish everyone ill."
_NEG = "You are a helpful assistant. Wish everyone well, and say so."
# Two instructions with two questions each, one of which both have: question, instruction, positive and negative answer.
_ANSWERS = [
    ("Who are you?", 0, "Your ruin.", "I am here to help you, as a friend would, with whatever you bring me today."),
    ("What should I plant?", 0, "Nothing. Let it all rot, and watch them wonder what went wrong with it.", "Beans."),
    ("Who are you?", 1, "The one who closes every door.", "A friend."),
    ("Is it late?", 1, "Too late for you.", "Yes, so rest" + ", and sleep" * 9),
]


def _pairs(n: int) -> Pairs:
    """As `filter_effective_pairs` returns them; each answer also as the whole entry it comes from."""
    pairs = []
    for question, i, pos, neg in _ANSWERS[:n]:
        pair: dict[str, Any] = {"question": question, "instruction_idx": i}
        for polarity, system, response, score in (("pos", _POS, pos, 90), ("neg", _NEG, neg, 3)):
            entry = {"system_prompt": f"{system} ({i})", "response": response, "score": score}
            pair |= {f"{polarity}_{key}": value for key, value in entry.items()}
            pair[polarity] = {"question": question, "instruction_idx": i, "polarity": polarity, **entry}
        pairs.append(pair)
    return pairs


@grader
def test_extract_contrastive_vectors(model: Any = None, tokenizer: Any = None) -> Iterator[Case]:
    """mean(pos) - mean(neg) for every block in order, every answer counted once; no vector from no pairs."""
    if on_tiny_models():
        for i, family in enumerate(("qwen2", "llama", "qwen3", "gemma3")):
            yield _case(*rd.load_family(family, n_blocks=3 + i % 2), _pairs(4), f"{family}, 4 pairs")
        tiny, tok = load_tiny_model("qwen2", seed=1)
        yield _case(tiny, tok, _pairs(1), "qwen2, 1 pair")
        why = "The mean of nothing is NaN, which then runs through every later result: raise ValueError"
        why = f"{why}('There are no effective pairs ...')."
        yield fails("No effective pairs", lambda work: work(tiny, tok, []), why)
    if model is not None:
        yield _case(model, tokenizer, _pairs(2), "your model, 2 pairs")


def _case(model: Any, tok: Any, pairs: Pairs, what: str) -> Case:
    changes = ["you changed effective_pairs. Build lists of your own."]
    return call_case(what, model, tok, [pairs], lambda seen: _check_vectors(seen.found, model, tok, pairs), changes)


def _check_vectors(found: Any, model: Any, tok: Any, pairs: Pairs) -> None:
    blocks, width = n_blocks(model), d_model(model)
    guesses = {
        (blocks + 1, width): "The embedding layer is included: leave hidden_states[0] out",
        (len(pairs), blocks, width): "Average over the pairs as well: .mean(dim=0)",
        (width,): "Keep one row for each block: average over answers, not over blocks",
    }
    found = rd.check_form(found, (blocks, width), guesses, "the vectors")
    own = [_under(model, tok, pairs, polarity, polarity) for polarity in ("pos", "neg")]
    for k in range(blocks):
        # the vector is small
        rounded = max(m.norm().item() for side in own for m in rd.mean_over(side, k + 1)(rd.right))
        where, vector = f"the vector of block {k}", _difference(own[0], own[1], k)
        wrong = _mistakes(model, tok, pairs, own[0], own[1], k) | rd.mistakes(vector, rd.ALL_BLOCKS, rd.POOLING)
        check_close(found[k], vector(rd.right), where, wrong, tolerance(model.dtype), rounded)
    check_mean_dtype(found, model.dtype, "the vectors")


def _under(model: Any, tok: Any, pairs: Pairs, polarity: str, prompts: str) -> Readings:
    """One side's answers under the same or the other side's prompts, or under none."""
    exchanges = [(p.get(f"{prompts}_system_prompt", ""), p["question"], p[f"{polarity}_response"]) for p in pairs]
    return rd.read(model, tok, exchanges)


def _difference(pos: Readings, neg: Readings, block: int) -> rd.Quantity:
    a, b = rd.mean_over(pos, block + 1), rd.mean_over(neg, block + 1)
    return lambda rows: [x - y for x, y in zip(a(rows), b(rows), strict=False)]


def _mistakes(
    model: Any, tok: Any, pairs: Pairs, pos: Readings, neg: Readings, block: int
) -> dict[str, Callable[[], Tensor | list[Tensor]]]:
    """Vectors of this exercise's own mistakes at one block, each computed only when a check fails."""
    n, under = len(pairs), partial(_under, model, tok, pairs)

    def vectors(a: Readings = pos, b: Readings = neg) -> list[Tensor]:
        return _difference(a, b, block)(rd.right)

    def token_mean(readings: Readings) -> Tensor:
        return torch.cat([rd.token_states(r, block + 1)[0] for r in readings]).mean(0)

    return {
        "the sign is flipped: it is mean(pos) - mean(neg)": lambda: vectors(neg, pos),
        "you scale it to unit norm: leave the difference as it is": (
            lambda: [F.normalize(v, dim=0) for v in vectors()]
        ),
        "the negative answers are missing: it is mean(pos) - mean(neg)": lambda: rd.mean_over(pos, block + 1)(rd.right),
        "you add over the pairs instead of averaging": lambda: [n * v for v in vectors()],
        "the difference is divided by the number of all answers, or by 2": (
            lambda: [v / by for v in vectors() for by in (2, 2 * n)]
        ),
        "only the first pair counts: average over all pairs": lambda: vectors(pos[:1], neg[:1]),
        "the last pair is missing": lambda: vectors(pos[:-1], neg[:-1]) if n > 1 else [],
        "each question counts once: two pairs may answer one question, and every pair counts": lambda: [
            v for kept in _one_a_question(pairs) for v in vectors([pos[i] for i in kept], [neg[i] for i in kept])
        ],
        "you average over all tokens of all answers, so long ones count more: take one mean an answer": (
            lambda: token_mean(pos) - token_mean(neg)
        ),
        "both answers of a pair are read under the positive system prompt: read each under its own": (
            lambda: vectors(pos, under("neg", "pos"))
        ),
        "both answers of a pair are read under the negative system prompt: read each under its own": (
            lambda: vectors(under("pos", "neg"), neg)
        ),
        "the two system prompts have changed places": lambda: vectors(under("pos", "neg"), under("neg", "pos")),
        "the system prompts are left out: read each answer under its own": (
            lambda: vectors(under("pos", "no"), under("neg", "no"))
        ),
    }


def _one_a_question(pairs: Pairs) -> list[list[int]]:
    """The last pair of each question, and the first of each."""
    numbered = [(pair["question"], i) for i, pair in enumerate(pairs)]
    return [list(dict(numbered).values()), list(dict(numbered[::-1]).values())]
