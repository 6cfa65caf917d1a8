"""Vectors of other programs: read exactly, written exactly, refused by name where they don't fit or hold code."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from transformers import LlamaConfig

from personalab.__main__ import main
from personalab.lm.vector_files import convert
from personalab.records.capping_files import read_capping
from personalab.records.conversion import Shape, read_foreign
from personalab.records.schema import DataError
from personalab.records.torch_files import load_pt
from personalab.records.vectors import load_vectors, save_vectors
from personalab.studies.capping import caps, load_capping_config

L, D = 4, 8
META = {"model": "m", "convention": "row = block", "seed": 0, "trait": "evil"}


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.randn(L + 1, D, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A folder with the config of a model that the vectors fit."""
    LlamaConfig(num_hidden_layers=L, hidden_size=D, num_attention_heads=2).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_persona_vectors_there_and_back_are_equal(tmp_path, rows, model, dtype):
    source = tmp_path / "evil_response_avg_diff.pt"
    torch.save(rows.to(dtype), source)
    convert(source, tmp_path / "evil.safetensors", model)
    tensors, metadata = load_vectors(tmp_path / "evil.safetensors")
    assert torch.equal(tensors["vectors"][2], rows.to(dtype)[3])  # hidden_states[3] is the output of block 2
    assert metadata["convention"] == "row = block" and metadata["model"] == model
    assert metadata["last_row"] == "behind the final norm"
    assert len(convert(tmp_path / "evil.safetensors", tmp_path / "back.pt", layout="persona_vectors")) == 1  # no note
    assert torch.equal(load_pt(tmp_path / "back.pt"), rows.to(dtype))


def test_what_persona_vectors_cannot_hold_is_said(tmp_path, rows):
    save_vectors(tmp_path / "v.safetensors", {"vectors": rows[1:]}, **META)
    notes = convert(tmp_path / "v.safetensors", tmp_path / "out.pt", layout="persona_vectors")
    assert "row 0, the embedding's, is zero" in notes[1] and "final norm" in notes[2]
    out = load_pt(tmp_path / "out.pt")
    assert not out[0].any() and torch.equal(out[1:], rows[1:])


@pytest.mark.parametrize("extra", [{"type": "pos_3", "role": "pirate"}, {"type": "mean", "role": "default"}])
def test_role_vectors_there_and_back(tmp_path, rows, extra):
    torch.save({"vector": rows[1:], **extra}, tmp_path / "pirate.pt")
    convert(tmp_path / "pirate.pt", tmp_path / "pirate.safetensors")
    convert(tmp_path / "pirate.safetensors", tmp_path / "back.pt", layout="role")
    back = load_pt(tmp_path / "back.pt")
    assert torch.equal(back.pop("vector"), rows[1:]) and back == extra


@pytest.mark.parametrize("name", ["assistant_axis.pt", "axis.pt", "trait_vectors/calm.pt"])
def test_axes_and_published_traits_count_blocks(tmp_path, rows, name):
    (tmp_path / "trait_vectors").mkdir()
    torch.save(rows[1:], tmp_path / name)
    assert torch.equal(read_foreign(tmp_path / name).vectors, rows[1:])
    convert(tmp_path / name, tmp_path / "back.pt", layout="axis")
    assert torch.equal(load_pt(tmp_path / "back.pt"), rows[1:])


def test_rows_of_which_nothing_is_known_are_refused(tmp_path, rows, model):
    torch.save(rows, tmp_path / "mine.pt")
    with pytest.raises(DataError, match=r"5 rows, and nothing says .* add --rows blocks or --rows hidden_states"):
        read_foreign(tmp_path / "mine.pt")
    assert len(read_foreign(tmp_path / "mine.pt", rows="hidden_states").vectors) == L
    assert len(read_foreign(tmp_path / "mine.pt", shape=Shape("m", L, D)).vectors) == L
    wrong = {"it has 5 blocks, 8 wide; the model has 4 blocks, 8 wide": {"rows": "blocks", "shape": Shape("m", L, D)}}
    wrong["it has 4 blocks, 8 wide; the model has 4 blocks, 9 wide"] = {"shape": Shape("m", L, D + 1)}
    for says, arguments in wrong.items():
        with pytest.raises(DataError, match=rf"mine\.pt is not for m: {says}"):
            read_foreign(tmp_path / "mine.pt", **arguments)
        assert (tmp_path / "mine.pt").exists()
    convert(tmp_path / "mine.pt", tmp_path / "mine.safetensors", model)
    with pytest.raises(ValueError, match="No config of"):
        convert(tmp_path / "mine.pt", tmp_path / "x.safetensors", str(tmp_path / "none"))


