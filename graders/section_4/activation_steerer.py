"""Section 4, the steerer: which positions of which passes it changes, and what it leaves behind."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from graders.harness import hook_cases as hc
from graders.harness.cases import Case, Raised, attempt, grader
from graders.harness.expect import Tolerance, check, on_tiny_models, tolerance
from graders.harness.hook_cases import Context, Hidden, HookCase, Rules, batch, forward, generate
from graders.harness.hooked import changed
from graders.harness.steered import vector_of
from personalab.lm.models import d_model, n_blocks
from personalab.lm.tiny import FAMILIES, load_tiny_model

MODES = {
    "all": "every position of every pass",
    "prompt": "all positions of a pass of several, none while decoding",
    "response": "the last position of each pass",
}
_CURES = (
    "Keep the handle that `register_forward_hook` gives in `__enter__`, and call its `remove()` in `__exit__`.",
    "you changed `steering_vector` in place. Write `coeff * vector`, no `*=`.",
)
_REFUSE = (
    'Compare it with "all", "prompt" and "response" in `__init__`, and raise ValueError for all else: in the hook it '
    "would come in the middle of a generation."
)
_EXACTLY = Tolerance(0.0, 0.0, torch.float32)


class Setting(NamedTuple):
    """What a steerer is made with, after the model."""

    vector: Float[Tensor, "d"]
    coeff: float = 1.0
    layer: int = 1
    mode: str = "all"


@grader
def test_activation_steerer(model: Any = None, tokenizer: Any = None) -> Iterator[Case]:
    """`coeff * vector` at the positions asked for, in every row, at one block, and only inside the `with`."""
    if on_tiny_models():
        for i, family in enumerate(FAMILIES):
            layer, coeff = (1, 0, 2, 3, 1)[i], (1.5, -0.7, 2.0, -1.5, 3.0)[i]
            for mode in MODES:
                yield from _values(family, Setting(vector_of(seed=layer), coeff, layer, mode))
        yield _defaults()
        yield from _surroundings()
        yield from _dtypes()
        yield from _lifetime()
        yield from _nested()
        yield from _two_prompts()
        yield _twice()
    if model is not None:
        layer, vector, near = n_blocks(model) // 2, vector_of(d_model(model)), tolerance(model.dtype, exact=1e-4)
        call, what = partial(forward, inputs=hc.two_rows(model)), f"your model, layer={layer}"
        for mode in MODES:
            setting = Setting(vector, 8.0, layer, mode)
            wrong = _mistakes(setting)
            yield _steered(what, model, call, setting, watch=[layer], first=1, mistakes=wrong, tolerance=near)


def _steer(hidden: Hidden, push: Tensor, mode: str) -> Hidden:
    """The oracle, for one pass: a prompt is read in a pass of several positions, a new token in a pass of one."""
    push, out = push.to(hidden), hidden.clone()
    if mode == "all" or (mode == "prompt" and hidden.shape[1] > 1):
        out += push
    elif mode == "response":
        out[:, -1] += push
    return out


def _last_of(hidden: Hidden, push: Tensor, prefill: bool) -> Hidden:
    return _steer(hidden, push, "response") if (hidden.shape[1] > 1) == prefill else hidden


def _rules(setting: Setting) -> Rules:
    vector, coeff, layer, mode = setting
    return [(layer, partial(_steer, push=(coeff * vector.float()), mode=mode))]


def _mistakes(right: Setting) -> dict[str, Rules]:
    vector, coeff, layer, mode = right

    push = coeff * vector

    mixed = {
        f'it acts as positions="{other}" ({meaning}); "{mode}" is {MODES[mode]}': _rules(right._replace(mode=other))
        for other, meaning in MODES.items()
        if other != mode
    }
    others = {
        "coeff is ignored: add coeff * vector": right._replace(coeff=1.0),
        "the sign is wrong: it must be + coeff * vector": right._replace(coeff=-coeff),
        "the vector is normalised first: add coeff * vector as it is": right._replace(vector=vector / vector.norm()),
        "the vector is added twice: two hooks, or one that adds in place and returns a sum": (
            right._replace(coeff=2 * coeff)
        ),
        "block layer + 1 is steered: off by one, since `layer` is a block index here": right._replace(layer=layer + 1),
        "block layer - 1 is steered: off by one, since `layer` is a block index here": right._replace(layer=layer - 1),
    }
    return {
        "nothing is added: the hook returns nothing, or is not in force": [],
        **mixed,
        "only new tokens' passes are steered: in the prompt's pass, the last position counts too": (
            [(layer, partial(_last_of, push=push, prefill=False))]
        ),
        "only the last position of the prompt is steered, in no later pass": (
            [(layer, partial(_last_of, push=push, prefill=True))]
        ),
        "the last position of each pass is left out": (
            [(layer, lambda h: torch.cat([h[:, :-1] + push.to(h), h[:, -1:]], dim=1))]
        ),
        "only the first row of the batch is steered: a block's output is a plain tensor, so output[0] is row 0": (
            [(layer, lambda h: torch.cat([_steer(h[:1], push, mode), h[1:]]))]
        ),
        **{why: _rules(setting) for why, setting in others.items()},
    }


def _steered(what: str, model: Any, call: Callable[[Any], Any], setting: Setting, **options: Any) -> Case:
    def make(steerer: Any, vector: Tensor) -> Context:
        return steerer(model, *setting._replace(vector=vector))

    options = {"rules": _rules(setting), "given": (setting.vector,), "cures": _CURES} | options
    return HookCase(f'positions="{setting.mode}", {what}', model, call, make, **options).case()


def _values(family: str, setting: Setting) -> Iterator[Case]:
    tiny, tok = load_tiny_model(family)
    what, inputs = f"{family}, layer={setting.layer}", batch(tok)
    call, mistakes = partial(generate, inputs=inputs), _mistakes(setting)
    yield _steered(f"{what}, coeff={setting.coeff}, generation of 3 rows", tiny, call, setting, mistakes=mistakes)

    what += ", coeff=0.0 (exactly the model without steering: add coeff * vector, and scale nothing)"
    call, zero = partial(forward, inputs=inputs), setting._replace(coeff=0.0)
    ignored = {"a 0 counts as missing: no default in place of it (`coeff or 1.0`)": _rules(zero._replace(coeff=1.0))}
    yield _steered(what, tiny, call, zero, rules=[], mistakes=ignored, tolerance=_EXACTLY)


def _defaults() -> Case:
    """On a model that has a block 19."""
    tiny, tok = load_tiny_model("qwen2", n_blocks=21)
    right, expected = Setting(vector_of(), layer=19), "expected coeff=1.0, layer=19, positions='all'"
    others = {
        f"`positions` has another default: {expected}": _rules(right._replace(mode="response")),
        f"`layer` has another default, one less: {expected}": _rules(right._replace(layer=18)),
        f"`layer` has another default, one more: {expected}": _rules(right._replace(layer=20)),
        f"`coeff` has another default: {expected}": [],
    }
    what, call = "ActivationSteerer(model, steering_vector)", partial(forward, inputs=batch(tok))
    case = HookCase(what, tiny, call, lambda cls: cls(tiny, right.vector), _rules(right), others, watch=[18, 19])
    return replace(case, cures=_CURES).case()


def _surroundings() -> Iterator[Case]:
    tiny, tok = load_tiny_model("llama")
    call = partial(generate, inputs=batch(tok))
    for mode in MODES:
        setting = Setting(vector_of(), 2.0, mode=mode)
        yield _steered("a block that returns a tuple", tiny, call, setting, around=partial(hc.tuple_out, tiny, 1))
        yield _steered("a block that returns a tensor", tiny, call, setting, around=partial(hc.tensor_kept, tiny, 1))


def _dtypes() -> Iterator[Case]:
    """A vector of another dtype than the model's; the hidden states keep theirs."""
    half, single, double = torch.bfloat16, torch.float32, torch.float64
    for dtype, other in ((half, single), (single, double), (single, half)):
        tiny, tok = load_tiny_model("llama", dtype=dtype)
        what, near = f"{str(dtype)[6:]} model, {str(other)[6:]} vector", tolerance(dtype, other, exact=1e-4)
        for mode in MODES:
            setting = Setting(vector_of().to(other), 1.5, mode=mode)
            yield _steered(what, tiny, partial(forward, inputs=batch(tok)), setting, tolerance=near)


