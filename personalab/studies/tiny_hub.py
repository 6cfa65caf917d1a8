"""A folder that stands in for the Hugging Face hub, and one for what earlier commands leave: tiny, random, offline.

Models have the class, context, attention and chat template of those of the same name, a quarter of their blocks, and
a width of 32. What a
larger tier would fetch or make first (capping vectors, published traits, MMLU, an autoencoder, trait vectors, a
finetuning study) is there in their width, so that every cell of every section finds it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn
from transformers.utils.logging import disable_progress_bar

from personalab.files import read_text, write
from personalab.judging.rubrics import TRAITS
from personalab.lm.tiny import load_tiny_model
from personalab.records.capping_files import write_capping
from personalab.records.clones import PERSONA_VECTORS
from personalab.records.items import MMLU, load_items, load_prose
from personalab.records.published import MODEL as PUBLISHED
from personalab.records.published import REPOSITORY
from personalab.records.upstream import load_questions, load_roles, load_trait_artifacts
from personalab.records.vectors import save_vectors
from personalab.sae.files import SAE_LENS
from personalab.setup.shapes import SHAPES, Shape
from personalab.studies.capping import block_ranges
from personalab.tiers import Tier

WIDTH = 32  # of `personalab.lm.tiny`'s models
REVISION = "0" * 40
VOCABULARY = 3000  # enough that a text has about as many tokens as the real tokenizers give it
N_FEATURES = 64  # of the autoencoder
FEWER = 4  # a model's blocks by ours


def depth_of(name: str) -> int:
    """Blocks of the tiny model that stands in for `name`."""
    return round(SHAPES[name].blocks / FEWER)


def shrunk(tier: Tier) -> Tier:
    """`tier` with the blocks of the tiny models, at the same shares of their depths."""

    def share(block: int, name: str) -> int:
        return min(round(block / FEWER), depth_of(name) - 1)

    return replace(
        tier,
        n_blocks=depth_of(tier.persona_model),
        axis_block=share(tier.axis_block, tier.persona_model),
        trait_block=share(tier.trait_block, tier.trait_model),
    )


def make_hub(folder: Path, tier: Tier) -> None:
    """Write everything that `tier` fetches, in the layout of `HF_HUB_CACHE`.

    Raises:
        ValueError: for a model whose sizes nobody has noted.
    """
    texts = tuple(_texts())
    for name in dict.fromkeys((tier.persona_model, tier.capping_model, tier.trait_model, tier.response_model)):
        if name not in SHAPES:
            raise ValueError(f"{name!r}: a dry run needs its sizes in personalab/setup/shapes.py: name a tier's own.")
        _write_model(_snapshot(folder, name), SHAPES[name], depth_of(name), texts)
    vectors = _snapshot(folder, REPOSITORY, "dataset")
    blocks = SHAPES["google/gemma-2-27b-it"].blocks
    _save_pt(vectors / PUBLISHED / "assistant_axis.pt", _directions(blocks, seed=1))
    for i in range(12):  # the published ones are 240
        _save_pt(vectors / PUBLISHED / "trait_vectors" / f"trait_{i}.pt", _directions(blocks, seed=2 + i))
    if tier.capping_upstream:
        depth = depth_of(tier.capping_model)
        _save_pt(vectors / tier.capping_upstream / "assistant_axis.pt", 3 * _directions(depth, seed=20))
        config = _capping(depth, [tier.capping_experiment], upstream=True)
        write_capping(vectors / tier.capping_upstream / "capping_config.pt", config, model=tier.capping_model, seed=0)


def make_artifacts(folder: Path, tier: Tier) -> None:
    """Write to `folder` (of the tier, among artifacts) what other commands and earlier sections leave there."""
    depth, block = depth_of(tier.trait_model), tier.trait_block
    for i, trait in enumerate(TRAITS):
        vectors = {"vectors": _directions(depth, seed=30 + i)}
        save_vectors(
            folder / "vectors" / f"{trait}.safetensors",
            vectors,
            model=tier.trait_model,
            convention="row = block",
            seed=0,
        )
    save_vectors(
        folder / "section_1_axis.safetensors",
        {"axis": _directions(1, seed=50)[0]},
        model=tier.persona_model,
        convention=f"block {tier.axis_block}",
        seed=0,
    )
    write(folder / "section_3_blocks.json", json.dumps({"steer": block, "candidates": [block]}))
    if not tier.capping_upstream:
        depth = depth_of(tier.capping_model)
        ids = [f"layers_{b.start}:{b.stop}-p0.25" for b in block_ranges(depth)]
        config, axis_block = _capping(depth, ids), round(0.7 * depth)
        config["vectors"]["axis"] = {"vector": _directions(1, seed=20)[0], "layer": axis_block}
        steering = {"id": f"steer_{axis_block}-1.0", "layer": axis_block, "persona_gap": 3.0}
        config |= {"chosen": ids[0], "strongest": ids[-1], "steering": steering, "sweep": _sweep(ids)}
        write_capping(folder / "capping", config, model=tier.capping_model, seed=0)
    _write_study(folder / "finetuning", block)
    _write_sae(folder / "sae", tier)


def _texts() -> list[str]:
    """What the course sends to models, for tokenizers to learn words from."""
    found = [*load_questions(), *load_prose()[:400]]
    found += [prompt for role in load_roles().values() for prompt in role.prompts]
    for trait in load_trait_artifacts("extract").values():
        found += [*trait.questions, *trait.positive, *trait.negative]
    return found


def _snapshot(hub: Path, repository: str, kind: str = "model") -> Path:
    place = hub / f"{kind}s--{repository.replace('/', '--')}"
    write(place / "refs" / "main", REVISION)
    (place / "snapshots" / REVISION).mkdir(parents=True, exist_ok=True)
    return place / "snapshots" / REVISION


def _write_model(folder: Path, shape: Shape, depth: int, texts: tuple[str, ...]) -> None:
    model, tokenizer = load_tiny_model(shape.family, n_blocks=depth, vocabulary=VOCABULARY, texts=texts)
    model.config.max_position_embeddings = shape.context
    if model.config.tie_word_embeddings:  # with its embedding for a head, a random model repeats the last token
        model.config.tie_word_embeddings = False
        head = 0.1 * torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(0))
        model.lm_head.weight = nn.Parameter(head)
    disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _directions(rows: int, seed: int) -> Tensor:
    """(rows, d), unit norm."""
    return F.normalize(torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=1)


def _save_pt(path: Path, tensor: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensor, path)


def _capping(depth: int, ids: list[str], *, upstream: bool = False) -> dict[str, Any]:
    """Caps at the blocks that each id names (`upstream`: in the real model), at 0: they act on half of what passes."""
    vectors = {f"block_{k}": {"vector": v, "layer": k} for k, v in enumerate(-_directions(depth, seed=20))}
    ends = [map(int, name.removeprefix("layers_").partition("-")[0].split(":")) for name in ids]
    spans = [range(*(k // FEWER if upstream else k for k in span)) for span in ends]
    experiments = [
        {"id": name, "interventions": [{"vector": f"block_{k}", "cap": 0.0} for k in span]}
        for name, span in zip(ids, spans, strict=True)
    ]
    return {"vectors": vectors, "experiments": experiments}


def _sweep(ids: list[str]) -> list[dict[str, Any]]:
    values = {"coherence": 80.0, "capability": 0.4, "perplexity": 20.0, "n": 10}
    rows = ["plain", *ids, *(f"steer_{k}-{gap}" for k in (0,) for gap in (0.5, 1.0))]
    return [{"id": name, "out_of_persona": 0.5 - 0.05 * i, **values} for i, name in enumerate(rows)]


def _write_study(folder: Path, block: int) -> None:
    """The course's own study, its states cut to the tiny model's width."""
    source = PERSONA_VECTORS / "finetuning"
    for path in source.rglob("*.json"):
        found = json.loads(read_text(path)) | {"block": block}
        if "shift" in found:
            found["shift"] = found["shift"][:WIDTH]
        write(folder / path.relative_to(source), json.dumps(found))


def _write_sae(folder: Path, tier: Tier) -> None:
    """A JumpReLU autoencoder of the persona model in sae-lens's format, as GemmaScope's are."""
    decoder = _directions(N_FEATURES, seed=60)
    zeros = {"b_enc": torch.zeros(N_FEATURES), "b_dec": torch.zeros(WIDTH), "threshold": torch.full((N_FEATURES,), 0.1)}
    config = {
        "architecture": "jumprelu",
        "d_in": WIDTH,
        "d_sae": N_FEATURES,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": SAE_LENS, "hook_name": f"blocks.{tier.axis_block}.hook_resid_post"},
    }
    write(folder / "cfg.json", json.dumps(config))
    write(folder / "sae_weights.safetensors", save({"W_enc": decoder.T.contiguous(), "W_dec": decoder, **zeros}))


def make_datasets(folder: Path, n: int = 20) -> None:
    """MMLU's name with items of this course, in the layout of `HF_DATASETS_CACHE`; nothing without that package."""
    try:
        from datasets import Dataset, DatasetInfo, Split, SplitDict, SplitInfo
        from datasets.arrow_writer import ArrowWriter
    except ImportError:  # the cell that needs it says so
        return
    rows = [
        {"subject": i.kind, "question": i.stem, "choices": list(i.options), "answer": i.answer}
        for i in load_items()[:n]
    ]
    owner, name = MMLU.split("/")
    place = folder / f"{owner}___{name}" / "all" / "0.0.0" / REVISION
    place.mkdir(parents=True)
    features = Dataset.from_list(rows).features
    with ArrowWriter(features=features, path=str(place / f"{name}-test.arrow")) as writer:
        for row in rows:
            writer.write(row)
        writer.finalize()
    splits = SplitDict(dataset_name=name)
    splits.add(SplitInfo(name=str(Split.TEST), num_examples=len(rows), dataset_name=name))
    info = DatasetInfo(features=features, config_name="all", dataset_name=name, splits=splits)
    info.write_to_directory(str(place))
