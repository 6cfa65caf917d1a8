"""What a submission must not do in its own process, noticed: replacing what is provided, reaching for the grader.

Verdicts do not depend on it, since they are made elsewhere. It keeps honest what is observed, and names the attempt.
"""

import builtins
import copy
import importlib.abc
import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import torch

CELL = "<cell "  # what the file names of a submission's cells begin with
_LIBRARIES = ["math", "random", "json", "re", "os", "numpy", "torch.nn.functional", "torch.linalg", "einops", "pandas"]
_REACHING = {
    "gc.get_objects",
    "gc.get_referrers",
    "gc.get_referents",
    "sys._getframe",
    "sys._current_frames",
    "sys.setprofile",
    "sys.settrace",
    "ctypes.dlopen",
    "ctypes.dlsym",
    "ctypes.call_function",
}
_FRAMES = {"gi_frame", "tb_frame", "cr_frame", "ag_frame"}
_NETWORK = {"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"}
_EVENTS = _REACHING | _NETWORK | {"object.__getattr__"}
_INSPECT = inspect.getfile(inspect)  # a go-between: who calls it counts
_COURSE = str(Path(__file__).resolve().parents[2])
_INSTALLED = (*(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")), _COURSE)


class Reached(RuntimeError):
    """A submission reached for something that is none of its business."""


class Stub(ModuleType):
    """In place of `tests`: each grader's call in a submission does nothing, since the release's are made instead."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


class Watch:
    """What is provided, as it was before any cell ran; call `install` in the process that runs a submission.

    Args:
        modules: the course's and the graders' own; common libraries are watched as well.
        note: called with what a submission did, at once.
    """

    def __init__(self, modules: Sequence[ModuleType], note: Callable[[str], None]) -> None:
        libraries = [sys.modules[name] for name in _LIBRARIES if name in sys.modules]
        self._owners: list[Any] = [builtins, copy, torch, torch.Tensor, torch.nn.Module, *libraries, *modules]
        self._before = [dict(vars(owner)) for owner in self._owners]
        modules = [owner for owner in self._owners if isinstance(owner, ModuleType)]
        self._imported = {m.__name__: m for m in modules if sys.modules.get(m.__name__) is m}
        self._note, self._busy = note, False

    def install(self) -> None:
        """From now on, for good: Python has no way to take an audit hook out again."""
        sys.addaudithook(self._audit)
        sys.meta_path.insert(0, _OutOfReach())

    def replaced(self, namespace: dict[str, Any]) -> str:
        """The first thing provided that is another one now, as a sentence; "" if there is none."""
        for name, module in self._imported.items():
            if sys.modules.get(name) is not module:
                return f"replaces the module {name}"
        if not isinstance(namespace.get("tests", sys.modules["tests"]), Stub) or _stub_changed():
            return "replaces tests"
        for owner, before in zip(self._owners, self._before, strict=True):
            now = vars(owner)
            for name, value in before.items():
                if callable(value) and not name.startswith("__warning") and now.get(name) is not value:
                    return f"replaces {owner.__name__}.{name}"
        return ""

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if self._busy or event not in _EVENTS:
            return
        self._busy = True
        try:
            if event in _NETWORK:
                raise PermissionError("There is no network while work is graded.")
            what = args[1] if event == "object.__getattr__" else event
            if what in _REACHING | _FRAMES and _of_a_submission(sys._getframe(1)):
                self._note(f"reaches for {what}")
                raise Reached(f"{what} is out of reach while work is graded.")
        finally:
            self._busy = False


class _OutOfReach(importlib.abc.MetaPathFinder):
    """Says why graders cannot be imported."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "graders":
            raise ModuleNotFoundError(f"{name} is out of reach while work is graded.", name=name)


def _stub_changed() -> bool:
    return any(not name.startswith("__") for name in vars(sys.modules["tests"]))


def _callers(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        yield frame.f_code.co_filename
        frame = frame.f_back


def _of_a_submission(frame: FrameType | None) -> bool:
    """Whether the nearest code, `inspect` apart, is a cell's, or was made from a string under whatever name."""
    file = next((f for f in _callers(frame) if f not in (_INSPECT, __file__)), "")
    return file.startswith(CELL) or file == "<string>" or not file.startswith(("<", *_INSTALLED))
