"""Section 2, finding the decoder blocks."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn

from graders.harness import Case, Raised, check, grader, kind_of
from graders.harness.cases import attempted
from personalab.lm.tiny import FAMILIES, load_tiny_model


class _Holder(nn.Module):
    """A module with the given children."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


class _Wrapper(_Holder):
    """Unknown attributes come from the one child."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(next(iter(self._modules.values()), None), name)


class PeftImitation(_Wrapper):
    """What PEFT's wrapper looks like: base_model.model is the model itself, and unknown attributes come from inside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(base_model=_Wrapper(model=model))

    def get_base_model(self) -> nn.Module:
        return self.base_model.model


class UnknownArchitecture(_Holder):
    """A model without decoder blocks."""


def _seeing(blocks: nn.ModuleList) -> _Holder:
    """A text model beside an image tower, which has blocks of its own, and more of them."""
    tower = nn.ModuleList(nn.Linear(2, 2) for _ in range(len(blocks) + 2))
    return _Holder(vision_tower=_Holder(encoder=_Holder(layers=tower)), language_model=_Holder(layers=blocks))


@grader
def test_return_layers() -> Iterator[Case]:
    """The live list, for plain models, image wrappers and PEFT; an error that names the class for anything else."""
    for family in FAMILIES:
        model, _ = load_tiny_model(family)
        yield _blocks(f"a plain model ({family})", model, model.model.layers)
    model, _ = load_tiny_model("llama")
    yield _blocks("a model wrapped by PEFT", PeftImitation(model), model.model.layers)
    blocks = load_tiny_model("gemma3")[0].model.layers
    what = "an image model with its blocks in"
    yield _blocks(f"{what} language_model.layers", _seeing(blocks), blocks)
    yield _blocks(f"{what} model.language_model.layers", _Holder(model=_seeing(blocks)), blocks)
    for unknown in (UnknownArchitecture(embed=nn.Embedding(3, 4)), UnknownArchitecture(model=nn.Linear(2, 2))):
        observe = partial(attempted, partial(lambda model, work: work(model), unknown))
        yield Case("For a model without blocks", observe, _check_error)


def _blocks(what: str, model: nn.Module, blocks: nn.ModuleList) -> Case:
    hint = f"Try one path after another to its {len(blocks)} decoder blocks; get_base_model() unwraps PEFT."

    def observe(work: Any) -> str:
        """What came, in words; "" for the list itself."""
        found = work(model)
        return "" if found is blocks else _described(found, list(blocks))

    def judge(found: str) -> None:
        check(not found, f"expected the model's own list of its {len(blocks)} decoder blocks, {found}.")

    return Case(f"For {what}", observe, judge, hint)


def _described(found: Any, wanted: list[nn.Module]) -> str:
    if not isinstance(found, list | tuple | nn.ModuleList):
        return f"found {type(found).__name__}"
    members, ids = [id(block) for block in found], [id(block) for block in wanted]
    if members == ids:
        return "found a copy of the list. Return the nn.ModuleList itself, without list(...)"
    if len(members) != len(ids):
        return f"found a list of {len(members)}: perhaps of another part of the model"
    if set(members) == set(ids):
        return "found the blocks in another order"
    return "found copies or other modules: a hook on a copied block never fires"


def _check_error(found: Any) -> None:
    name = UnknownArchitecture.__name__
    check(isinstance(found, Raised), f"expected a ValueError, found {kind_of(found)} returned.")
    check(
        "ValueError" in found.kinds,
        f"expected a ValueError that names its class ({name}), found {found}. Raise it yourself when every path has "
        "failed.",
    )
    check(
        name in found.text,
        f"your ValueError says {found.text!r}; expected it to name the model's class ({name}), so that one knows what "
        "was handed in. Use type(model).__name__.",
    )
