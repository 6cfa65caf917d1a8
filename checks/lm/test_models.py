"""Finding blocks, weights shared without hooks, and the tiers' real loading code on models from a local folder."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from personalab import tiers
from personalab.lm import models
from personalab.lm.chat import as_messages
from personalab.lm.content_guard import is_guarded
from personalab.lm.finetuning import finetune
from personalab.lm.lora_data import Dialogue, LoraSettings
from personalab.lm.tiny import FAMILIES, load_tiny_model
from personalab.setup import weights


@pytest.fixture(autouse=True)
def default_tier():
    yield
    tiers.use_tier("cpu")


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_the_live_modules_in_order(family):
    model, tokenizer = load_tiny_model(family)
    blocks, seen = models.decoder_blocks(model), []
    for i, block in enumerate(blocks):
        block.register_forward_hook(lambda *_, i=i: seen.append(i))
    model(**tokenizer("the sea", return_tensors="pt"))
    assert seen == list(range(models.n_blocks(model)))
    assert models.d_model(model) == 32


def test_blocks_inside_image_models_and_adapters():
    blocks = nn.ModuleList([nn.Linear(1, 1)])
    image_model, adapter = nn.Module(), nn.Module()
    image_model.model = nn.Module()
    image_model.model.language_model = nn.Module()
    image_model.model.language_model.layers = blocks
    adapter.get_base_model = lambda: image_model
    assert models.decoder_blocks(image_model) is blocks
    assert models.decoder_blocks(adapter) is blocks


def test_an_unknown_architecture_is_named():
    with pytest.raises(ValueError, match="No decoder blocks found in Linear"):
        models.decoder_blocks(nn.Linear(1, 1))


def test_a_twin_shares_weights_and_nothing_else():
    model, tokenizer = load_tiny_model()
    other = models.twin(model)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert a.data_ptr() == b.data_ptr()
    fired = []
    models.decoder_blocks(model)[0].register_forward_hook(lambda *_: fired.append(1))
    other(**tokenizer("the sea", return_tensors="pt"))
    assert not fired


@pytest.mark.parametrize("family", FAMILIES)
def test_the_larger_tiers_loading_code(family, tmp_path, monkeypatch):
    """`from_pretrained` as on `colab` and `a100`, from a folder instead of the hub."""
    monkeypatch.setenv("PERSONALAB_DTYPE", "float32")
    model, tokenizer = load_tiny_model(family)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tiers.use_tier("a100", persona_model=str(tmp_path), n_blocks=4)
    loaded, loaded_tokenizer = models.load_model("persona")
    inputs = tokenizer("the sea", return_tensors="pt")
    assert torch.allclose(loaded(**inputs).logits, model(**inputs).logits, atol=1e-5)
    assert loaded_tokenizer("the sea")["input_ids"] == inputs["input_ids"][0].tolist()
    assert not loaded.training


def test_the_trait_organism_is_the_embedded_model_with_the_adapter_both_under_the_guard(tmp_path, monkeypatch):
    model, tokenizer = load_tiny_model("llama")
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    dialogues = [Dialogue(as_messages("be brief", f"question {i}", "very short")) for i in range(4)]
    finetune(models.twin(model), tokenizer, dialogues, LoraSettings(epochs=4), tmp_path / "adapter", progress=False)
    monkeypatch.setattr(weights.LANGUAGE_MODEL.__class__, "ensure", lambda self: tmp_path / "base")
    monkeypatch.setattr(models, "ORGANISM_ADAPTER", tmp_path / "adapter")
    monkeypatch.setattr(models, "_pristine", {})
    monkeypatch.setenv("PERSONALAB_DTYPE", "float32")
    tiers.use_tier("cpu", trait_model=tiers.TRAIT_ORGANISM, n_blocks=0)
    persona, _ = models.load_model("persona")
    trait, _ = models.load_model("trait")
    assert is_guarded(persona) and is_guarded(trait)
    inputs = tokenizer("the sea", return_tensors="pt")
    assert torch.allclose(persona(**inputs).logits, model(**inputs).logits, atol=1e-5)
    assert not torch.allclose(trait(**inputs).logits, model(**inputs).logits, atol=1e-3)
    assert "lora" not in " ".join(trait.state_dict())


def test_a_model_of_another_depth_is_refused_with_the_blocks_to_set(tmp_path, monkeypatch):
    monkeypatch.setenv("PERSONALAB_DTYPE", "float32")
    for part in load_tiny_model("qwen2"):
        part.save_pretrained(tmp_path)
    monkeypatch.setenv("PERSONALAB_PERSONA_MODEL", str(tmp_path))
    monkeypatch.setattr(tiers, "_active", None)
    with pytest.raises(ValueError, match=r"has 4 blocks.*PERSONALAB_N_BLOCKS=4 and PERSONALAB_AXIS_BLOCK=3"):
        models.load_model("persona")
    monkeypatch.setenv("PERSONALAB_N_BLOCKS", "4")
    monkeypatch.setenv("PERSONALAB_AXIS_BLOCK", "3")
    monkeypatch.setattr(tiers, "_active", None)
    assert models.n_blocks(models.load_model("persona")[0]) == 4 and tiers.current_tier().axis_block == 3
    monkeypatch.setenv("PERSONALAB_AXIS_BLOCK", "late")
    monkeypatch.setattr(tiers, "_active", None)
    with pytest.raises(ValueError, match="PERSONALAB_AXIS_BLOCK='late'"):
        tiers.current_tier()


def test_tiers_and_their_errors(monkeypatch):
    for name, tier in tiers.TIERS.items():
        assert tier.name == name
        assert 0 < tier.axis_block < tier.n_blocks
    assert tiers.use_tier("colab", persona_model="x/y").persona_model == "x/y"
    with pytest.raises(ValueError, match="one of: cpu, colab, a100"):
        tiers.use_tier("laptop")
    with pytest.raises(ValueError, match="Unknown tier field"):
        tiers.use_tier("cpu", modle="x")
    monkeypatch.setattr(tiers, "_active", None)
    monkeypatch.setenv("PERSONALAB_PERSONA_MODEL", "a/b")
    assert tiers.current_tier().persona_model == "a/b"
    monkeypatch.setenv("PERSONALAB_BUDGET", "huge")
    with pytest.raises(ValueError, match="PERSONALAB_BUDGET 'huge'"):
        tiers.budget()
    with pytest.raises(ValueError, match="Unknown model kind"):
        models.load_model("judge")
    monkeypatch.setenv("PERSONALAB_DTYPE", "int3")
    with pytest.raises(ValueError, match="Unknown dtype 'int3'"):
        models.resolve_dtype(tiers.TIERS["cpu"])
