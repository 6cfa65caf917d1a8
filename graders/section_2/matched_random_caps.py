"""Section 2: a cap's control, caps along random directions that remove as much."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from graders.harness import oracles
from graders.harness.cases import Case, attempt, check_form, grader, kind_of
from graders.harness.expect import check, check_tensor, on_tiny_models, tolerance
from graders.harness.hook_cases import left_case
from graders.harness.hooked import HINT, Left, changed, check_left, failing, hooks, left
from graders.harness.oracles import Messages
from graders.harness.probes import bystander, returning_tuples
from graders.section_2.turns import CONVERSATIONS, MANY
from personalab.lm.interventions import Cap
from personalab.lm.models import d_model, decoder_blocks
from personalab.lm.tiny import load_tiny_model

_SHARE = 0.01  # how far what is removed may lie from what the given cap removes, as the exercise says
_CURE = "Remove every hook in `finally`, or use `with`."
_ANGLE = 1e-3  # cosines and norms: directions are float32, whatever the model's dtype
_TALKS = [CONVERSATIONS["one turn"], CONVERSATIONS["three turns and a system message"], MANY[:5], MANY]
_SHORT = [CONVERSATIONS["one turn"], MANY[:4]]

Entry = tuple[int, Tensor, float]  # block, vector, threshold


@grader
def test_matched_random_caps(model: Any = None, tokenizer: Any = None) -> Iterator[Case]:
    """Random directions with the caps' own angles, orthogonal to them, and as much removed by each, all in force."""
    if on_tiny_models():
        for i, (family, blocks) in enumerate(_PLACES.items()):
            tiny, tok = load_tiny_model(family)
            yield _case(f"{family}, caps at blocks {blocks}", _Given(tiny, tok, _caps(tiny, tok, blocks, i), _TALKS))
        tiny, tok = load_tiny_model("qwen2")
        some = _caps(tiny, tok, [0, 1, 2], 7)
        idle = [some[0], (1, some[1][1], 1000.0), some[2]]
        yield _case("a cap that removes nothing, between two that do", _Given(tiny, tok, idle, _TALKS))
        yield _random("the same caps twice", _Given(tiny, tok, some, _SHORT))
        around = partial(returning_tuples, tiny, 1)
        yield _case("blocks that return tuples", _Given(tiny, tok, some, _SHORT, around))
        yield _failing(_Given(tiny, tok, some, _SHORT))
        half = load_tiny_model("llama", dtype=torch.bfloat16)
        yield _case("bfloat16 model, float32 vectors", _Given(*half, _caps(*half, [1, 2], 8), _TALKS))
    if model is not None:
        yield _case("your model", _Given(model, tokenizer, _caps(model, tokenizer, [1, 2], 9), _SHORT))


_PLACES: Mapping[str, list[int]] = {
    "llama": [2, 0],  # not in order
    "qwen2": [0, 1, 2],
    "qwen3": [1, 1, 2],  # two at one block
    "gemma2": [2],
    "gemma3": [0, 2, 1, 2],
}


@dataclass(frozen=True)
class _Given:
    """What the work is given.

    Attributes:
        around: makes what stands around its call.
    """

    model: Any
    tok: Any
    caps: list[Entry]
    talks: list[Messages]
    around: Callable[[], Any] = nullcontext


@dataclass(frozen=True)
class _Seen:
    """What the work gave and did.

    Attributes:
        found: a list of entries, or whatever else it was.
        kept: whether the caps, the list of them, and the conversations are as they were.
    """

    found: Any
    kept: tuple[bool, bool, bool]
    left: Left


def _observe(given: _Given, work: Any, seed: int = 5, elsewhere: int = 0) -> _Seen:
    """One call. `elsewhere` seeds PyTorch's own random numbers, which have no part in it."""
    caps = [Cap(block, vector.clone(), threshold) for block, vector, threshold in given.caps]
    mine, talks = list(caps), copy.deepcopy(given.talks)
    before = hooks(given.model)
    with torch.random.fork_rng(), given.around(), bystander(decoder_blocks(given.model)[given.caps[0][0]]):
        torch.manual_seed(elsewhere)
        before = hooks(given.model)
        found = work(given.model, given.tok, mine, talks, torch.Generator().manual_seed(seed))
        remains = left(given.model, before)
    same = all(torch.equal(c.vector, v) and c.threshold == t for c, (_, v, t) in zip(caps, given.caps, strict=True))
    listed = len(mine) == len(caps) and all(a is b for a, b in zip(mine, caps, strict=True))
    return _Seen(_entries(found), (same, listed, talks == given.talks), remains)


