"""Steering vectors in other programs' files, read into ours and written from it.

What row or name `k` is, and where the vector points:

- ours, `.safetensors`: `vectors` (L, d), the output of block k; towards the trait, or towards the Assistant
- persona_vectors, `.pt`: (L + 1, d), `hidden_states[k]`, so block k - 1, and row 0 is the embedding; towards the trait
- assistant-axis, `.pt`: (L, d), or a dict with that as "vector", block k; an axis is default minus roles
- repeng and llama.cpp, `.gguf`: tensors `direction.k`, block k, never 0; towards the positive prompts

Nothing is flipped, and nothing rescaled unless you ask. The last row of persona_vectors was read behind the final norm,
where transformers' `hidden_states` end: it is kept, but is not what the last block puts out.
"""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from personalab.files import write
from personalab.records.schema import DataError
from personalab.records.torch_files import load_pt
from personalab.records.vectors import load_vectors, save_vectors

Rows = Literal["blocks", "hidden_states"]
Layout = Literal["ours", "persona_vectors", "axis", "role", "gguf"]
_HIDDEN_STATES = ("_response_avg_diff", "_prompt_avg_diff", "_prompt_last_diff")  # how persona_vectors names its files
_GGUF = "controlvector"
_OWN = "personalab."  # GGUF keys that carry our metadata; other programs pass them by


@dataclass(frozen=True)
class LayerVectors:
    """Vectors of one trait, role or axis, one for every block's output; a block without one has zeros.

    Attributes:
        embedding: persona_vectors' row 0, where there is one.
        metadata: `model`, `convention`, `seed`, and what else is known.
    """

    vectors: Float[Tensor, "L d"]
    metadata: dict[str, str]
    embedding: Float[Tensor, "d"] | None = field(default=None)


@dataclass(frozen=True)
class Shape:
    """Of the model that vectors are for."""

    model: str
    n_blocks: int
    d_model: int


