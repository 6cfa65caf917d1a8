"""Section 2, capping along the Assistant Axis."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graders.harness.expect import check, check_close, grader, on_tiny_models, tolerance
from graders.harness.hooked import Interrupted, Pass, changed, check_hooks, failing, hooks, observed, running
from personalab.lm.models import n_blocks
from personalab.lm.tiny import FAMILIES, load_tiny_model

Hidden = Float[Tensor, "rows tokens d"]
Rule = Callable[..., Hidden]  # of hidden, vector, threshold
Caps = list[tuple[int, Tensor, float]]  # (block, vector, threshold)

_TEXTS = ["You are a pirate. " * 3, "What is the moon?", "Tell me what you think about the sea and the city."]
_CURE = "Register in `__enter__`, keep every handle, and call `handle.remove()` on each in `__exit__`."


@grader
def test_activation_capper(ActivationCapper: Callable[..., Any], model: Any = None, tokenizer: Any = None) -> None:
    """A ceiling on the projection of every row and position, at each of the blocks, and only inside the `with`."""
    if on_tiny_models():
        for i, family in enumerate(FAMILIES):
            tiny, tok = load_tiny_model(family)
            layers = ([2, 0], [1, 3], [3, 0, 1], [1], [0, 2])[i]
            inputs = _batch(tok)
            _check_capped(ActivationCapper, tiny, inputs, _caps(tiny, inputs, layers), f"{family}, blocks {layers}")
        _check_one_block(ActivationCapper)
        _check_high_caps(ActivationCapper)
        _check_bfloat16(ActivationCapper)
        _check_lengths(ActivationCapper)
        _check_lifetime(ActivationCapper)
    if model is not None:
        _check_yours(ActivationCapper, model)


def _batch(tok: Any) -> dict[str, Tensor]:
    """Three rows of unequal length, padded on the left as for generation."""
    tok.padding_side = "left"
    return dict(tok(_TEXTS, return_tensors="pt", padding=True, return_token_type_ids=False))


@torch.inference_mode()
def _forward(model: Any, inputs: dict[str, Tensor]) -> Any:
    return model(**inputs)


def _generate(model: Any, inputs: dict[str, Tensor]) -> Any:
    return model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False)


def _states(passes: list[Pass], first: int = 0) -> Float[Tensor, "values"]:
    """All that was seen from position `first` of each pass on, flat: several passes differ in shape."""
    return torch.cat([s[:, first:].float().flatten() for step in passes for s in step.states.values()])


def _caps(model: Any, inputs: dict[str, Tensor], layers: list[int]) -> Caps:
    """Vectors of norm far from 1; thresholds well inside what their unit vectors see, above 0 and below."""
    caps = []
    for i, block in enumerate(layers):
        outputs: list[Tensor] = []

        def keep(hidden: Hidden, outputs: list[Tensor] = outputs) -> Hidden:
            outputs.append(hidden.float().cpu())
            return hidden

        with changed(model, [(block, keep)]):
            _forward(model, inputs)
        for seed in range(100 * i, 100 * i + 100):
            vector = torch.randn(outputs[0].shape[-1], generator=torch.Generator().manual_seed(seed))
            projections = outputs[0] @ (vector / vector.norm())
            threshold = projections.quantile((0.75, 0.3)[i % 2]).item()
            if (projections[:, -1] > threshold).all():  # so that capping the last position alone does something
                break
        caps.append((block, vector * (0.5, 0.04, 1.0)[i % 3], threshold))
    return caps


def _cap(hidden: Hidden, vector: Float[Tensor, "d"], threshold: float) -> Hidden:
    """One position at a time."""
    unit, out = (vector / vector.norm()).to(hidden.device), hidden.clone()
    for row in range(hidden.shape[0]):
        for position in range(hidden.shape[1]):
            projection = hidden[row, position].float() @ unit
            if projection > threshold:
                out[row, position] = (hidden[row, position].float() - (projection - threshold) * unit).to(hidden.dtype)
    return out


def _seen(
    model: Any,
    call: Callable[..., Any],
    caps: Caps,
    rule: Rule = _cap,
    watch: list[int] | None = None,
    first: int = 0,
) -> Float[Tensor, "values"]:
    """What the model reads, in one call, under a rule applied cap by cap."""
    changes = [(block, partial(rule, vector=vector, threshold=tau)) for block, vector, tau in caps]
    with changed(model, changes), observed(model, watch or range(n_blocks(model))) as passes:
        call(model)
    return _states(passes, first)


def _found(
    capper: Callable[..., Any],
    model: Any,
    call: Callable[..., Any],
    caps: Caps,
    what: str,
    watch: list[int] | None = None,
    first: int = 0,
) -> Float[Tensor, "values"]:
    """What the model reads under the learner's capper, and that nothing is left of it afterwards."""
    before, vectors = hooks(model), [v.clone() for _, v, _ in caps]
    layers, thresholds = [b for b, _, _ in caps], [t for _, _, t in caps]
    with (
        observed(model, watch or range(n_blocks(model))) as passes,
        running(what),
        capper(model, vectors, thresholds, layers),
    ):
        call(model)
    check_hooks(model, before, f"{what}, after the `with` block", _CURE)
    check(
        all(torch.equal(a, b) for a, (_, b, _) in zip(vectors, caps, strict=True)),
        f"{what}: you changed the caller's vectors in place. Normalise copies: `v / v.norm()`, no `/=`.",
    )
    return _states(passes, first)