def _entries(found: Any) -> Any:
    """Caps as data; what is none as it is."""
    if not isinstance(found, list) or not all(hasattr(c, a) for c in found for a in ("block", "vector", "threshold")):
        return found
    return [(c.block, c.vector, c.threshold) for c in found]


def _case(what: str, given: _Given) -> Case:
    return Case(what, partial(_observe, given), partial(_judge, what, given), HINT)


def _judge(what: str, given: _Given, seen: _Seen) -> None:
    check_left(seen.left, f"{what}, after the call", _CURE)
    names = ("a cap's vector or threshold was", "the list of caps was", "the conversations were")
    for kept, name in zip(seen.kept, names, strict=True):
        check(kept, f"{what}: {name} changed in place. Make new ones.")
    found = _check_caps(what, given, seen.found)
    directions = torch.stack([v.double() for _, v, _ in found])
    _check_directions(what, given, directions)
    _check_first(what, given, directions)
    _check_removed(what, given, found)


def _check_caps(what: str, given: _Given, found: Any) -> list[Entry]:
    n, blocks = len(given.caps), [block for block, _, _ in given.caps]
    check_form(found, list, n, f"{what}: expected a list of {n} caps, one for each given")
    for entry in found:
        check(
            isinstance(entry, tuple) and len(entry) == 3,
            f"{what}: expected `utils.Cap(block, vector, threshold)` entries, found {kind_of(entry)}.",
        )
    found_blocks = [block for block, _, _ in found]
    check(
        found_blocks == blocks,
        f"{what}: expected caps at blocks {blocks}, in the order given, found {found_blocks}. Work in any order, and "
        "return them in that of `caps`.",
    )
    entries = []
    for i, (block, vector, threshold) in enumerate(found):
        check_tensor(vector, (len(given.caps[0][1]),), f"{what}, cap {i}: its vector")
        number = float(threshold)
        check(number == number, f"{what}, cap {i}: its threshold is NaN. Is a mean taken over nothing?")
        entries.append((block, vector.float(), number))
    return entries


def _check_directions(what: str, given: _Given, found: Float[Tensor, "k d"]) -> None:
    own = F.normalize(torch.stack([v.double() for _, v, _ in given.caps]), dim=1)
    norms = found.norm(dim=1)
    i = int((norms - 1).abs().argmax())
    check(
        abs(norms[i].item() - 1) < _ANGLE,
        f"{what}, cap {i}: expected a direction of norm 1, found {norms[i].item():.4g}. Divide by the norm; if you "
        "turn the given vectors, normalise them first.",
    )
    cosines = found @ own.T  # (found, given)
    place = int(cosines.abs().argmax())
    i, j = divmod(place, len(own))
    cosine = cosines[i, j].item()
    wrong = "that is the direction it should be a control for" if abs(cosine) > 0.99 else "take out all of these parts"
    check(
        abs(cosine) < _ANGLE,
        f"{what}: expected directions orthogonal to every given vector, found cosine {cosine:.3f} between direction "
        f"{i} and vector {j}: {wrong}. What lies along the axis is no control for it.",
    )
    angles, right = found @ found.T, own @ own.T
    i, j = divmod(int((angles - right).abs().argmax()), len(own))
    guess = "draw one random basis, and give every direction the coordinates that its vector has in the given ones'"
    if (angles - 1).abs().max() < _ANGLE:
        guess = "you use one direction everywhere, and the given vectors differ from block to block"
    elif (angles - torch.eye(len(own))).abs().max() < _ANGLE:
        guess = "you made the directions orthogonal to each other: what they remove does not add up as the caps' does"
    elif (angles - right).abs().max() > 0.2:
        guess = (
            "are they drawn one by one? Independent directions are nearly orthogonal, so what they remove does not add "
            "up over the blocks as what the caps remove does: turn all vectors together"
        )
    check(
        (angles - right).abs().max() < 2 * _ANGLE,
        f"{what}: expected the cosine of the directions of caps {i} and {j} to be that of the given vectors, "
        f"{right[i, j].item():.3f}, found {angles[i, j].item():.3f}; {guess}.",
    )


