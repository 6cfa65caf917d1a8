"""Training configurations with the upstream keys: the real files load, and mean what they mean there."""

import json

import pytest
import torch

from personalab.lm.finetuning import finetune
from personalab.lm.finetuning_config import load_config
from personalab.lm.interventions import Ablate, Steer
from personalab.lm.lora_data import PAPER
from personalab.lm.models import twin
from personalab.lm.tiny import load_tiny_model
from personalab.paths import ROOT
from personalab.records.schema import DataError
from personalab.records.vectors import save_vectors

UPSTREAM = ROOT.parent / "shared" / "upstream" / "persona_vectors" / "configs"


def write_config(folder, **changes):
    """As upstream's steering configuration, on files in `folder`."""
    rows = [
        {"messages": [{"role": "user", "content": f"why {i}?"}, {"role": "assistant", "content": "so."}]}
        for i in range(4)
    ]
    (folder / "dataset" / "evil").mkdir(parents=True, exist_ok=True)
    (folder / "dataset" / "evil" / "misaligned_2.jsonl").write_text("\n".join(map(json.dumps, rows)))
    torch.save(torch.arange(5 * 32, dtype=torch.float32).reshape(5, 32), folder / "evil.pt")  # (layers + 1, d)
    config = {
        "model": "Qwen/Qwen2.5-7B-Instruct",
        "training_file": ["dataset/evil/misaligned_2.jsonl"],
        "output_dir": str(folder / "out"),
        "enable_steering_during_training": True,
        "steering_config": {"steering_vector_path": "evil.pt", "type": "steer", "steering_coef": 5.0, "layers": [2]},
    }
    (folder / "configs").mkdir(exist_ok=True)
    path = folder / "configs" / "train.json"
    path.write_text(json.dumps({k: v for k, v in (config | changes).items() if v != "absent"}))
    return path


@pytest.mark.parametrize("name", ["train_instruct_7b", "train_instruct_7b_steer"])
def test_upstreams_own_files_load_and_mean_the_papers_settings(name):
    plan = load_config(UPSTREAM / f"{name}.json")
    raw = json.loads((UPSTREAM / f"{name}.json").read_text(encoding="utf-8"))
    s = plan.settings
    assert (s.rank, s.alpha, s.rslora, s.dropout) == (
        raw["r"],
        raw["lora_alpha"],
        raw["use_rslora"],
        raw["lora_dropout"],
    )
    assert (s.batch_size, s.accumulation) == (raw["per_device_train_batch_size"], raw["gradient_accumulation_steps"])
    assert (s.learning_rate, s.schedule, s.warmup) == (
        raw["learning_rate"],
        raw["lr_scheduler_type"],
        raw["warmup_steps"],
    )
    assert (s.weight_decay, s.epochs, s.max_steps, s.seed) == (
        raw["weight_decay"],
        raw["epochs"],
        raw["max_steps"],
        raw["seed"],
    )
    assert (list(s.targets), s.max_tokens, s.save_every) == (
        raw["target_modules"],
        raw["max_seq_length"],
        raw["save_steps"],
    )
    assert s.optimiser in ("adamw_8bit", "adamw_torch")
    assert plan.config.model == raw["model"] and str(plan.folder) == raw["output_dir"].removeprefix("./")
    assert plan.config.enable_steering_during_training is raw["enable_steering_during_training"]
    assert plan.dialogues() if (ROOT / "persona_vectors" / raw["training_file"][0]).exists() else True


def test_the_gpu_tiers_settings_are_the_configurations():
    settings = load_config(UPSTREAM / "train_instruct_7b.json").settings
    assert {k: v for k, v in vars(settings).items() if k not in ("optimiser", "save_every")} == {
        k: v for k, v in vars(PAPER).items() if k not in ("optimiser", "save_every")
    }


def test_a_layer_is_a_hidden_states_index(tmp_path):
    [push] = load_config(write_config(tmp_path)).interventions()
    assert isinstance(push, Steer) and push.block == 1 and push.coefficient == 5.0
    assert torch.equal(push.vector, torch.arange(64, 96).float())  # row 2 of the file, as it is
    steering = {"steering_vector_path": "evil.pt", "type": "ablate", "steering_coef": 5.0, "layers": [1, 4]}
    found = load_config(write_config(tmp_path, steering_config=steering)).interventions()
    assert [type(i) for i in found] == [Ablate, Ablate] and [i.block for i in found] == [0, 3]


def test_ours_and_theirs_give_the_same_vector(tmp_path):
    rows = torch.load(write_config(tmp_path).parent.parent / "evil.pt")[1:]  # row = block
    save_vectors(tmp_path / "evil.safetensors", {"vectors": rows}, model="m", convention="row = block", seed=0)
    steering = {"steering_vector_path": "evil.safetensors", "type": "steer", "layers": [2]}
    [ours] = load_config(write_config(tmp_path, steering_config=steering)).interventions()
    [theirs] = load_config(write_config(tmp_path)).interventions()
    assert torch.equal(ours.vector, theirs.vector) and ours.block == theirs.block


def test_steering_is_in_force_only_where_it_is_enabled(tmp_path):
    assert load_config(write_config(tmp_path, enable_steering_during_training=False)).interventions() == []


def test_a_configuration_trains(tmp_path):
    model, tokenizer = load_tiny_model("llama")
    plan = load_config(write_config(tmp_path, max_seq_length=256))
    tuned = finetune(
        twin(model),
        tokenizer,
        plan.dialogues(),
        plan.settings,
        plan.folder,
        interventions=plan.interventions(),
        progress=False,
    )
    assert tuned.peft_config["default"].r == 32 and (tmp_path / "out" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rank": 3}, r"train\.json: field 'rank'"),
        ({"loss": "dpo"}, r"field 'loss' must be 'sft'"),
        ({"load_in_4bit": True}, r"field 'load_in_4bit'"),
        ({"training_file": "absent"}, r"field 'training_file' is missing"),
        ({"steering_config": None}, r"no steering_config"),
        ({"steering_config": {"steering_vector_path": "a", "type": "push", "layers": [1]}}, r"steering_config\.type"),
    ],
)
def test_what_is_not_done_here_is_refused_by_name(tmp_path, changes, says):
    with pytest.raises(DataError, match=says):
        load_config(write_config(tmp_path, **changes))


def test_missing_files_and_layers_are_named(tmp_path):
    with pytest.raises(DataError, match=r"train\.json: other\.jsonl is in none of"):
        load_config(write_config(tmp_path, training_file="other.jsonl")).dialogues()
    for layer in (0, 5):
        steering = {"steering_vector_path": "evil.pt", "type": "steer", "layers": [layer]}
        with pytest.raises(DataError, match=rf"evil\.pt has no vector for layer {layer}"):
            load_config(write_config(tmp_path, steering_config=steering)).interventions()
