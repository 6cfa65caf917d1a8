"""A model in a folder of one's own: read as it is, or refused by name; never filled up with random numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from personalab.lm.models import load_named
from personalab.lm.tiny import load_tiny_model
from personalab.tiers import local_tier


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "Modèle é 模型 1"
    for part in load_tiny_model("llama"):
        part.save_pretrained(place)
    return place


def loaded(folder):
    return load_named(str(folder), local_tier(str(folder)))[0]


def test_a_folder_is_read_whatever_its_name(folder, monkeypatch):
    expected = load_tiny_model("llama")[0].state_dict()
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert local_tier(f"~/{folder.name}").persona_model == str(Path.home() / folder.name)
    found = loaded(folder).state_dict()
    assert all(torch.equal(found[name], tensor.to(found[name].dtype)) for name, tensor in expected.items())


def test_weights_that_are_missing_are_not_made_up(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(key for key in weights if key.endswith("up_proj.weight"))
    save_file({k: v for k, v in weights.items() if k != name}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"lacks 1 of the weights .* {name}"):
        loaded(folder)


def test_a_configuration_of_a_deeper_model_is_refused(folder):
    config = json.loads((folder / "config.json").read_text("utf-8"))
    deeper = config | {"num_hidden_layers": config["num_hidden_layers"] + 1, "layer_types": None}
    (folder / "config.json").write_text(json.dumps(deeper), "utf-8")
    with pytest.raises(ValueError, match="do not belong together"):
        loaded(folder)


def test_damaged_weights_are_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="模型 1: its weights are damaged"):
        loaded(folder)


def test_a_missing_tokenizer_is_named(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match="模型 1: no tokenizer"):
        loaded(folder)


def test_an_adapter_is_no_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}", "utf-8")
    with pytest.raises(ValueError, match="is an adapter, not a model: merge it"):
        local_tier(str(tmp_path))