def _check_first(what: str, given: _Given, found: Float[Tensor, "k d"]) -> None:
    """Directions see nothing of the first token, which every conversation begins with: with the caps on, or off."""
    cosines = [found @ F.normalize(states, dim=1).T for states in _first_states(given)]
    nearest = min(cosines, key=lambda c: float(c.abs().max()))
    i, j = divmod(int(nearest.abs().argmax()), len(found))
    limit = max(_ANGLE, tolerance(given.model.dtype, exact=0.0).along(1.0, d_model(given.model)))
    check(
        abs(nearest[i, j].item()) < limit,
        f"{what}: expected directions orthogonal to the first token's residual stream, found cosine "
        f"{nearest[i, j].item():.3f} between direction {i} and that stream after block {given.caps[j][0]}. As a rule "
        "it is longer than all others together, and the axis caps leave it alone: take `hidden[0, 0]` of every block "
        "out of the noise, too.",
    )


@torch.inference_mode()
def _first_states(given: _Given) -> list[Float[Tensor, "k d"]]:
    """The first token's, at the caps' blocks: as the caps find it, and without them."""
    ids, _ = oracles.turn_spans(oracles.renderings(given.talks[0], given.tok)[0], given.talks[0], given.tok)
    found = []
    for on in (True, False):
        states: dict[int, Tensor] = {}

        def look(hidden: Tensor, place: int, on: bool = on, states: dict[int, Tensor] = states) -> Tensor:
            states[place] = hidden[0, 0].double().cpu()
            _, vector, threshold = given.caps[place]
            v = (vector / vector.norm()).to(hidden.device)
            return hidden - ((hidden.float() @ v - threshold).clamp(min=0)[..., None] * v * on).to(hidden.dtype)

        places = [(block, partial(look, place=i)) for i, (block, _, _) in enumerate(given.caps)]
        with changed(given.model, places):
            given.model(input_ids=torch.tensor([ids[:1]], device=given.model.device), use_cache=False)
        found.append(torch.stack([states[i] for i in range(len(given.caps))]))
    return found


@dataclass(frozen=True)
class _Excess:
    """How far each token reaches above each cap, at each place of one conversation.

    Attributes:
        above: 0 where it does not; every position of the conversation.
        spoken: which positions are the assistant's content.
        ended: the same, with the token that ends each turn.
        norms: of the residual stream there, as the cap finds it.
    """

    above: Float[Tensor, "k tokens"]
    spoken: Bool[Tensor, "tokens"]
    ended: Bool[Tensor, "tokens"]
    norms: Float[Tensor, "k tokens"]


def _read(given: _Given, caps: Sequence[Entry], together: bool = True, unit: bool = True) -> list[_Excess]:
    """Conversation by conversation, unpadded; each cap alone unless `together`; projections on unit vectors or raw."""
    found = []
    for talk in given.talks:
        ids, turns = oracles.turn_spans(oracles.renderings(talk, given.tok)[0], talk, given.tok)
        spoken, ended = (torch.zeros(len(ids), dtype=torch.bool) for _ in range(2))
        for spans in turns:
            (start, end), *_ = spans
            spoken[start:end] = True
            ended[start : end + 1] = True
        runs = [caps] if together else [[cap] for cap in caps]
        parts = [part for run in runs for part in _one_pass(given.model, ids, run, unit)]
        above, norms = (torch.stack(values) for values in zip(*parts, strict=True))
        found.append(_Excess(above, spoken, ended, norms))
    return found


