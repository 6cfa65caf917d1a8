"""Section 2: finding the blocks, and what a hook on one of them sees."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import nn

from graders.harness.expect import check, grader
from graders.harness.hooked import check_hooks, failing, hooks, observed, running
from graders.harness.probes import attempt, bystander, greedy, outputs_changed, returning_tuples
from personalab.lm.tiny import FAMILIES, load_tiny_model

_CURE = "Remove it in `finally`, so that an error can't skip that."


class _Holder(nn.Module):
    """A module with the given children."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


class PeftImitation(nn.Module):
    """What PEFT's wrapper looks like: base_model.model is the model itself, and unknown attributes come from inside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model = _Lora(model)

    def get_base_model(self) -> nn.Module:
        return self.base_model.model

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_model"), name)


class _Lora(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)


class UnknownArchitecture(_Holder):
    """A model without decoder blocks."""


def _seeing(blocks: nn.ModuleList) -> _Holder:
    """A text model beside an image tower, which has blocks of its own, and more of them."""
    tower = nn.ModuleList(nn.Linear(2, 2) for _ in range(len(blocks) + 2))
    return _Holder(vision_tower=_Holder(encoder=_Holder(layers=tower)), language_model=_Holder(layers=blocks))


@grader
def test_return_layers(_return_layers: Callable[[Any], nn.ModuleList]) -> None:
    """The live list, for plain models, image wrappers and PEFT; an error that names the class for anything else."""
    for family in FAMILIES:
        model, _ = load_tiny_model(family)
        _check_blocks(_return_layers, model, model.model.layers, f"a plain model ({family})")
    model, _ = load_tiny_model("llama")
    _check_blocks(_return_layers, PeftImitation(model), model.model.layers, "a model wrapped by PEFT")
    blocks = load_tiny_model("gemma3")[0].model.layers
    what = "an image model with its blocks in"
    _check_blocks(_return_layers, _seeing(blocks), blocks, f"{what} language_model.layers")
    _check_blocks(_return_layers, _Holder(model=_seeing(blocks)), blocks, f"{what} model.language_model.layers")
    for unknown in (UnknownArchitecture(embed=nn.Embedding(3, 4)), UnknownArchitecture(model=nn.Linear(2, 2))):
        _check_unknown(_return_layers, unknown)


def _check_blocks(function: Callable[[Any], Any], model: nn.Module, blocks: nn.ModuleList, what: str) -> None:
    try:
        found = function(model)
    except (AttributeError, ValueError, IndexError) as error:
        raise AssertionError(
            f"For {what}: expected its {len(blocks)} decoder blocks, found {type(error).__name__}: {error}. Try one "
            "path after another; get_base_model() unwraps PEFT."
        ) from error
    if found is blocks:
        return
    likely = f"found {type(found).__name__}"
    if isinstance(found, list | tuple | nn.ModuleList):
        members, wanted = list(found), list(blocks)
        if len(members) == len(wanted) and all(a is b for a, b in zip(members, wanted, strict=True)):
            likely = "found a copy of the list. Return the nn.ModuleList itself, without list(...)"
        elif len(members) != len(wanted):
            likely = f"found a list of {len(members)}: perhaps of another part of the model"
        elif set(map(id, members)) == set(map(id, wanted)):
            likely = "found the blocks in another order"
        else:
            likely = "found copies or other modules: a hook on a copied block never fires"
    raise AssertionError(f"For {what}: expected the model's own list of its {len(blocks)} decoder blocks, {likely}.")


def _check_unknown(function: Callable[[Any], Any], model: nn.Module) -> None:
    name = type(model).__name__
    try:
        found = function(model)
    except NotImplementedError:
        raise
    except ValueError as error:
        check(
            name in str(error),
            f"For a model without blocks: your ValueError says {str(error)!r}; expected it to name the model's class "
            f"({name}), so that one knows what was handed in. Use type(model).__name__.",
        )
        return
    except Exception as error:
        raise AssertionError(
            f"For a model without blocks: expected a ValueError that names its class ({name}), found "
            f"{type(error).__name__}: {error}. Raise it yourself when every path has failed."
        ) from error
    raise AssertionError(f"For a model without blocks: expected a ValueError, found {type(found).__name__} returned.")


@grader
def test_record_hidden_shapes(record_hidden_shapes: Callable[..., list[tuple[int, ...]]]) -> None:
    """The prefill's shape, then one token a pass, as the block really put them out; and no hook left."""
    for family in FAMILIES:
        for layer, arguments in ((0, {"max_new_tokens": 3}), (2, {})):
            _check_shapes(record_hidden_shapes, family, layer, arguments)
    _check_shapes(record_hidden_shapes, "llama", 1, {}, tuples=True)
    model, tok = load_tiny_model("llama")
    for from_pass, when in ((0, "in the prefill"), (2, "while decoding")):
        before = hooks(model)
        with failing(model, after=from_pass):
            attempt(partial(record_hidden_shapes, model, tok, "What is the sea?", 1))
        check_hooks(model, before, f"After an error {when}", _CURE)


