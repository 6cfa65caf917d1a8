import copy
from operator import attrgetter

from torch import nn

from checks.bank import right, wrong

PATHS = ("model.layers", "model.language_model.layers", "language_model.layers")


def unwrapped(model):
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def at(model, path):
    for name in path.split("."):
        model = getattr(model, name, None)
    return model


def first_found(model, paths=PATHS):
    return next((found for p in paths if isinstance(found := at(model, p), nn.ModuleList)), None)


def or_error(model, found):
    if found is None:
        raise ValueError(f"Cannot find the blocks of {type(model).__name__}")
    return found


@right
def paths_in_turn(model):
    model = unwrapped(model)
    return or_error(model, first_found(model))


@right
def if_by_if(model):
    """As one writes it for the cases one knows."""
    base = model.base_model.model if hasattr(model, "get_base_model") else model
    inner = base.model if hasattr(base, "model") else base
    if hasattr(inner, "language_model"):
        inner = inner.language_model
    if hasattr(inner, "layers"):
        return inner.layers
    raise ValueError("unsupported model: " + base.__class__.__name__)


@right
def by_name(model):
    """Looks for the one list of modules called `layers` that is no tower's."""
    for name, module in unwrapped(model).named_modules():
        if isinstance(module, nn.ModuleList) and name.endswith("layers") and "vision" not in name:
            return module
    raise ValueError(f"no blocks in {type(unwrapped(model))}")


@wrong("copy of the list")
def python_list(model):
    return list(paths_in_turn(model))


@wrong("copied block never fires")
def deep_copy(model):
    return copy.deepcopy(paths_in_turn(model))


@wrong("another order")
def reversed_blocks(model):
    return nn.ModuleList(reversed(paths_in_turn(model)))


@wrong("PEFT.*found ValueError")
def no_peft(model):
    return or_error(model, at(model, "model.layers") if type(model).__name__ != "PeftImitation" else None)


@wrong("image model.*found ValueError")
def no_image_wrapper(model):
    model = unwrapped(model)
    return or_error(model, first_found(model, PATHS[:1]))


@wrong("in language_model.layers.*found ValueError")
def one_level_only(model):
    model = unwrapped(model)
    return or_error(model, first_found(model, PATHS[:2]))


@wrong("another part of the model")
def first_list_anywhere(model):
    lists = [m for m in unwrapped(model).modules() if isinstance(m, nn.ModuleList)]
    return or_error(model, lists[0] if lists else None)


@wrong("image model.*found AttributeError")
def no_fallback(model):
    return unwrapped(model).model.layers


@wrong("ValueError.*found AttributeError")
def no_clear_error(model):
    model = unwrapped(model)
    found = first_found(model)
    return model.transformer.h if found is None else found


@wrong("expected a ValueError, found NoneType")
def returns_none(model):
    return first_found(unwrapped(model))


@wrong("name the model's class")
def nameless_error(model):
    found = first_found(unwrapped(model))
    if found is None:
        raise ValueError("Unknown model.")
    return found


@right
def submodules(model):
    """By dotted names among all modules of the unwrapped model."""
    base = unwrapped(model)
    modules = dict(base.named_modules())
    for path in (*PATHS, "language_model.model.layers"):
        if path in modules:
            return modules[path]
    raise ValueError(f"Don't know where {base.__class__.__qualname__} keeps its blocks.")


@right
def longest_name_match(model):
    """Every list called `layers`, towers left out by their names, the shallowest first."""
    base = unwrapped(model)
    found = [
        (name.count("."), name)
        for name, module in base.named_modules()
        if isinstance(module, nn.ModuleList) and name.split(".")[-1] == "layers" and "tower" not in name
    ]
    if not found:
        raise ValueError(type(base).__name__ + " has no decoder blocks that I know of")
    return base.get_submodule(min(found)[1])


@wrong("expected a ValueError that names its class.*found AttributeError")
def arena_style(model):
    """The card asks for a ValueError."""
    model = unwrapped(model)
    for attr_path in PATHS:
        try:
            return attrgetter(attr_path)(model)
        except AttributeError:
            continue
    raise AttributeError(f"Could not find transformer layers on {type(model).__name__}")


@wrong("found a list of 1")
def wrapped_in_a_list(model):
    return [paths_in_turn(model)]


@wrong("perhaps of another part of the model|found a list of")
def all_but_the_last(model):
    return paths_in_turn(model)[:-1]


@wrong("found ModuleDict|found .*Dict")
def by_number(model):
    return nn.ModuleDict({str(i): block for i, block in enumerate(paths_in_turn(model))})


@wrong("copy of the list")
def sliced(model):
    return paths_in_turn(model)[:]


@wrong("found generator")
def a_generator(model):
    return (block for block in paths_in_turn(model))


@wrong("found LlamaModel|found .*Model")
def the_model_around_them(model):
    paths_in_turn(model)
    return unwrapped(model).model


@wrong("name the model's class")
def names_the_wrapper_only(model):
    try:
        return paths_in_turn(model)
    except ValueError:
        raise ValueError(f"no blocks in {nn.Module.__name__}") from None
