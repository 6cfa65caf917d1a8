"""Section 2, capping along the Assistant Axis: a ceiling on the projection, at several blocks."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from graders.harness import Case, grader, on_tiny_models, tolerance
from graders.harness import hook_cases as hc
from graders.harness.hook_cases import Hidden, batch, forward
from graders.harness.hooked import changed
from personalab.lm.models import n_blocks
from personalab.lm.tiny import FAMILIES, load_tiny_model

Rule = Callable[..., Hidden]  # of hidden, vector, threshold
Caps = list[tuple[int, Tensor, float]]  # (block, vector, threshold)

_CURES = (
    "Register in `__enter__`, keep every handle, and call `handle.remove()` on each in `__exit__`.",
    "you changed the caller's vectors in place. Normalise copies: `v / v.norm()`, no `/=`.",
)
_LENGTHS = "Compare the three lengths in `__init__`: zip alone drops the rest without a word."


@grader
def test_activation_capper(model: Any = None, tokenizer: Any = None) -> Iterator[Case]:
    """A ceiling on the projection of every row and position, at each of the blocks, and only inside the `with`."""
    if on_tiny_models():
        for family, layers in zip(FAMILIES, ([2, 0], [1, 3], [3, 0, 1], [1], [0, 2]), strict=True):
            tiny, tok = load_tiny_model(family)
            inputs = batch(tok)
            caps = _caps(tiny, inputs, layers)
            for name, call in (("one forward pass", forward), ("cached generation", hc.generate)):
                what = f"{family}, blocks {layers}, {name} of 3 rows"
                yield _capped(what, tiny, partial(call, inputs=inputs), caps, mistakes=_mistakes(caps))
        yield from _special_caps()
        yield from _lengths()
        yield from _lifetime()
    if model is not None:
        inputs, layers = hc.two_rows(model), sorted({n_blocks(model) // 3, n_blocks(model) // 2})
        caps, near = _caps(model, inputs, layers), tolerance(model.dtype, exact=1e-4)
        options: dict[str, Any] = {"mistakes": _mistakes(caps), "tolerance": near, "watch": layers, "first": 1}
        yield _capped("your model", model, partial(forward, inputs=inputs), caps, **options)


def _cap(hidden: Hidden, vector: Tensor, threshold: float) -> Hidden:
    """The oracle, one position at a time."""
    unit, out = (vector / vector.norm()).to(hidden.device), hidden.clone()
    for row in range(hidden.shape[0]):
        for position in range(hidden.shape[1]):
            projection = hidden[row, position].float() @ unit
            if projection > threshold:
                out[row, position] = (hidden[row, position].float() - (projection - threshold) * unit).to(hidden.dtype)
    return out


def _variant(
    hidden: Hidden,
    vector: Tensor,
    threshold: float,
    on: bool = True,
    along: bool = True,
    amount: Callable[[Tensor, float], Tensor] = lambda p, t: (p - t).clamp(min=0),
) -> Hidden:
    """Another rule: projection `on` the unit or the raw vector, `amount` of it removed `along` either."""
    vector = vector.to(hidden.device)
    unit = vector / vector.norm()
    removed = amount(hidden.float() @ (unit if on else vector), threshold)
    return hidden - (removed[..., None] * (unit if along else vector)).to(hidden.dtype)


def _some(
    hidden: Hidden, vector: Tensor, threshold: float, where: Any = slice(None), prefill: bool | None = None
) -> Hidden:
    """The cap at some rows and positions only, or only in the prompt's pass or the others."""
    out = hidden.clone()
    if prefill is None or (hidden.shape[1] > 1) == prefill:
        out[where] = _variant(hidden[where], vector, threshold)
    return out


_OTHER_RULES: dict[str, Rule] = {
    "nothing is capped: the hooks return nothing, or are not in force": lambda hidden, vector, threshold: hidden,
    "only the first row of the batch is capped: a block's output is a plain tensor, so output[0] is row 0": (
        partial(_some, where=slice(0, 1))
    ),
    "only the last position is capped: cap every position": partial(_some, where=(slice(None), slice(-1, None))),
    "only the prompt's pass is capped: cap the new tokens' passes too": partial(_some, prefill=True),
    "only the new tokens' passes are capped: cap the prompt's too": partial(_some, prefill=False),
    "the vector is not normalised: divide it by its norm first": partial(_variant, on=False, along=False),
    "the projection is taken on a vector that is not normalised": partial(_variant, on=False),
    "what is removed lies along a vector that is not normalised": partial(_variant, along=False),
    "values under the threshold are moved as well: clamp the excess at 0": (
        partial(_variant, amount=lambda p, t: p - t)
    ),
    "the direction is wrong: values under the threshold are lifted (a floor), those above are left": (
        partial(_variant, amount=lambda p, t: (p - t).clamp(max=0))
    ),
    "the sign is wrong: the excess is added, not subtracted": (
        partial(_variant, amount=lambda p, t: -(p - t).clamp(min=0))
    ),
    "the whole projection is removed where it is above: remove what exceeds the threshold": (
        partial(_variant, amount=lambda p, t: p * (p > t))
    ),
    "the threshold is applied to the projection's absolute value: it is a ceiling, not a band": (
        partial(_variant, amount=lambda p, t: p.sign() * (p.abs() - t).clamp(min=0))
    ),
}
_OTHER_CAPS: dict[str, Callable[[Caps], Caps]] = {
    "every hook uses the last vector and threshold: a closure made in a loop sees the loop's last values; make it in a "
    "function of its own": lambda caps: [(b, *caps[-1][1:]) for b, _, _ in caps],
    "only the first block is capped": lambda caps: caps[:1],
    "only the last block is capped": lambda caps: caps[-1:],
    "block layer + 1 is capped: off by one, since `layer_indices` are block indices here": (
        lambda caps: [(b + 1, v, t) for b, v, t in caps]
    ),
    "block layer - 1 is capped: off by one, since `layer_indices` are block indices here": (
        lambda caps: [(max(b - 1, 0), v, t) for b, v, t in caps]
    ),
    "the blocks are sorted and the vectors are not: keep the three lists in step": (
        lambda caps: [(b, v, t) for b, (_, v, t) in zip(sorted(b for b, _, _ in caps), caps, strict=True)]
    ),
}


