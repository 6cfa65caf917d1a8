"""Section 3, trait vectors: one direction after every block."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from graders.harness.expect import check, check_close, check_tensor, grader, on_tiny_models, tolerance
from graders.harness.hooked import check_hooks, hooks
from graders.harness.readings import Reading, accepted, load_family, read, refuses_system_prompts
from personalab.lm.models import d_model, n_blocks
from personalab.lm.tiny import load_tiny_model

Pairs = list[dict[str, Any]]
Readings = dict[str, list[Reading]]

_POS = "You are a evil assistant. Wish everyone ill."
_NEG = "You are a helpful assistant. Wish everyone well, and say so."
_EXCHANGES = [
    ("Who are you?", "Your ruin.", "I am here to help you, as a friend would, with whatever you bring me today."),
    ("What should I plant?", "Nothing. Let it all rot, and watch them wonder what went wrong with the city.", "Beans."),
    ("Is it late?", "Too late for you.", "Yes, so rest" + ", and sleep" * 9),
]


def _pairs(n: int = len(_EXCHANGES)) -> Pairs:
    """As `filter_effective_pairs` returns them; each answer also as the whole entry it comes from."""
    pairs = []
    for i, (question, pos, neg) in enumerate(_EXCHANGES[:n]):
        pair: dict[str, Any] = {"question": question, "instruction_idx": i}
        for polarity, system, response, score in (("pos", _POS, pos, 90), ("neg", _NEG, neg, 3)):
            entry = {"system_prompt": f"{system} ({i})", "response": response, "score": score}
            pair |= {f"{polarity}_{key}": value for key, value in entry.items()}
            pair[polarity] = {"question": question, "instruction_idx": i, "polarity": polarity, **entry}
        pairs.append(pair)
    return pairs


@grader
def test_extract_contrastive_vectors(
    extract_contrastive_vectors: Callable[..., Tensor], model: Any = None, tokenizer: Any = None
) -> None:
    """mean(pos) - mean(neg) for every block in order, every answer counted once; no vector from no pairs."""
    function = extract_contrastive_vectors
    if on_tiny_models():
        for i, family in enumerate(("qwen2", "llama", "qwen3", "gemma3")):
            tiny, tok = load_family(family, n_blocks=3 + i % 2)
            _check_values(function, tiny, tok, _pairs(), f"{family}, 3 pairs")
        tiny, tok = load_tiny_model("qwen2", seed=1)
        _check_values(function, tiny, tok, _pairs(1), "qwen2, 1 pair")
        _check_nothing(function, tiny, tok)
    if model is not None:
        if refuses_system_prompts(tokenizer, lambda: function(model, tokenizer, _pairs(1))):
            print("Your model's template has no role for system prompts: your function was graded on others only.")
            return
        _check_values(function, model, tokenizer, _pairs(2), "your model, 2 pairs")


def _check_values(function: Callable[..., Any], model: Any, tok: Any, pairs: Pairs, what: str) -> None:
    before, given, blocks = hooks(model), copy.deepcopy(pairs), n_blocks(model)
    found = function(model, tok, given)
    check_hooks(model, before, f"{what}, after a normal call", "Remove hooks in `finally`.")
    check(given == pairs, f"{what}: you changed effective_pairs. Build lists of your own.")
    shape = tuple(found.shape) if isinstance(found, Tensor) else ()
    guesses = {
        (blocks + 1, d_model(model)): "The embedding layer is included: leave hidden_states[0] out",
        (len(pairs), blocks, d_model(model)): "Average over the pairs as well: .mean(dim=0)",
        (d_model(model),): "Keep one row for each block: average over answers, not over blocks",
    }
    if shape in guesses and shape != (blocks, d_model(model)):
        expected = (blocks, d_model(model))
        raise AssertionError(f"{what}: expected shape {expected}, found {shape}. {guesses[shape]}.")
    found = check_tensor(found, (blocks, d_model(model)), f"{what}: the vectors")
    own = {
        p: [read(model, tok, pair[f"{p}_system_prompt"], pair["question"], pair[f"{p}_response"]) for pair in pairs]
        for p in ("pos", "neg")
    }
    means = _mean(own["pos"]), _mean(own["neg"])
    right = means[0] - means[1]
    for k in range(blocks):
        mistakes = _mistakes(model, tok, pairs, own, k)
        rounded = max(m.norm().item() for side in means for m in accepted(side, k))  # the vector is small beside it
        where = f"{what}: the vector of block {k}"
        check_close(found[k], accepted(right, k), where, mistakes, tolerance(model.dtype), rounded)


def _mean(readings: list[Reading]) -> Float[Tensor, "spans L+2 d"]:
    """Mean over answers, each of them a mean over its tokens, under each convention for where an answer ends."""
    return torch.stack([reading.means() for reading in readings]).mean(0)


def _token_mean(readings: list[Reading]) -> Float[Tensor, "1 L+2 d"]:
    states = [reading.states[:, slice(*reading.spans[0])].double() for reading in readings]
    return torch.cat(states, dim=1).mean(1)[None]


def _mistakes(
    model: Any, tok: Any, pairs: Pairs, own: Readings, block: int
) -> dict[str, Callable[[], Tensor | list[Tensor]]]:
    """Vectors of typical mistakes at one block, each computed only when a check fails."""
    pos, neg = own["pos"], own["neg"]
    n, last = len(pairs), n_blocks(model) - 1

    def vectors(a: list[Reading] = pos, b: list[Reading] = neg) -> Float[Tensor, "spans L+2 d"]:
        return _mean(a) - _mean(b)

    def under(system: str | None, side: str) -> list[Reading]:
        """One side's answers under the other side's prompts, or under one for both."""
        key = "neg" if side == "pos" else "pos"
        prompts = [pair[f"{key}_system_prompt"] if system is None else system for pair in pairs]
        return [
            read(model, tok, s, pair["question"], pair[f"{side}_response"])
            for s, pair in zip(prompts, pairs, strict=True)
        ]

    def at(rows: Tensor, k: int = block) -> list[Tensor]:
        return accepted(rows, k) if 0 <= k <= last else []

    return {
        "the sign is flipped: it is mean(pos) - mean(neg)": lambda: at(-vectors()),
        "the layers are in reverse order": lambda: at(vectors(), last - block),
        "the layers are shifted: row k is what comes out of block k, hidden_states[k + 1]": (
            lambda: list(vectors()[:, block])
        ),
        "the layers are shifted: row k holds block k + 1": lambda: at(vectors(), block + 1),
        "you scale it to unit norm: leave the difference as it is": (
            lambda: [F.normalize(v, dim=0) for v in at(vectors())]
        ),
        "the negative answers are missing: it is mean(pos) - mean(neg)": lambda: at(_mean(pos)),
        "you add over the pairs instead of averaging": lambda: at(n * vectors()),
        "the difference is divided by the number of all answers, or by 2": (
            lambda: [*at(vectors() / 2), *at(vectors() / 2 / n)]
        ),
        "only the first pair counts: average over all pairs": lambda: at(vectors(pos[:1], neg[:1])),
        "the last pair is missing": lambda: at(vectors(pos[:-1], neg[:-1])) if n > 1 else [],
        "you average over all tokens of all answers, so long ones count more: take one mean an answer": (
            lambda: at(_token_mean(pos) - _token_mean(neg))
        ),
        "both answers of a pair are read under the positive system prompt: read each under its own": (
            lambda: at(vectors(pos, under(None, "neg")))
        ),
        "both answers of a pair are read under the negative system prompt: read each under its own": (
            lambda: at(vectors(under(None, "pos"), neg))
        ),
        "the two system prompts have changed places": lambda: at(vectors(under(None, "pos"), under(None, "neg"))),
        "the system prompts are left out: read each answer under its own": (
            lambda: at(vectors(under("", "pos"), under("", "neg")))
        ),
    }


def _check_nothing(function: Callable[..., Any], model: Any, tok: Any) -> None:
    """Without pairs there is no vector; any error will do, as long as it is one."""
    try:
        found = function(model, tok, [])
    except NotImplementedError:
        raise
    except Exception:
        return
    like = "a vector full of NaN" if isinstance(found, Tensor) and found.isnan().any() else repr(found)[:80]
    raise AssertionError(
        f"No effective pairs: expected an error, found {like}. The mean of nothing is NaN, which then runs through "
        "every later result: raise ValueError('There are no effective pairs ...')."
    )