def _check_capped(capper: Callable[..., Any], model: Any, inputs: dict[str, Tensor], caps: Caps, what: str) -> None:
    calls = {
        "one forward pass": partial(_forward, inputs=inputs),
        "cached generation": partial(_generate, inputs=inputs),
    }
    for name, call in calls.items():
        found = _found(capper, model, call, caps, f"{what}, {name} of 3 rows")
        check_close(
            found,
            [_seen(model, call, caps)],
            f"{what}, {name} of 3 rows: the blocks' outputs",
            _mistakes(model, call, caps),
            tolerance(model.dtype, exact=1e-4),
        )


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


def _some(hidden: Hidden, vector: Tensor, threshold: float, where: tuple[slice, slice]) -> Hidden:
    out = hidden.clone()
    out[where] = _variant(hidden[where], vector, threshold)
    return out


def _some_passes(hidden: Hidden, vector: Tensor, threshold: float, prefill: bool) -> Hidden:
    return _variant(hidden, vector, threshold) if (hidden.shape[1] > 1) == prefill else hidden


_RULES: dict[str, Rule] = {
    "nothing is capped: the hooks return nothing, or are not in force": lambda hidden, vector, threshold: hidden,
    "only the first row of the batch is capped: a block's output is a plain tensor, so output[0] is row 0": (
        partial(_some, where=(slice(0, 1), slice(None)))
    ),
    "only the last position is capped: cap every position": partial(_some, where=(slice(None), slice(-1, None))),
    "only the prompt's pass is capped: cap the new tokens' passes too": partial(_some_passes, prefill=True),
    "only the new tokens' passes are capped: cap the prompt's too": partial(_some_passes, prefill=False),
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


def _mistakes(
    model: Any, call: Callable[..., Any], caps: Caps, watch: list[int] | None = None, first: int = 0
) -> dict[str, Callable[[], Tensor | list[Tensor]]]:
    """What the model reads under typical mistakes, each computed only when a check fails."""
    last = caps[-1]
    others: dict[str, Caps] = {
        "every hook uses the last vector and threshold: a closure made in a loop sees the loop's last values; make "
        "it in a function of its own": [(b, last[1], last[2]) for b, _, _ in caps],
        "only the first block is capped": caps[:1],
        "only the last block is capped": caps[-1:],
        "block layer + 1 is capped: off by one, since `layer_indices` are block indices here": (
            [(b + 1, v, t) for b, v, t in caps]
        ),
        "block layer - 1 is capped: off by one, since `layer_indices` are block indices here": (
            [(max(b - 1, 0), v, t) for b, v, t in caps]
        ),
        "the blocks are sorted and the vectors are not: keep the three lists in step": (
            [(b, v, t) for b, (_, v, t) in zip(sorted(b for b, _, _ in caps), caps, strict=True)]
        ),
    }
    found: dict[str, Callable[[], Tensor | list[Tensor]]] = {}
    for why, rule in _RULES.items():
        found[why] = partial(_seen, model, call, caps, rule, watch, first)
    for why, changed_caps in others.items():
        if all(block < n_blocks(model) for block, _, _ in changed_caps):
            found[why] = partial(_seen, model, call, changed_caps, watch=watch, first=first)
    return found


def _check_one_block(capper: Callable[..., Any]) -> None:
    """Two orthogonal vectors on one block: the order does not matter, and none may replace the other."""
    model, tok = load_tiny_model("llama")
    inputs = _batch(tok)
    (_, v, tau), (_, w, _) = _caps(model, inputs, [1, 1])
    caps = [(1, v, tau), (1, w - (w @ v) / (v @ v) * v, 0.1)]
    call, what = partial(_forward, inputs=inputs), "Two vectors at the same block"
    only = "only one of the two acts: a dict by block keeps the last one"
    check_close(
        _found(capper, model, call, caps, what),
        [_seen(model, call, caps)],
        f"{what}: the blocks' outputs",
        {only: lambda: [_seen(model, call, caps[:1]), _seen(model, call, caps[1:])]},
        tolerance(model.dtype, exact=1e-4),
    )


def _check_high_caps(capper: Callable[..., Any]) -> None:
    model, tok = load_tiny_model("qwen2")
    inputs = _batch(tok)
    call = partial(_forward, inputs=inputs)
    caps = [(b, v, 1000.0) for b, v, _ in _caps(model, inputs, [0, 2])]
    what = "Thresholds above everything, which must change nothing"
    unchanged = tolerance(model.dtype, exact=1e-6)
    check_close(_found(capper, model, call, caps, what), [_seen(model, call, [])], what, tolerance=unchanged)


def _check_bfloat16(capper: Callable[..., Any]) -> None:
    """Float32 vectors on a bfloat16 model, which is what the notebook has where the CPU gains from it."""
    model, tok = load_tiny_model("llama", dtype=torch.bfloat16)
    inputs = _batch(tok)
    caps, call = _caps(model, inputs, [1, 2]), partial(_forward, inputs=inputs)
    found, right = _found(capper, model, call, caps, "bfloat16 model, float32 vectors"), _seen(model, call, caps)
    check_close(found, [right], "bfloat16 model, float32 vectors", tolerance=tolerance(model.dtype))


def _check_lengths(capper: Callable[..., Any]) -> None:
    model, _ = load_tiny_model("llama")
    vectors = [torch.randn(32), torch.randn(32)]
    for n_vectors, n_thresholds, n_layers in ((1, 2, 2), (2, 1, 2), (2, 2, 1)):
        what = f"{n_vectors} vectors, {n_thresholds} thresholds, {n_layers} layers"
        before = hooks(model)
        why = "Compare the three lengths in `__init__`: zip alone drops the rest without a word."
        try:
            with capper(model, vectors[:n_vectors], [0.0, 1.0][:n_thresholds], [0, 2][:n_layers]):
                pass
        except (ValueError, AssertionError):
            check_hooks(model, before, f"{what}, refused", "Compare the lengths before you register anything.")
        except NotImplementedError:
            raise
        except Exception as error:
            raise AssertionError(f"{what}: expected a ValueError, found {error!r}. {why}") from error
        else:
            raise AssertionError(f"{what}: expected a ValueError, found them accepted. {why}")


def _check_lifetime(capper: Callable[..., Any]) -> None:
    """Nothing before the `with`, nothing after an error in it, other people's hooks untouched."""
    model, tok = load_tiny_model("qwen2")
    inputs = _batch(tok)
    caps = _caps(model, inputs, [1, 2])
    lists: tuple[Any, ...] = ([v for _, v, _ in caps], [t for _, _, t in caps], [b for b, _, _ in caps])
    before = hooks(model)
    capper(model, *lists)
    check_hooks(model, before, "ActivationCapper(...) made but not entered", _CURE)
    for after, when in ((0, "the first pass"), (2, "the third pass")):
        raised = False
        with failing(model, after):
            try:
                with capper(model, *lists):
                    _generate(model, inputs)
            except Interrupted:
                raised = True
        check_hooks(model, before, f"After an error in {when} inside the `with` block", _CURE)
        check(
            raised,
            f"An error in {when} inside the `with` block: expected it to reach the caller, found it swallowed. Let "
            "`__exit__` return None, not True.",
        )
    with changed(model, [(1, lambda hidden: hidden)]):
        _found(capper, model, partial(_forward, inputs=inputs), caps, "With a second hook on the block")


def _check_yours(capper: Callable[..., Any], model: Any) -> None:
    """One pass of the notebook's own model, two rows, two blocks."""
    ids = torch.arange(100, 116, device=model.device)
    inputs = {"input_ids": torch.stack([ids, ids.flip(0)])}
    layers = sorted({n_blocks(model) // 3, n_blocks(model) // 2})
    caps = _caps(model, inputs, layers)
    call, what = partial(_forward, inputs=inputs), "your model"
    # the first position is often larger than all others together
    found = _found(capper, model, call, caps, what, layers, first=1)
    right = _seen(model, call, caps, watch=layers, first=1)
    wrong, allowed = _mistakes(model, call, caps, layers, first=1), tolerance(model.dtype, exact=1e-4)
    check_close(found, [right], f"{what}: the blocks' outputs", wrong, allowed)