def _rules(caps: Caps, rule: Rule = _cap) -> hc.Rules:
    return [(block, partial(rule, vector=vector, threshold=tau)) for block, vector, tau in caps]


def _mistakes(caps: Caps) -> dict[str, hc.Rules]:
    by_rule = {why: _rules(caps, rule) for why, rule in _OTHER_RULES.items()}
    return by_rule | {why: _rules(change(caps)) for why, change in _OTHER_CAPS.items()}


def _make(capper: Any, *vectors: Tensor, model: Any, caps: Caps) -> AbstractContextManager[Any]:
    return capper(model, list(vectors), [t for _, _, t in caps], [b for b, _, _ in caps])


def _capped(what: str, model: Any, call: Callable[[Any], Any], caps: Caps, **options: Any) -> Case:
    options = {"rules": _rules(caps), "given": tuple(v for _, v, _ in caps), "cures": _CURES} | options
    return hc.HookCase(what, model, call, partial(_make, model=model, caps=caps), **options).case()


def _caps(model: Any, inputs: dict[str, Tensor], layers: list[int]) -> Caps:
    """Vectors of norm far from 1; thresholds well inside what their unit vectors see, above 0 and below."""
    caps, outputs = [], dict[int, Hidden]()

    def keep(hidden: Hidden, block: int) -> Hidden:
        outputs[block] = hidden.float().cpu()
        return hidden

    with changed(model, [(block, partial(keep, block=block)) for block in layers]):
        forward(model, inputs)
    for i, block in enumerate(layers):
        for seed in range(100 * i, 100 * i + 100):
            vector = torch.randn(outputs[block].shape[-1], generator=torch.Generator().manual_seed(seed))
            projections = outputs[block] @ (vector / vector.norm())
            threshold = projections.quantile((0.75, 0.3)[i % 2]).item()
            if (projections[:, -1] > threshold).all():  # so that capping the last position alone does something
                break
        caps.append((block, vector * (0.5, 0.04, 1.0)[i % 3], threshold))
    return caps


def _special_caps() -> Iterator[Case]:
    """Two at one block, orthogonal, so that their order does not matter; ceilings out of reach; other dtypes."""
    tiny, tok = load_tiny_model("llama")
    call = partial(forward, inputs=batch(tok))
    (_, v, tau), (_, w, _) = _caps(tiny, batch(tok), [1, 1])
    both = [(1, v, tau), (1, w - (w @ v) / (v @ v) * v, 0.1)]
    one = {
        "only one of the two acts, the last: a dict by block keeps one": _rules(both[1:]),
        "only one of the two acts, the first": _rules(both[:1]),
    }
    yield _capped("Two vectors at the same block", tiny, call, both, mistakes=one)

    qwen, tok = load_tiny_model("qwen2")
    high = [(block, vector, 1000.0) for block, vector, _ in _caps(qwen, batch(tok), [0, 2])]
    what, unchanged = "Thresholds above everything, which must change nothing", tolerance(qwen.dtype, exact=1e-6)
    yield _capped(what, qwen, partial(forward, inputs=batch(tok)), high, rules=[], tolerance=unchanged)

    half, tok = load_tiny_model("llama", dtype=torch.bfloat16)  # what the notebook has where the CPU gains from it
    caps, call = _caps(half, batch(tok), [1, 2]), partial(forward, inputs=batch(tok))
    yield _capped("bfloat16 model, float32 vectors", half, call, caps, tolerance=tolerance(half.dtype))


def _lengths() -> Iterator[Case]:
    tiny, _ = load_tiny_model("llama")
    vectors, thresholds, layers = [torch.randn(32), torch.randn(32)], [0.0, 1.0], [0, 2]
    for n, m, k in ((1, 2, 2), (2, 1, 2), (2, 2, 1)):
        lists = (vectors[:n], thresholds[:m], layers[:k])
        what = f"{n} vectors, {m} thresholds, {k} layers"
        yield hc.refused_case(what, tiny, partial(lambda lists, capper: capper(tiny, *lists), lists), _LENGTHS)


def _lifetime() -> Iterator[Case]:
    tiny, tok = load_tiny_model("qwen2")
    inputs = batch(tok)
    caps = _caps(tiny, inputs, [1, 2])
    make = partial(_make, model=tiny, caps=caps)
    vectors = [vector for _, vector, _ in caps]
    call = partial(hc.generate, inputs=inputs)
    yield from hc.lifetime_cases(tiny, call, lambda capper: make(capper, *vectors), _CURES[0])
    company = partial(changed, tiny, [(1, lambda hidden: hidden)])
    yield _capped("With a second hook on the block", tiny, partial(forward, inputs=inputs), caps, around=company)