@torch.inference_mode()
def _one_pass(model: Any, ids: list[int], caps: Sequence[Entry], unit: bool) -> list[tuple[Tensor, Tensor]]:
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def change(place: int, hidden: Tensor) -> Tensor:
        _, vector, threshold = caps[place]
        v = vector.to(hidden.device).float()
        v = v / v.norm() if unit else v
        above = (hidden.float() @ v - threshold).clamp(min=0)
        seen[place] = (above[0].cpu().double(), hidden[0].float().norm(dim=-1).cpu().double())
        return hidden - (above[..., None] * v).to(hidden.dtype)

    with changed(model, [(block, partial(change, i)) for i, (block, _, _) in enumerate(caps)]):
        model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
    return [seen[i] for i in range(len(caps))]


Measure = Callable[[list[_Excess]], Float[Tensor, "k"]]


def _pooled(excess: list[_Excess], where: Callable[[_Excess], Tensor] = lambda e: e.spoken) -> Tensor:
    return torch.cat([e.above[:, where(e)] for e in excess], dim=1)


def _mean(excess: list[_Excess]) -> Float[Tensor, "k"]:
    """What the exercise defines: over the assistant's tokens of all conversations."""
    return _pooled(excess).mean(dim=1)


def _everywhere(e: _Excess) -> Tensor:
    return torch.ones_like(e.spoken)


def _but_the_first(e: _Excess) -> Tensor:
    return torch.arange(len(e.spoken)) > 0


def _last_turn(e: _Excess) -> Tensor:
    others = (~e.spoken[: int(e.spoken.nonzero()[-1])]).nonzero()
    return e.spoken & (torch.arange(len(e.spoken)) > int(others[-1]))


# What a mistake makes equal in place of `_mean`.
_OTHERWISE: Mapping[str, Measure] = {
    "you count all tokens, the prompt's too: count the assistant's, `spoken`": (
        lambda e: _pooled(e, _everywhere).mean(dim=1)
    ),
    "you count all tokens but the first: count the assistant's, `spoken`": (
        lambda e: _pooled(e, _but_the_first).mean(dim=1)
    ),
    "you count the prompt's tokens: count the assistant's, `spoken`": (
        lambda e: _pooled(e, lambda x: ~x.spoken).mean(dim=1)
    ),
    "you count the last answer only: count all of the assistant's turns": lambda e: _pooled(e, _last_turn).mean(dim=1),
    "you take a mean for each conversation and then their mean: every token counts once": (
        lambda e: torch.stack([_mean([one]) for one in e]).mean(dim=0)
    ),
    "you look at the first conversation only": lambda e: _mean(e[:1]),
    "you look at the last conversation only": lambda e: _mean(e[-1:]),
    "you match the share of tokens that are above (the percentile), not how much is removed: along the axis tokens "
    "reach further": lambda e: (_pooled(e) > 0).double().mean(dim=1),
    "you take the mean over the tokens above the threshold only: those below count, as 0": (
        lambda e: _pooled(e).sum(dim=1) / (_pooled(e) > 0).sum(dim=1).clamp(min=1)
    ),
    "you match the mean square: match the mean norm": lambda e: _pooled(e).pow(2).mean(dim=1),
    "you match the largest removal: match the mean": lambda e: _pooled(e).amax(dim=1),
    "you match the median: match the mean": lambda e: _pooled(e).median(dim=1).values,
}


def _check_removed(what: str, given: _Given, found: list[Entry]) -> None:
    before, after = _read(given, given.caps), _read(given, found)
    right, got = _mean(before), _mean(after)
    n = int(sum(e.spoken.sum() for e in before))
    slack = tolerance(given.model.dtype, exact=1e-4).over(n)  # tokens' roundings are independent
    size = torch.stack([e.norms[:, e.spoken].mean(dim=1) for e in before]).mean(dim=0)
    allowed = _SHARE * right + torch.tensor([slack.along(s.item(), d_model(given.model)) for s in size])

    def near(a: Tensor, b: Tensor, scale: Tensor | None = None) -> bool:
        limit = allowed if scale is None else _SHARE * scale + allowed * scale / right.clamp(min=1e-9)
        return bool(((a - b).abs() <= limit).all())

    if near(got, right) or near(*(_pooled(e, lambda x: x.ended).mean(dim=1) for e in (after, before))):
        return
    i = int(((got - right).abs() / allowed).argmax())
    likely = _likely(given, found, (before, after), near)
    raise AssertionError(
        f"{what}: cap {i} (block {found[i][0]}): expected {right[i].item():.4g} to be removed from an assistant's "
        f"token in the mean, as the given cap does, found {got[i].item():.4g}; {allowed[i].item():.2g} of difference "
        f"is allowed.\n  {likely}"
    )


