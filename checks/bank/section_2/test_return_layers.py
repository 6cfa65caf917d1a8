import copy

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