def read_foreign(path: Path | str, rows: Rows | None = None, shape: Shape | None = None) -> LayerVectors:
    """Vectors from one of the files above, by its suffix.

    Args:
        rows: what the rows of a `.pt` are, where neither its name nor the model's number of blocks tells.
        shape: of the model; refused if the vectors do not fit it.

    Raises:
        DataError: for a file that is missing, damaged or none of these, vectors that are not finite or do not fit, or
            rows of which nothing says what they are.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        found = _read_ours(path)
    elif path.suffix == ".gguf":
        found = _read_gguf(path, shape)
    elif path.suffix in (".pt", ".pth"):
        found = _read_pt(path, rows, shape)
    else:
        raise DataError(f"{path}: vectors are read from .safetensors, .pt and .gguf files.")
    if not torch.isfinite(found.vectors).all():
        raise DataError(f"{path} holds NaN or infinity.")
    if shape is None:
        return found
    if found.vectors.shape != (shape.n_blocks, shape.d_model):
        here, there = ("{} blocks, {} wide".format(*s) for s in (found.vectors.shape, (shape.n_blocks, shape.d_model)))
        raise DataError(f"{path} is not for {shape.model}: it has {here}; the model has {there}.")
    return replace(found, metadata=found.metadata | {"model": shape.model})


def _read_ours(path: Path) -> LayerVectors:
    try:
        tensors, metadata = load_vectors(path)
    except (FileNotFoundError, ValueError) as error:
        raise DataError(str(error)) from None
    vectors = tensors.get("vectors")
    if vectors is None or vectors.ndim != 2:
        raise DataError(f"{path} has no 'vectors' (blocks, d), one row a block; it holds {', '.join(tensors)}.")
    return LayerVectors(vectors, metadata, tensors.get("embedding"))


def _read_pt(path: Path, rows: Rows | None, shape: Shape | None) -> LayerVectors:
    content, said = load_pt(path), {}
    if isinstance(content, dict) and isinstance(content.get("vector"), Tensor):
        said = {k: str(content[k]) for k in ("type", "role", "trait") if k in content}
        content, rows = content["vector"], rows or "blocks"
    if not isinstance(content, Tensor) or content.ndim != 2 or not content.is_floating_point():
        raise DataError(f"{path} must hold a tensor (layers, d), or a dict with one as 'vector'.")
    rows = rows or _rows_of(path, len(content), shape)
    known = {"model": "unknown", "seed": "unknown", "convention": "row = block", "source": path.name, **said}
    if rows == "blocks":
        return LayerVectors(content, known)
    known["last_row"] = "behind the final norm"
    return LayerVectors(content[1:], known, content[0])


def _rows_of(path: Path, n: int, shape: Shape | None) -> Rows:
    if shape is not None and n in (shape.n_blocks, shape.n_blocks + 1):
        return "blocks" if n == shape.n_blocks else "hidden_states"
    if path.stem.endswith(_HIDDEN_STATES):
        return "hidden_states"
    if path.stem.endswith("axis") or path.parent.name in ("trait_vectors", "role_vectors"):  # as upstream publishes
        return "blocks"
    raise DataError(
        f"{path} has {n} rows, and nothing says whether row k is block k (assistant-axis) or hidden_states[k] "
        "(persona_vectors): add --rows blocks or --rows hidden_states, or name the model with --model."
    )


def _read_gguf(path: Path, shape: Shape | None) -> LayerVectors:
    from gguf import GGUFReader

    if not path.exists():
        raise DataError(f"{path} does not exist.")
    try:
        reader = GGUFReader(path)
        said = {name: f.contents() for name, f in reader.fields.items() if not name.startswith("GGUF.")}
        rows = {t.name: torch.from_numpy(np.array(t.data)) for t in reader.tensors}
    except (ValueError, IndexError, KeyError, OSError, OverflowError) as error:
        raise DataError(f"{path} is no readable GGUF file ({error}).") from None
    if said.get("general.architecture") != _GGUF:
        raise DataError(f"{path} is no control vector: its architecture is {said.get('general.architecture')!r}.")
    blocks = {_block_of(name, path): row for name, row in rows.items() if name.startswith("direction.")}
    widths = {tuple(row.shape) for row in blocks.values()}
    if len(widths) != 1 or len(next(iter(widths))) != 1 or any(r.dtype != torch.float32 for r in blocks.values()):
        raise DataError(f"{path} must hold tensors direction.1, direction.2, … in float32, all of one width.")
    (width,) = widths.pop()
    last = max(blocks) + 1
    own = {name.removeprefix(_OWN): str(value) for name, value in said.items() if name.startswith(_OWN)}
    n_blocks = max(last, int(own.pop("n_blocks", last)), shape.n_blocks if shape else 0)
    vectors = torch.zeros(n_blocks, width)
    for block, row in blocks.items():
        vectors[block] = row
    hint = f"unknown ({said.get(f'{_GGUF}.model_hint', 'no hint')})"
    known = {"model": hint, "seed": "unknown", "convention": "row = block", "source": path.name}
    return LayerVectors(vectors, known | own)


def _block_of(name: str, path: Path) -> int:
    number = name.partition(".")[2]
    if not number.isdecimal():
        raise DataError(f"{path}: tensor {name!r} names no block.")
    return int(number)


def write_foreign(path: Path | str, found: LayerVectors, layout: Layout, *, model_type: str = "unknown") -> list[str]:
    """Write vectors in one of the layouts; returns what a reader should know of what the layout cannot hold.

    Args:
        model_type: for `gguf`, the architecture as transformers names it, which other programs show.

    Raises:
        DataError: if a layout of one role is asked for what has no role.
    """
    path = Path(path)
    if layout == "ours":
        extra = {} if found.embedding is None else {"embedding": found.embedding}
        metadata: dict[str, Any] = dict(found.metadata)
        save_vectors(path, {"vectors": found.vectors, **extra}, **metadata)
        return []
    if layout == "gguf":
        return _write_gguf(path, found, model_type)
    notes, content = [], found.vectors.detach().cpu().clone()
    if layout == "persona_vectors":
        first = torch.zeros_like(content[0]) if found.embedding is None else found.embedding.to(content)
        notes = ["row 0, the embedding's, is zero"] if found.embedding is None else []
        if "last_row" not in found.metadata:
            notes.append("the last row is the last block's output, where persona_vectors has it behind the final norm")
        content = torch.cat([first[None], content])
    buffer = io.BytesIO()
    torch.save(_as_role(path, content, found.metadata) if layout == "role" else content, buffer)
    write(path, buffer.getvalue())
    return notes


def _as_role(path: Path, vectors: Tensor, metadata: dict[str, str]) -> dict[str, Any]:
    """What assistant-axis' pipeline keeps of a role: (L, d) with its name and what it was averaged over."""
    role = metadata.get("role", metadata.get("trait"))
    if role is None:
        raise DataError(f"{path}: --as role needs vectors whose metadata names a role or trait.")
    return {"vector": vectors, "type": metadata.get("type", "pos_3"), "role": role}


def _write_gguf(path: Path, found: LayerVectors, model_type: str) -> list[str]:
    from gguf import GGUFWriter

    rows = {k: row.float().cpu().numpy() for k, row in enumerate(found.vectors) if k and row.any()}
    if not rows:
        raise DataError(f"{path}: there is no vector behind block 0, and GGUF control vectors begin at block 1.")
    with tempfile.TemporaryDirectory(prefix="gguf-") as scratch:
        draft = Path(scratch, "draft.gguf")
        writer = GGUFWriter(draft, _GGUF)
        writer.add_string(f"{_GGUF}.model_hint", model_type)
        writer.add_uint32(f"{_GGUF}.layer_count", len(rows))
        for name, value in {**found.metadata, "n_blocks": str(len(found.vectors))}.items():
            writer.add_string(_OWN + name, value)
        for block, row in rows.items():
            writer.add_tensor(f"direction.{block}", row)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        write(path, draft.read_bytes())
    left_out = {"block 0 is left out: llama.cpp has no direction.0": bool(found.vectors[0].any())}
    left_out["the embedding's row is left out"] = found.embedding is not None
    return [note for note, applies in left_out.items() if applies]
