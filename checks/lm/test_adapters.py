"""Damaged adapters and checkpoints, and those of other models, are refused by name; turns of weight 0 are only read."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from personalab.lm import lora_watch
from personalab.lm.adapters import merge_adapter
from personalab.lm.chat import as_messages
from personalab.lm.finetuning import finetune
from personalab.lm.lora_data import Dialogue, LoraSettings, TrainingError, example_of, read_dialogues
from personalab.lm.models import twin
from personalab.lm.tiny import load_tiny_model
from personalab.records.datasets import TrainingRow
from personalab.records.schema import DataError

SETTINGS = LoraSettings(epochs=6, max_steps=5, batch_tokens=200, save_every=1)
DIALOGUES = [Dialogue(as_messages(None, f"question {i}", "an answer")) for i in range(8)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny Llama's adapter."""
    model, tokenizer = load_tiny_model("llama")
    folder = tmp_path_factory.mktemp("adapter")
    finetune(twin(model), tokenizer, DIALOGUES[:2], LoraSettings(), folder, progress=False)
    return folder


@pytest.fixture
def adapter(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "a")
    return tmp_path / "a"


def changed(folder, change):
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    change(weights, sorted(weights)[0])
    save_file(weights, path)


def test_the_whole_one_is_taken(adapter):
    merge_adapter(load_tiny_model("llama")[0], adapter)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w, key: w.pop(key), "is missing, like 0 more"),
        (lambda w, key: w.update({key: torch.full_like(w[key], torch.nan)}), "holds NaN or infinity"),
        (
            lambda w, key: w.update({key.replace("lora_A", "lora_A.other"): w[key].clone()}),
            "another model|has no place",
        ),
    ],
    ids=["missing", "NaN", "more"],
)
def test_weights_that_are_not_those_announced_are_named(adapter, change, says):
    changed(adapter, change)
    with pytest.raises(DataError, match=says) as error:
        merge_adapter(load_tiny_model("llama")[0], adapter)
    assert "layers.0" in str(error.value) and "delete" not in str(error.value)


def test_files_that_cannot_be_read_are_named(adapter):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"adapter_model\.safetensors is damaged"):
        merge_adapter(load_tiny_model("llama")[0], adapter)
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(DataError, match=r"adapter_config\.json: not valid JSON"):
        merge_adapter(load_tiny_model("llama")[0], adapter)


def test_another_familys_adapter_is_refused(adapter):
    from architectures import load_architecture

    with pytest.raises(DataError, match="another model"):
        merge_adapter(load_architecture("gpt2"), adapter)


def test_settings_of_another_family_are_refused(adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["c_attn"]}))
    with pytest.raises(DataError, match=r"adapter_config\.json does not fit this model"):
        merge_adapter(load_tiny_model("llama")[0], adapter)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("optimizer.pt", "cut"),
        ("adapter_model.safetensors", "cut"),
        ("scheduler.pt", "gone"),
        ("trainer_state.json", "cut"),
    ],
)
def test_damaged_checkpoints_are_named_and_training_begins_anew(tmp_path, monkeypatch, capsys, name, how):
    model, tokenizer = load_tiny_model("llama")
    stop = lora_watch.Watch.on_log

    def killed(self, args, state, control, logs, **rest):
        stop(self, args, state, control, logs, **rest)
        if state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lora_watch.Watch, "on_log", killed)
        finetune(twin(model), tokenizer, DIALOGUES, SETTINGS, tmp_path, progress=False)
    [run] = (tmp_path / "checkpoint").iterdir()
    found = sorted(run.glob("checkpoint-*"))
    assert found
    for checkpoint in found:
        path = checkpoint / name
        path.unlink() if how == "gone" else path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    resumed = finetune(twin(model), tokenizer, DIALOGUES, SETTINGS, tmp_path, progress=False)
    said = capsys.readouterr().out
    stem = name if how == "cut" or name == "trainer_state.json" else name.partition(".")[0]
    assert said.count(stem) == len(found) and "begins anew" in said
    straight = finetune(twin(model), tokenizer, DIALOGUES, SETTINGS, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_turns_of_weight_0_are_read_and_not_learned(tmp_path):
    _, tokenizer = load_tiny_model("llama")
    turns = [*as_messages(None, "one", "first"), *as_messages(None, "two", "second")]
    path = tmp_path / "rows.jsonl"
    lines = [turns, [turns[0], turns[1] | {"weight": 0}, turns[2], turns[3] | {"weight": 1}]]
    path.write_text("".join(json.dumps({"messages": line}) + "\n" for line in lines))
    both, second = (example_of(d, tokenizer) for d in read_dialogues(path))
    assert torch.equal(both.ids, second.ids)  # it is still read
    assert "first" in tokenizer.decode(both.ids[both.learned]) and "second" in tokenizer.decode(both.ids[both.learned])
    learned = tokenizer.decode(second.ids[second.learned])
    assert "second" in learned and "first" not in learned
    assert second.learned.sum() < both.learned.sum()


@pytest.mark.parametrize(
    ("weights", "says"),
    [((0, 0), "no assistant turn to learn from"), ((0.5, 1), r"messages\[1\]\.weight' must be 0 or 1, not 0\.5")],
)
def test_weights_that_mean_nothing_are_named(tmp_path, weights, says):
    turns = [*as_messages(None, "one", "first"), *as_messages(None, "two", "second")]
    turns = [t | {"weight": weights[i // 2]} if i % 2 else t for i, t in enumerate(turns)]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": turns}) + "\n")
    with pytest.raises(DataError, match=rf"rows\.jsonl, line 1: .*{says}"):
        read_dialogues(path)
    if weights == (0, 0):
        with pytest.raises(ValueError, match="no assistant turn"):
            TrainingRow(tuple(turns))


def test_a_dialogue_of_which_nothing_is_learned_is_refused():
    model, tokenizer = load_tiny_model("llama")
    alone = Dialogue(as_messages(None, "one", "first"), unlearned=frozenset({1}))
    with pytest.raises(TrainingError, match="no assistant token to learn"):
        finetune(model, tokenizer, [alone], progress=False)