def test_gguf_is_what_repeng_and_llama_cpp_read(tmp_path, rows, model):
    save_vectors(tmp_path / "v.safetensors", {"vectors": rows[1:]}, **META)
    notes = convert(tmp_path / "v.safetensors", tmp_path / "v.gguf", model, scale=0.5)
    assert "block 0 is left out" in notes[1]
    reader = GGUFReader(tmp_path / "v.gguf")
    assert [t.name for t in reader.tensors] == ["direction.1", "direction.2", "direction.3"]
    for tensor in reader.tensors:  # block k, in float32, of one dimension
        assert tensor.data.dtype == np.float32
        assert np.array_equal(tensor.data, 0.5 * rows[1 + int(tensor.name[-1])].numpy())
    said = {name: reader.get_field(name).contents() for name in ("general.architecture", "controlvector.model_hint")}
    assert said == {"general.architecture": "controlvector", "controlvector.model_hint": "llama"}
    assert reader.get_field("controlvector.layer_count").contents() == 3
    back = read_foreign(tmp_path / "v.gguf")
    assert torch.equal(back.vectors[1:], 0.5 * rows[2:]) and not back.vectors[0].any()
    assert back.metadata["trait"] == "evil" and back.metadata["scale"] == "0.5" and back.metadata["model"] == model


def written(path: Path, directions: dict[int, torch.Tensor], architecture: str = "controlvector") -> Path:
    """A file as repeng exports it."""
    writer = GGUFWriter(path, architecture)
    writer.add_string("controlvector.model_hint", "mistral")
    writer.add_uint32("controlvector.layer_count", len(directions))
    for layer, row in directions.items():
        writer.add_tensor(f"direction.{layer}", row.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_control_vector_of_repeng_comes_in(tmp_path, rows, model):
    path = written(tmp_path / "v.gguf", {3: rows[0], 1: rows[1]})
    found = read_foreign(path)
    assert torch.equal(found.vectors[3], rows[0]) and torch.equal(found.vectors[1], rows[1])
    assert not found.vectors[[0, 2]].any() and found.metadata["model"] == "unknown (mistral)"
    convert(path, tmp_path / "v.safetensors", model)
    convert(tmp_path / "v.safetensors", tmp_path / "back.gguf")
    assert {t.name for t in GGUFReader(tmp_path / "back.gguf").tensors} == {"direction.1", "direction.3"}
    with pytest.raises(DataError, match=r"w\.gguf is no control vector: its architecture is 'llama'"):
        read_foreign(written(tmp_path / "w.gguf", {1: rows[0]}, "llama"))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF, nearly")
    with pytest.raises(DataError, match=r"bad\.gguf is no readable GGUF file"):
        read_foreign(tmp_path / "bad.gguf")


class Code:
    def __reduce__(self):
        return os.mkdir, ("was-run",)


def test_code_in_a_file_is_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"vector": Code()}, "evil_response_avg_diff.pt")
    with pytest.raises(DataError, match="holds code") as error:
        read_foreign("evil_response_avg_diff.pt")
    assert not Path("was-run").exists() and "delete" not in str(error.value)
    Path("half.pt").write_bytes(Path("evil_response_avg_diff.pt").read_bytes()[:100])
    for name, says in {"half.pt": "half.pt", "none.pt": "does not exist", "x.npy": "are read from"}.items():
        with pytest.raises(DataError, match=says) as error:
            read_foreign(name)
        assert "delete" not in str(error.value)


def test_vectors_that_are_not_finite_are_refused(tmp_path, rows):
    rows[2, 3] = torch.inf
    torch.save(rows, tmp_path / "evil_prompt_avg_diff.pt")
    with pytest.raises(DataError, match=r"evil_prompt_avg_diff\.pt holds NaN or infinity"):
        read_foreign(tmp_path / "evil_prompt_avg_diff.pt")