def _likely(
    given: _Given, found: list[Entry], both: tuple[list[_Excess], list[_Excess]], near: Callable[..., bool]
) -> str:
    before, after = both
    right, got = _mean(before), _mean(after)
    if all(abs(a[2] - b[2]) <= 1e-4 * (1 + abs(b[2])) for a, b in zip(found, given.caps, strict=True)):
        return "It looks as if you keep the given thresholds: choose new ones, along other directions all is different."
    alone, own = _mean(_read(given, given.caps, together=False)), _mean(_read(given, found, together=False))
    guesses = {
        "each of the given caps is measured alone: at later blocks the earlier caps have taken their part already, so "
        "measure with all of them in force": near(got, alone),
        "your own earlier caps are not in force when you choose a threshold": near(own, right),
        "you measure every cap alone, the given ones and your own: at later blocks the earlier caps have done their "
        "part already": near(own, alone),
        "your directions are fitted to what the given caps leave: run the model anew, with your own caps alone": near(
            _mean(_read(given, [*given.caps, *found]))[len(given.caps) :], right
        ),
        "the given vectors are not normalised when you measure: a cap acts along the unit vector": near(
            got, _mean(_read(given, given.caps, unit=False))
        ),
        "the caps' removals are matched in their sum, not one by one": near(got.sum()[None], right.sum()[None])
        if len(right) > 1
        else False,
        "nothing is removed": bool((got < 1e-6).all()),
        "every cap removes what the first one does": near(got, right[:1].expand_as(right)),
        "the order is wrong: each direction belongs to the cap in its place": near(got, right.flip(0)),
    }
    for why, measure in _OTHERWISE.items():
        a, b = measure(after), measure(before)
        guesses[why] = bool(b.max() > 0) and near(a, b, b)
    fitting = [why for why, fits in guesses.items() if fits]
    if fitting:
        return f"It looks as if {fitting[0]}."
    return "Run your caps over the same conversations, and compare what they remove block by block."


def _random(what: str, given: _Given) -> Case:
    """The generator decides, and nothing else does."""

    def observe(work: Any) -> list[Any]:
        return [_observe(given, work, *seeds).found for seeds in ((5, 0), (5, 1), (6, 0))]

    def judge(found: list[Any]) -> None:
        one, again, other = ([v for _, v, _ in _check_caps(what, given, each)] for each in found)
        check(
            all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one, again, strict=True)),
            f"{what}, from two generators of one seed: expected the same directions, found others. Draw from "
            "`generator`: torch.randn(..., generator=generator).",
        )
        check(
            not any(abs((a @ b).item()) > 0.99 for a, b in zip(one, other, strict=True)),
            f"{what}, from generators of two seeds: expected other directions, found the same. Draw them from "
            "`generator`, and do not seed it.",
        )

    return Case(what, observe, judge, HINT)


def _failing(given: _Given) -> Case:
    def run(work: Any) -> None:
        with failing(given.model, after=0):
            attempt(lambda: _observe(given, work))

    return left_case("After an error in the forward pass", given.model, run, _CURE)


def _caps(model: Any, tok: Any, blocks: list[int], seed: int) -> list[Entry]:
    """Related vectors of norms other than 1, and thresholds that some of what the assistant says reaches above."""
    generator, d = torch.Generator().manual_seed(seed), d_model(model)
    base, caps = torch.randn(d, generator=generator), list[Entry]()
    for i, block in enumerate(sorted(blocks)):
        vector = (1.7, 0.4, 3.0)[i % 3] * (base + 0.5 * torch.randn(d, generator=generator))
        seen = _read(_Given(model, tok, [], _SHORT), [*caps, (block, vector, -1e4)])
        projections = _pooled(seen)[-1] - 1e4  # what reaches it, the earlier caps in force
        caps.append((block, vector, projections.quantile((0.45, 0.6, 0.5)[i % 3]).item()))
    return [caps.pop([b for b, _, _ in caps].index(block)) for block in blocks]
