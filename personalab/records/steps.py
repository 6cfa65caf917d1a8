"""A pipeline's steps on disk: each is made once, then read, and a kill at any moment costs at most one step.

A file under its final name is always whole (`personalab.files`). One that is not whole all the same (another program's,
a damaged disk) is made again, never used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from personalab import tiers
from personalab.files import write
from personalab.paths import artifacts_dir

_ALONE = "__alone__"  # the name under which a tensor without a name is stored
_redirected: list[Path] = []  # the innermost last; for all threads, so no context variable


def steps_dir(name: str) -> Path:
    """Folder for the steps of one pipeline run, `artifacts/<tier>/steps/<name>`, created on demand."""
    root = _redirected[-1] if _redirected else artifacts_dir(tiers.current_tier().folder) / "steps"
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def steps_in(folder: Path) -> Iterator[None]:
    """While open, `steps_dir` lies under `folder`: a grader leaves nothing among a learner's results."""
    _redirected.append(folder)
    try:
        yield
    finally:
        _redirected.pop()


def load_or_generate(
    path: Path | str, generate_fn: Callable[[], Any], description: str, *, override: bool = False
) -> Any:
    """What `path` holds, or else what `generate_fn()` returns, after writing it there.

    Both ways you get the file's content as it reads back, so a first run sees what later ones see: in JSON, tuples
    become lists and keys become strings; tensors are on the CPU. The file does not know what it was made from: after
    a change of model, data or settings, use another path or `override=True`.

    Args:
        path: ends in `.json`, or in `.safetensors` for a tensor or a dict of tensors by name.
        generate_fn: called without arguments, only if the content has to be made.
        description: what it is, for the line that is printed.
        override: make it again, whatever is there. If that fails, the old file stays.

    Raises:
        ValueError: for another suffix, or content with NaN or infinity, which a cache would keep for ever.
        TypeError: for content that the format cannot hold.
    """
    path = Path(path)
    if path.suffix not in _FORMATS:
        raise ValueError(f"{path.name}: load_or_generate stores .json and .safetensors, not {path.suffix!r}.")
    pack, unpack = _FORMATS[path.suffix]
    if not override and path.exists():
        try:
            content = unpack(path.read_bytes())
        except (ValueError, RecursionError, SafetensorError) as error:
            print(f"{description}: {path.name} cannot be read ({type(error).__name__}), so it is made again")
        else:
            print(f"{description}: read from {path.name}")
            return content
    data = pack(generate_fn(), path.name)
    write(path, data)
    print(f"{description}: made and written to {path.name}")
    return unpack(data)


def _pack_json(content: Any, name: str) -> bytes:
    try:
        return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")
    except ValueError as error:
        raise ValueError(f"{name}: {error}. Store a missing value as None.") from error
    except TypeError as error:
        raise TypeError(f"{name}: {error}. Tensors go into a .safetensors file.") from error


def _pack_tensors(content: Any, name: str) -> bytes:
    tensors = {_ALONE: content} if isinstance(content, Tensor) else content
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise TypeError(
            f"{name}: a .safetensors file holds a tensor or a dict of tensors, not {type(content).__name__}."
        )
    if bad := [key for key, t in tensors.items() if not torch.isfinite(t).all()]:
        raise ValueError(f"{name}: {bad} hold NaN or infinity. Is a mean taken over nothing?")
    return safetensors.torch.save({key: t.detach().cpu().contiguous().clone() for key, t in tensors.items()})


def _unpack_json(data: bytes) -> Any:
    return json.loads(data.decode("utf-8-sig"))


def _unpack_tensors(data: bytes) -> Any:
    tensors = safetensors.torch.load(data)
    return tensors[_ALONE] if list(tensors) == [_ALONE] else tensors


_FORMATS = {".json": (_pack_json, _unpack_json), ".safetensors": (_pack_tensors, _unpack_tensors)}
