"""PyTorch's own files, read without running anything: tensors, numbers, text and containers of them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from personalab.files import check_whole
from personalab.records.schema import DataError

# numpy's numbers and arrays, under the names of numpy 1 and 2: upstream's caps are numpy numbers. No objects in them.
_DTYPES: list[Any] = [np.dtypes.Float16DType, np.dtypes.Float32DType, np.dtypes.Float64DType]
_DTYPES += [np.dtypes.Int32DType, np.dtypes.Int64DType, np.dtypes.BoolDType]
_REBUILD = {"scalar": np.float64(0).__reduce__()[0], "_reconstruct": np.zeros(1).__reduce__()[0]}
_NUMPY: list[Any] = [np.ndarray, np.dtype, *_DTYPES]
_NUMPY += [(f, f"numpy.{core}.multiarray.{name}") for name, f in _REBUILD.items() for core in ("core", "_core")]


def load_pt(path: Path | str) -> Any:
    """What a `.pt` file holds, on the CPU, numpy's arrays as tensors and its numbers as Python's.

    Raises:
        DataError: if there is no such file, if it is damaged, or if it holds code, which is never run.
    """
    path = Path(path)
    try:
        check_whole(path)
        with torch.serialization.safe_globals(_NUMPY):
            return _plain(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "weights_only" in str(error):
            raise DataError(
                f"{path} is no plain tensor file: it holds code, or objects of a program's own, which are not loaded. "
                "Ask for a file of tensors, or load it with that program and save the tensors alone."
            ) from None
        raise DataError(f"{path} is no PyTorch file ({error}): get it again.") from None
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as a PyTorch file ({error}): get it again.") from None


def _plain(content: Any) -> Any:
    if isinstance(content, np.generic):
        return content.item()
    if isinstance(content, np.ndarray):
        return torch.from_numpy(content.copy())
    if isinstance(content, Mapping):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(map(_plain, content))
    return content.detach() if isinstance(content, Tensor) else content
