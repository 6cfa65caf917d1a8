"""Observations on their way from the process that ran a learner's work to the one that judges them: data, no code."""

import contextlib
import dataclasses
import io
import sys
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import numpy.dtypes
import torch
from torch import Tensor
from torch.serialization import safe_globals

from graders.harness.cases import Case, Foreign

_EXACT: dict[type, Any] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: bytes.__bytes__,
    complex: lambda value: complex.__add__(value, 0j),
}
_NUMPY = [
    np.ndarray,
    np.dtype,
    np.zeros(1).__reduce__()[0],  # what makes arrays and scalars again
    np.float64(0).__reduce__()[0],
    *(kind for name, kind in vars(numpy.dtypes).items() if name.endswith("DType")),
]


_graders: dict[str, ModuleType] = {}  # kept by `set_aside`


def set_aside() -> None:
    """Take graders' modules away from `import` and `sys.modules`: what runs in this process from now on has none."""
    _graders.update({name: m for name, m in sys.modules.items() if name.partition(".")[0] == "graders"})
    for name in _graders:
        sys.modules.pop(name, None)


def dumps(seen: Any) -> bytes:
    """What `plain` has made of the work's results, as bytes.

    An `int` of a class of the learner's own becomes an int, and likewise other kinds: methods stay behind.

    Raises:
        ValueError: a value cannot be written so.
    """
    buffer = io.BytesIO()
    try:
        data = _exact(seen, {})
        with mock.patch.dict(sys.modules, _graders):  # records are written by the names of their classes
            torch.save(data, buffer)
    except Exception as error:  # whatever a learner's object does
        raise ValueError(f"what your work gave cannot be written down as data: {error}") from error
    return buffer.getvalue()


def loads(data: bytes) -> Any:
    """The observations in these bytes. Only data and the graders' own records are made; no code is run.

    Raises:
        ValueError: the bytes hold anything else.
    """
    try:
        with safe_globals([bytes, complex, frozenset, set, *_NUMPY, *_records()]):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # of zip files, pickles and constructors
        raise ValueError(f"what came from your process is no data: {str(error)[:200]}") from error


def _records() -> list[Any]:
    """Classes of records that graders observe."""
    modules = [module for name, module in (sys.modules | _graders).items() if name.startswith("graders.")]
    found = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    return [
        kind
        for kind in found - {Case}
        if kind.__module__.startswith("graders.") and (dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"))
    ]


def _exact(value: Any, seen: dict[int, Any]) -> Any:
    """The same with the very types of data, tensors without what else lies in their memory."""
    if value is None or type(value) in (bool, int, float, str, bytes, complex, torch.dtype, torch.device):
        return value
    if id(value) in seen:
        return seen[id(value)]
    if type(value) is dict:
        copied: dict[Any, Any] = {}
        seen[id(value)] = copied
        copied.update((_exact(k, seen), _exact(v, seen)) for k, v in value.items())
        return copied
    if type(value) is list:
        items: list[Any] = []
        seen[id(value)] = items
        items.extend(_exact(v, seen) for v in value)
        return items
    return _exact_other(value, seen)


def _exact_other(value: Any, seen: dict[int, Any]) -> Any:
    if isinstance(value, Tensor):
        return value.detach().as_subclass(Tensor).clone().requires_grad_(value.requires_grad)
    if isinstance(value, np.ndarray | np.generic):
        return Foreign("ndarray", f"{value!r:.500}") if value.dtype.hasobject else np.array(value)[()]
    if type(value) in (tuple, set, frozenset):
        return type(value)(_exact(v, seen) for v in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{k: _exact(v, seen) for k, v in vars(value).items()})
    if hasattr(value, "_fields"):
        return type(value)(*(_exact(v, seen) for v in value))
    for convert in _EXACT.values():
        with contextlib.suppress(TypeError):
            return convert(value)
    raise TypeError(f"a {type(value).__name__} is no data")