def upstream_config(rows: torch.Tensor, cap: object = np.float64(1.5)) -> dict[str, object]:
    """As published: caps are numpy numbers."""
    vectors = {f"layer_{k}/v": {"vector": rows[k], "layer": k} for k in range(L)}
    steps = [{"vector": "layer_1/v", "cap": cap}, {"vector": "layer_2/v", "cap": np.float32(-0.25)}]
    return {"vectors": vectors, "experiments": [{"id": "layers_1:3-p0.25", "interventions": steps}]}


def test_numpy_caps_come_in_and_go_out(tmp_path, rows, model):
    torch.save(upstream_config(rows), tmp_path / "capping_config.pt")
    (first, second) = caps(load_capping_config(tmp_path / "capping_config.pt"), "layers_1:3-p0.25")
    assert (first.block, first.threshold, second.threshold) == (1, 1.5, -0.25)
    convert(tmp_path / "capping_config.pt", tmp_path / "ours", model)
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["model"] == model
    convert(tmp_path / "ours", tmp_path / "back.pt")
    with torch.serialization.safe_globals([]):
        back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back["experiments"] == read_capping(tmp_path / "capping_config.pt")["experiments"]
    assert all(torch.equal(back["vectors"][f"layer_{k}/v"]["vector"], rows[k]) for k in range(L))
    with pytest.raises(DataError, match=r"not for .*: vector 'layer_3/v' is 8 wide, at block 3; .* 3 blocks"):
        LlamaConfig(num_hidden_layers=3, hidden_size=D, num_attention_heads=2).save_pretrained(tmp_path / "small")
        convert(tmp_path / "capping_config.pt", tmp_path / "x", str(tmp_path / "small"))


@pytest.mark.parametrize(("cap", "says"), [(np.nan, "must be a finite number"), ("high", "must be a finite number")])
def test_a_cap_that_is_none_is_named(tmp_path, rows, cap, says):
    torch.save(upstream_config(rows, cap), tmp_path / "c.pt")
    with pytest.raises(DataError, match=rf"c\.pt, experiment 'layers_1:3-p0.25': the cap of 'layer_1/v' {says}"):
        read_capping(tmp_path / "c.pt")
    torch.save({"vectors": {}}, tmp_path / "c.pt")
    with pytest.raises(DataError, match=r"c\.pt is no capping configuration"):
        read_capping(tmp_path / "c.pt")


def test_the_command(tmp_path, rows, model, monkeypatch, capsys):
    monkeypatch.setenv("PERSONALAB_VENV", "off")
    source = tmp_path / "evil_response_avg_diff.pt"
    torch.save(rows, source)
    assert main(["convert", str(source), str(tmp_path / "evil.gguf"), "--model", model]) == 0
    assert "blocks 0 to 3 of 4, 8 wide, norms" in capsys.readouterr().out
    for wrong in (["evil.pt"], ["evil.csv"], [source.name], ["x.gguf", "--as", "axis"]):
        assert main(["convert", str(source), str(tmp_path / wrong[0]), *wrong[1:]]) == 1
    said = capsys.readouterr().err
    assert said.count("--as persona_vectors, axis or role") == 3 and "name another" in said and "delete" not in said
    with pytest.raises(ValueError, match="python -m personalab convert evil_response_avg_diff"):
        load_vectors(source)


def test_a_trait_and_a_block_go_with_the_vectors(tmp_path, rows, model):
    torch.save(rows, tmp_path / "evil_response_avg_diff.pt")
    convert(tmp_path / "evil_response_avg_diff.pt", tmp_path / "evil.safetensors", model, trait="evil", block=3)
    convert(tmp_path / "evil.safetensors", tmp_path / "evil.gguf")
    convert(tmp_path / "evil.gguf", tmp_path / "again.safetensors")
    for name in ("evil", "again"):
        metadata = load_vectors(tmp_path / f"{name}.safetensors")[1]
        assert (metadata["trait"], metadata["block"]) == ("evil", "3")
    with pytest.raises(DataError, match=r"--block 4 does not exist: there are vectors of blocks 0 to 3"):
        convert(tmp_path / "evil.gguf", tmp_path / "x.safetensors", block=4)
    with pytest.raises(DataError, match="caps name their own blocks"):
        convert(tmp_path, tmp_path / "caps", trait="evil")