@contextmanager
def _again(context: Context) -> Iterator[None]:
    with context:
        pass
    with context:
        yield


def _lifetime() -> Iterator[Case]:
    """Other positions are refused; nothing before the `with`, nothing after an error; the same steerer serves again."""
    tiny, tok = load_tiny_model("qwen2")
    right = Setting(vector_of())

    def make(steerer: Any, setting: Setting = right) -> Context:
        return steerer(tiny, *setting)

    for bad in ("last", "Response", ""):
        refused = partial(make, setting=right._replace(mode=bad))
        yield hc.refused_case(f"positions={bad!r}", tiny, refused, _REFUSE)
    call = partial(generate, inputs=batch(tok))
    yield from hc.lifetime_cases(tiny, call, make, _CURES[0])
    what, company = "The same steerer, used in a second `with`", partial(changed, tiny, [(1, lambda hidden: hidden)])
    again = HookCase(what, tiny, call, lambda steerer: _again(make(steerer)), _rules(right), around=company)
    yield replace(again, cures=_CURES).case()


@contextmanager
def _two(steerer: Any, model: Any, first: Setting, second: Setting, leave: bool) -> Iterator[None]:
    outer, inner = steerer(model, *first), steerer(model, *second)
    with outer:
        with inner:
            if not leave:
                yield
        if leave:
            yield