def _check_shapes(
    function: Callable[..., Any], family: str, layer: int, arguments: dict[str, int], tuples: bool = False
) -> None:
    model, tok = load_tiny_model(family)
    model.generation_config.do_sample = True  # as many models' own configuration has it
    what = f"{family}, layer={layer}{', blocks that return tuples' if tuples else ''}"
    prompt, n_new = "What is the sea?", arguments.get("max_new_tokens", 5)
    widened = outputs_changed(model, layer, lambda h: F.pad(h, (0, 1)), lambda h: h[..., :-1])
    changed = returning_tuples(model, layer) if tuples else widened
    with bystander(model.model.layers[layer]):
        before = hooks(model)
        with observed(model, []) as passes, changed, running(what):
            found = function(model, tok, prompt, layer, **arguments)
        check_hooks(model, before, f"{what}: after a normal run", _CURE)
    seen = [p.ids for p in passes]
    check(seen, f"{what}: the model was never run. Call model.generate while your hook is on.")
    _check_generation(model, tok, [ids.tolist() for ids in seen], prompt, n_new, what)
    check(isinstance(found, list), f"{what}: expected a list of shapes, found {type(found).__name__}.")
    shapes = [tuple(s) if isinstance(s, list | tuple) else s for s in found]
    expected = [(*ids.shape, 32 if tuples else 33) for ids in seen]
    if shapes == expected:
        return
    likely = "Append one shape, as a tuple, in every call of the hook."
    if shapes == [s[1:] for s in expected]:
        likely = "You took output[0] of a plain tensor: that is batch element 0. Take it of a tuple only."
    elif shapes == [(*s[:2], 32) for s in expected]:
        likely = "You hooked another block: we made this block's output one wider than d_model to tell. Off by one?"
    elif shapes and shapes == expected[: len(shapes)]:
        likely = f"You recorded {len(shapes)} of {len(expected)} passes: keep the hook on until generation is over."
    raise AssertionError(f"{what}: wrong shapes.\n  expected {expected}\n  found    {shapes}\n  {likely}")


def _check_generation(model: Any, tok: Any, seen: list[list[list[int]]], prompt: str, n_new: int, what: str) -> None:
    first, *later = seen
    check(
        len(first) == 1 and prompt in tok.decode(first[0]),
        f"{what}: the first forward pass read {tok.decode(first[0])!r}; expected one row with the prompt {prompt!r}.",
    )
    check(
        all(len(ids[0]) == 1 for ids in later),
        f"{what}: the forward passes read {[len(ids[0]) for ids in seen]} tokens; expected the whole prompt once and "
        "then one token a pass. Is the cache switched off, or do you generate more than once?",
    )
    expected = greedy(model, first[0], n_new)
    fed = [ids[0][0] for ids in later]
    check(
        len(seen) == len(expected),
        f"{what}: {len(seen)} forward passes for max_new_tokens={n_new}; expected {len(expected)}: the prefill gives "
        "the first new token. Is max_new_tokens handed on?",
    )
    check(
        fed == expected[:-1],
        f"{what}: the tokens generated are {fed}, greedy decoding gives {expected[:-1]}. Pass do_sample=False: this "
        "model's generation_config says do_sample=True.",
    )
