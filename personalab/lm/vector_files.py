"""The command `convert`: steering vectors and capping configurations between this course and other programs.

    python -m personalab convert evil_response_avg_diff.pt evil.safetensors --model Qwen/Qwen2.5-7B-Instruct
    python -m personalab convert evil_response_avg_diff.pt evil.safetensors --trait evil --block 19  # ready to steer
    python -m personalab convert persona_vectors/vectors/evil.safetensors evil.gguf --scale 0.1
    python -m personalab convert capping_config.pt artifacts/a100/capping --model Qwen/Qwen3-32B

`personalab.records.conversion` says what each kind of file means by a row, a sign and a scale.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from transformers import AutoConfig, PretrainedConfig

from personalab.records.capping_files import read_capping, write_capping
from personalab.records.conversion import LayerVectors, Layout, Rows, Shape, read_foreign, write_foreign
from personalab.records.schema import DataError
from personalab.tiers import EMBEDDED_MODEL, TRAIT_ORGANISM

_BY_SUFFIX: dict[str, Layout] = {".safetensors": "ours", ".gguf": "gguf"}


def convert(
    file: Path | str,
    out: Path | str,
    model: str | None = None,
    *,
    rows: Rows | None = None,
    layout: Layout | None = None,
    scale: float = 1.0,
    trait: str | None = None,
    block: int | None = None,
) -> list[str]:
    """Read vectors or a capping configuration, check them against a model, write them; returns lines to show.

    Args:
        file: `.safetensors`, `.pt`, `.gguf`, or a folder with a capping configuration.
        out: in whose suffix the layout shows; a folder for a capping configuration of ours.
        model: id or folder of the model that they are for; its config is read, not its weights.
        rows: of a `.pt`, where nothing else tells (`read_foreign`).
        layout: of a `.pt` that is written: "persona_vectors", "axis" or "role".
        scale: what vectors are multiplied by. Another program's strength of 1 adds a vector as it is.
        trait, block: whose the vectors are, and where they are read and act: what `monitor`, `steer` and `screen` ask
            for. A layer `k` of persona_vectors is block `k - 1`.

    Raises:
        DataError: for what cannot be read, does not fit the model, or has no layout, or a block that is not there.
        ValueError: for a model that cannot be found.
    """
    file, out = Path(file), Path(out)
    if out.resolve() == file.resolve():
        raise DataError(f"OUT is the same file as FILE, {file}: name another.")
    if file.is_dir() or (file.suffix == ".pt" and not out.suffix):
        if trait is not None or block is not None:
            raise DataError("--trait and --block are for vectors: caps name their own blocks.")
        return _convert_capping(file, out, model, scale)
    layout = layout or _BY_SUFFIX.get(out.suffix)
    if layout is None or (out.suffix in _BY_SUFFIX and _BY_SUFFIX[out.suffix] != layout):
        raise DataError(
            f"{out}: vectors are written to .safetensors, .gguf, or to .pt with --as persona_vectors, axis or role."
        )
    shape = None if model is None else model_shape(model)
    found = read_foreign(file, rows, shape)
    if scale != 1:
        found = _scaled(found, scale)
    found = _told(found, trait, block)
    notes = write_foreign(out, found, layout, model_type=_model_type(found.metadata["model"]))
    return [f"{out}: {_described(found)}", *(f"  {note}" for note in notes)]


def _convert_capping(file: Path, out: Path, model: str | None, scale: float) -> list[str]:
    config = read_capping(file)
    if scale != 1:
        raise DataError("--scale is for vectors: a cap belongs to its vector's length.")
    if model is not None:
        shape = model_shape(model)
        for name, entry in config["vectors"].items():
            if len(entry["vector"]) != shape.d_model or not 0 <= entry["layer"] < shape.n_blocks:
                raise DataError(
                    f"{file} is not for {model}: vector {name!r} is {len(entry['vector'])} wide, at block "
                    f"{entry['layer']}; the model has {shape.n_blocks} blocks, {shape.d_model} wide."
                )
    write_capping(out, config, model=model or config.get("model", "unknown"), seed=config.get("seed", "unknown"))
    n_vectors, n_experiments = len(config["vectors"]), len(config["experiments"])
    return [f"{out}: {n_vectors} vectors, {n_experiments} experiments; caps are ceilings, layers are blocks"]


def _scaled(found: LayerVectors, scale: float) -> LayerVectors:
    before = float(found.metadata.get("scale", 1))
    embedding = None if found.embedding is None else found.embedding * scale
    metadata = found.metadata | {"scale": f"{before * scale:g}"}
    return replace(found, vectors=found.vectors * scale, embedding=embedding, metadata=metadata)


def _told(found: LayerVectors, trait: str | None, block: int | None) -> LayerVectors:
    """The vectors, and in their metadata what a user knows of them."""
    if block is not None and not 0 <= block < len(found.vectors):
        raise DataError(f"--block {block} does not exist: there are vectors of blocks 0 to {len(found.vectors) - 1}.")
    known = {"trait": trait, "block": None if block is None else str(block)}
    return replace(found, metadata=found.metadata | {name: value for name, value in known.items() if value is not None})


def _described(found: LayerVectors) -> str:
    norms = found.vectors.float().norm(dim=1)
    used = norms.nonzero().flatten().tolist()
    where = f"blocks {used[0]} to {used[-1]}" if used else "no block"
    said = f"{where} of {len(norms)}, {found.vectors.shape[1]} wide, norms {norms.min():.3g} to {norms.max():.3g}"
    return f"{said}, model {found.metadata['model']}"


def model_shape(model: str) -> Shape:
    """Blocks and width of a model, from its config.

    Raises:
        ValueError: if there is no such model here or on the hub.
    """
    config = _config(model).get_text_config()
    return Shape(model, config.num_hidden_layers, config.hidden_size)


def _model_type(model: str) -> str:
    """What transformers calls its architecture, if that is known here; else another program's own hint."""
    if model.startswith("unknown"):
        return model.removeprefix("unknown (").removesuffix(")")
    try:
        return _config(model, local=True).model_type
    except ValueError:
        return "unknown"


def _config(model: str, local: bool = False) -> PretrainedConfig:
    name = model
    if model in (EMBEDDED_MODEL, TRAIT_ORGANISM):
        from personalab.setup.weights import LANGUAGE_MODEL

        name = str(LANGUAGE_MODEL.folder if local else LANGUAGE_MODEL.ensure())
    try:
        return AutoConfig.from_pretrained(name, local_files_only=local)
    except (OSError, ValueError) as error:
        line = str(error).partition("\n")[0]
        raise ValueError(f"No config of {model} can be read ({line}): name a model of the hub, or a folder.") from None


def make(
    file: Path,
    out: Path,
    model: str | None = None,
    rows: Rows | None = None,
    layout: Layout | None = None,
    scale: float = 1.0,
    trait: str | None = None,
    block: int | None = None,
) -> None:
    """Convert, and say what was written."""
    lines = convert(file, out, model, rows=rows, layout=layout, scale=scale, trait=trait, block=block)
    print(*lines, sep="\n")