def _nested() -> Iterator[Case]:
    """Two at once, at one block or at two: both act, and leaving one leaves the other."""
    v, w = vector_of(seed=1), vector_of(seed=2)
    tiny, tok = load_tiny_model("qwen3")
    call = partial(generate, inputs=batch(tok))
    for first, second in (
        (Setting(v, 1.5, 1, "all"), Setting(w, -1.0, 1, "response")),
        (Setting(v, 1.5, 2, "response"), Setting(w, -1.0, 0, "prompt")),
    ):
        a, b = _rules(first), _rules(second)
        only: dict[str, Rules] = {"only the outer one acts": a, "only the inner one acts": b, "none acts": []}
        what = f"Two steerers, at blocks {first.layer} and {second.layer}"
        for name, leave, rules in (("one in the other", False, [*a, *b]), ("the inner one left", True, a)):
            make = partial(_two, model=tiny, first=first, second=second, leave=leave)
            yield HookCase(f"{what}, {name}", tiny, call, make, rules, only, cures=_CURES).case()


def _first_only(vector: Tensor, mode: str) -> Rules:
    """Only the first pass of all counts as a prompt's."""
    passes = count()
    return [(1, lambda hidden: hidden if next(passes) else _steer(hidden, vector, mode))]


def _two_prompts() -> Iterator[Case]:
    """Two prompts, of different lengths, inside one `with`: the second is steered as the first."""
    tiny, tok = load_tiny_model("llama")
    inputs, vector = batch(tok), vector_of()
    shorter = {name: rows[1:2, -5:] for name, rows in inputs.items()}
    why = (
        "only the first pass inside the `with` is taken for a prompt: tell each pass by its own length, "
        "`hidden.shape[1] > 1`, and keep no flag or count"
    )

    def call(model: Any) -> None:
        for prompt in (inputs, shorter):
            generate(model, prompt)

    for mode in MODES:
        what, only = "two prompts inside one `with`", {why: _first_only(vector, mode)}
        yield _steered(what, tiny, call, Setting(vector, mode=mode), mistakes=only)


def _twice() -> Case:
    """Entered again inside its own `with`: refused, and gone afterwards."""
    tiny, tok = load_tiny_model("llama")
    what = "One steerer entered again inside its own `with`, and left"
    cure = "The second `__enter__` overwrites the first handle: refuse it."

    def run(steerer: Any) -> Any:
        one = steerer(tiny, vector_of(), 1.0, 1)
        with one:
            return attempt(partial(hc.inside, one, partial(forward, tiny, batch(tok))))

    def judge(found: Any) -> None:
        shown = found if isinstance(found, Raised) else "no error"
        check(
            isinstance(found, Raised) and "RuntimeError" in found.kinds,
            f"{what}: expected a RuntimeError, found {shown}. Whoever enters one twice wants two: let `__enter__` "
            "raise RuntimeError while a handle is there.",
        )

    return hc.left_case(what, tiny, run, cure, judge)
