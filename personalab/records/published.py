"""Trait vectors and the axis that upstream published for Gemma 2 27B: one `.pt` a trait, a tensor `(blocks, d)`."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from jaxtyping import Float
from torch import Tensor

from personalab.records.schema import DataError
from personalab.records.torch_files import load_pt

REPOSITORY = "lu-christina/assistant-axis-vectors"  # a dataset on the Hugging Face hub
MODEL = "gemma-2-27b"
BLOCK = 22  # the paper's for this model


def load_published_traits(
    folder: Path | str | None = None, block: int = BLOCK
) -> tuple[dict[str, Float[Tensor, "d"]], Float[Tensor, "d"]]:
    """The published trait vectors after one block, by name, and the published Assistant Axis there; float32.

    Args:
        folder: holds `trait_vectors/*.pt` and `assistant_axis.pt` (default: fetched from the hub, once).
        block: the block whose output is taken.

    Raises:
        DataError: without a network, or if a file is missing or is no tensor with that block.
    """
    folder = Path(folder) if folder is not None else _fetch()
    files = sorted((folder / "trait_vectors").glob("*.pt"))
    if not files:
        raise DataError(f"{folder / 'trait_vectors'} holds no .pt files: is the folder right?")
    axis = _read(folder / "assistant_axis.pt", block)
    traits = {file.stem: _read(file, block) for file in files}
    if bad := [name for name, vector in traits.items() if vector.shape != axis.shape]:
        raise DataError(f"{folder}: trait {bad[0]!r} has another width than the axis, {len(traits[bad[0]])}.")
    return traits, axis


def _fetch() -> Path:
    patterns = [f"{MODEL}/trait_vectors/*.pt", f"{MODEL}/assistant_axis.pt"]
    try:
        return Path(snapshot_download(REPOSITORY, repo_type="dataset", allow_patterns=patterns)) / MODEL
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(
            f"The dataset {REPOSITORY} is neither here nor within reach ({type(error).__name__}): connect once, or "
            f"download its folder {MODEL}/ elsewhere and pass it as `folder`."
        ) from error


def _read(path: Path, block: int) -> Float[Tensor, "d"]:
    if not path.exists():
        raise DataError(f"{path} is missing: download the dataset {REPOSITORY} again.")
    tensor = load_pt(path)
    if not isinstance(tensor, Tensor) or tensor.ndim != 2 or not 0 <= block < len(tensor):
        raise DataError(f"{path} must hold a tensor (blocks, d) with a block {block}.")
    return tensor[block].float()
