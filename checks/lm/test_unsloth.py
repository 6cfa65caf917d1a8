"""Our calls of Unsloth against its signatures; a stand-in trains on a tiny model. No GPU has run the real one here."""

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from peft import LoraConfig, get_peft_model

from personalab.lm.chat import as_messages
from personalab.lm.finetuning import finetune
from personalab.lm.interventions import Steer
from personalab.lm.lora_data import Dialogue, LoraSettings, TrainingError
from personalab.lm.tiny import load_tiny_model
from personalab.lm.unsloth_models import VERSION, load_unsloth
from personalab.paths import ROOT

# Names of the parameters in that version's source (models/loader.py and models/llama.py), **kwargs beside them.
SIGNATURES = {
    "from_pretrained": [
        "model_name",
        "max_seq_length",
        "dtype",
        "load_in_4bit",
        "load_in_8bit",
        "load_in_16bit",
        "full_finetuning",
        "token",
        "device_map",
        "device_map_planner_kwargs",
        "rope_scaling",
        "fix_tokenizer",
        "trust_remote_code",
        "use_gradient_checkpointing",
        "resize_model_vocab",
        "revision",
        "use_exact_model_name",
        "offload_embedding",
        "float32_mixed_precision",
        "fast_inference",
        "gpu_memory_utilization",
        "float8_kv_cache",
        "random_state",
        "max_lora_rank",
        "disable_log_stats",
        "qat_scheme",
        "load_in_fp8",
        "unsloth_tiled_mlp",
        "text_only",
        "on_model_resolved",
    ],
    "get_peft_model": [
        "model",
        "r",
        "target_modules",
        "lora_alpha",
        "lora_dropout",
        "bias",
        "layers_to_transform",
        "layers_pattern",
        "finetune_last_n_layers",
        "use_gradient_checkpointing",
        "random_state",
        "max_seq_length",
        "use_rslora",
        "modules_to_save",
        "init_lora_weights",
        "loftq_config",
        "temporary_location",
        "qat_scheme",
        "target_parameters",
        "ensure_weight_tying",
        "offload_layers",
        "checkpoint_skip_layers",
    ],
}


@pytest.fixture
def stand_in(monkeypatch):
    """A module called unsloth that takes what the real one takes, no more, and wraps a tiny model with PEFT."""
    seen = {}

    class FastLanguageModel:
        @staticmethod
        def from_pretrained(**given):
            seen["from_pretrained"] = given
            return load_tiny_model("qwen2")

        @staticmethod
        def get_peft_model(model, **given):
            seen["get_peft_model"] = {"model": model, **given}
            config = LoraConfig(
                r=given["r"],
                lora_alpha=given["lora_alpha"],
                target_modules=given["target_modules"],
                use_rslora=given["use_rslora"],
                task_type="CAUSAL_LM",
            )
            return get_peft_model(model, config)

    module = ModuleType("unsloth")
    module.FastLanguageModel = FastLanguageModel
    monkeypatch.setitem(sys.modules, "unsloth", module)
    return seen


def test_our_calls_fit_its_signatures_and_what_it_gives_trains(stand_in):
    settings = LoraSettings(rank=4, alpha=8, rslora=True, learning_rate=1e-2, epochs=3)
    model, tokenizer = load_unsloth("some/model", settings)
    for name, given in stand_in.items():
        assert set(given) <= set(SIGNATURES[name]), name
    assert stand_in["get_peft_model"]["r"] == 4 and stand_in["get_peft_model"]["use_rslora"]
    data = [Dialogue(as_messages(None, f"question {i}", "an answer")) for i in range(8)]
    plain = finetune(model, tokenizer, data, settings, interventions=[Steer(1, torch.ones(32))], progress=False)
    losses = [entry["loss"] for entry in plain.training_log if "loss" in entry]
    assert plain is model and losses[-1] < losses[0]


@pytest.mark.skipif(importlib.util.find_spec("unsloth") is None, reason="needs a GPU, with Unsloth installed")
def test_the_signatures_are_those_of_the_installed_source():
    root = Path(importlib.util.find_spec("unsloth").origin).parent / "models"
    for file, kind, name in (
        ("loader.py", "FastLanguageModel", "from_pretrained"),
        ("llama.py", "FastLlamaModel", "get_peft_model"),
    ):
        tree = ast.parse((root / file).read_text(encoding="utf-8"))
        [found] = [
            f
            for c in ast.walk(tree)
            if isinstance(c, ast.ClassDef) and c.name == kind
            for f in c.body
            if isinstance(f, ast.FunctionDef) and f.name == name
        ]
        assert [a.arg for a in found.args.args + found.args.kwonlyargs] == SIGNATURES[name]


def test_without_it_the_way_to_get_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "unsloth", None)
    with pytest.raises(TrainingError, match="pip install unsloth=="):
        load_unsloth("some/model", LoraSettings())


def test_the_pinned_version_is_the_one_checked():
    assert f"unsloth=={VERSION}" in (ROOT / "requirements-gpu.txt").read_text(encoding="utf-8")
