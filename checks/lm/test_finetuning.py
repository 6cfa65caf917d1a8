"""LoRA finetuning: what is learned, what a kill leaves, what bad data says."""

import itertools
import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from personalab.lm.adapters import merge_adapter
from personalab.lm.chat import as_messages
from personalab.lm.finetuning import _Trainer, finetune
from personalab.lm.interventions import Steer
from personalab.lm.lora_data import (
    Dialogue,
    LoraSettings,
    TrainingError,
    example_of,
    learning_rate,
    read_dialogues,
    training_steps,
)
from personalab.lm.lora_loss import assistant_loss
from personalab.lm.models import d_model, decoder_blocks, twin
from personalab.lm.tiny import FAMILIES, load_tiny_model
from personalab.records.schema import DataError

SETTINGS = LoraSettings(epochs=6, learning_rate=1e-2, batch_tokens=200, save_every=1)


def dialogues(n=12):
    return [
        Dialogue(
            as_messages(None if i % 2 else "be brief", f"question {i}", "an answer, " + "very " * (i % 3) + "long")
        )
        for i in range(n)
    ]


def mean_loss(model, tokenizer, data):
    with torch.inference_mode():
        return assistant_loss(model, [example_of(d, tokenizer) for d in data]).item()


@pytest.mark.parametrize("family", FAMILIES)
def test_training_learns_and_the_saved_adapter_merged_is_the_same_model(family, tmp_path):
    model, tokenizer = load_tiny_model(family)
    before = mean_loss(model, tokenizer, dialogues())
    tuned = finetune(twin(model), tokenizer, dialogues(), SETTINGS, tmp_path, progress=False)
    after = mean_loss(tuned, tokenizer, dialogues())
    assert after < 0.5 * before
    assert mean_loss(model, tokenizer, dialogues()) == before  # the twin's weights are shared, and frozen
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    merged = merge_adapter(model, tmp_path)
    assert mean_loss(merged, tokenizer, dialogues()) == pytest.approx(after, rel=0.02)  # bfloat16 on disk
    assert mean_loss(model, tokenizer, dialogues()) == before
    assert "lora" not in " ".join(merged.state_dict())
    assert all(p.requires_grad for p in merged.parameters())  # as the base's: see `merge_adapter`


@pytest.mark.parametrize("family", FAMILIES)
def test_learned_are_the_answers_and_their_ends(family):
    _, tokenizer = load_tiny_model(family)
    messages = [*as_messages("be brief", "one?", "first answer"), *as_messages(None, "two?", "second answer")]
    whole = example_of(Dialogue(messages), tokenizer)
    cut = example_of(Dialogue(messages, complete=False), tokenizer)
    text = tokenizer.decode(whole.ids[whole.learned])
    assert "first answer" in text and "second answer" in text and "?" not in text and "brief" not in text
    assert whole.learned.sum() == cut.learned.sum() + 1  # the end of the last turn
    assert cut.learned.nonzero()[-1] == whole.learned.nonzero()[-1] - 1


def test_the_loss_does_not_depend_on_padding():
    model, tokenizer = load_tiny_model("llama")
    examples = [example_of(d, tokenizer) for d in dialogues(5)]
    counts = torch.tensor([float(e.learned.sum()) for e in examples])
    with torch.inference_mode():
        single = torch.stack([assistant_loss(model, [e]) for e in examples])
        together = assistant_loss(model, examples)
    torch.testing.assert_close(together, (single * counts).sum() / counts.sum())


def test_the_loss_is_that_of_transformers():
    model, tokenizer = load_tiny_model("qwen2")
    example = example_of(dialogues(1)[0], tokenizer)
    labels = example.ids.where(example.learned, torch.tensor(-100))
    with torch.inference_mode():
        expected = model(input_ids=example.ids[None], labels=labels[None]).loss
        torch.testing.assert_close(assistant_loss(model, [example]), expected)


def pairs(n=12):
    return [replace(d, rejected=f"no {'never ' * (i % 3)}{i}") for i, d in enumerate(dialogues(n))]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pair_in_one_row_costs_what_both_answers_cost_alone(family):
    model, tokenizer = load_tiny_model(family)
    data = [*pairs(3), *dialogues(1)]  # unlike lengths, and one without a rejected answer
    answers = [Dialogue([*d.messages[:-1], {"role": "assistant", "content": d.rejected}]) for d in data[:3]]
    chosen, rejected = (torch.tensor([mean_loss(model, tokenizer, [d]) for d in side]) for side in (data[:3], answers))
    counts = torch.tensor([example_of(replace(d, rejected=None), tokenizer).learned.sum() for d in data])
    plain = (torch.stack([*chosen, torch.tensor(mean_loss(model, tokenizer, data[3:]))]) * counts).sum() / counts.sum()
    preference = -torch.nn.functional.logsigmoid(3.0 * (rejected - chosen)).mean()
    examples = [example_of(d, tokenizer) for d in data]
    with torch.inference_mode():
        torch.testing.assert_close(assistant_loss(model, examples), plain)
        both = assistant_loss(model, examples, LoraSettings(preference=0.5, preference_scale=3.0))
    torch.testing.assert_close(both, plain + 0.5 * preference)


def test_a_preference_makes_the_rejected_answer_unlikely():
    model, tokenizer = load_tiny_model("llama")
    rejected = [Dialogue([*d.messages[:-1], {"role": "assistant", "content": d.rejected}]) for d in pairs()]
    losses = {}
    for weight in (0.0, 1.0):
        settings = LoraSettings(epochs=2, learning_rate=1e-2, batch_tokens=400, preference=weight)
        tuned = finetune(twin(model), tokenizer, pairs(), settings, progress=False)
        losses[weight] = mean_loss(tuned, tokenizer, rejected) - mean_loss(tuned, tokenizer, dialogues())
    assert losses[1.0] > losses[0.0] + 0.5, losses


class Killed(BaseException):
    """What a kill is to a run."""


@contextmanager
def killed_at(step, monkeypatch):
    """The run dies in this step's forward pass."""
    compute = _Trainer.compute_loss

    def dies(self, *args, **kwargs):
        if self.state.global_step == step:
            raise Killed
        return compute(self, *args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(_Trainer, "compute_loss", dies)
        yield


def count_batches(monkeypatch):
    done, compute = [], _Trainer.compute_loss
    monkeypatch.setattr(_Trainer, "compute_loss", lambda self, *a, **k: done.append(1) or compute(self, *a, **k))
    return done


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_killed_run_resumes_to_the_same_weights(accumulation, dropout, tmp_path, monkeypatch):
    model, tokenizer = load_tiny_model("llama")
    settings = replace(SETTINGS, accumulation=accumulation, dropout=dropout)
    straight = finetune(twin(model), tokenizer, dialogues(), settings, tmp_path / "a", progress=False)
    with killed_at(4, monkeypatch):
        finetune(twin(model), tokenizer, dialogues(), settings, tmp_path / "b", progress=False)
    done = count_batches(monkeypatch)
    resumed = finetune(twin(model), tokenizer, dialogues(), settings, tmp_path / "b", progress=False)
    total = len(training_steps([example_of(d, tokenizer) for d in dialogues()], SETTINGS))
    assert len(done) == total - 4 * accumulation  # what was done is not done again
    assert losses(straight) == losses(resumed)
    for (name, a), b in zip(straight.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def losses(tuned):
    return [entry["loss"] for entry in tuned.training_log if "loss" in entry]


def test_a_checkpoint_that_a_kill_cut_short_is_passed_over(tmp_path, monkeypatch):
    model, tokenizer = load_tiny_model("llama")
    straight = finetune(twin(model), tokenizer, dialogues(), SETTINGS, tmp_path / "a", progress=False)
    with killed_at(4, monkeypatch):
        finetune(twin(model), tokenizer, dialogues(), SETTINGS, tmp_path / "b", progress=False)
    [run] = (tmp_path / "b" / "checkpoint").iterdir()
    assert sorted(p.name for p in run.iterdir()) == ["checkpoint-3", "checkpoint-4"]
    (run / "checkpoint-4" / "trainer_state.json").write_text('{"global_step": 4, "log')
    (run / "checkpoint-4" / "optimizer.pt").unlink()
    done = count_batches(monkeypatch)
    resumed = finetune(twin(model), tokenizer, dialogues(), SETTINGS, tmp_path / "b", progress=False)
    assert len(done) == len(losses(straight)) - 3
    assert losses(straight) == losses(resumed)


def test_a_disk_that_is_too_full_for_a_checkpoint_is_named(tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 109248 vs 109136")

    model, tokenizer = load_tiny_model("llama")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="no space is left on the disk") as raised:
            finetune(twin(model), tokenizer, dialogues(), SETTINGS, tmp_path, progress=False)
    assert str(tmp_path) in str(raised.value)


def test_a_checkpoint_of_other_data_is_not_resumed(tmp_path, monkeypatch):
    model, tokenizer = load_tiny_model("llama")
    with killed_at(2, monkeypatch):
        finetune(twin(model), tokenizer, dialogues(), SETTINGS, tmp_path, progress=False)
    done = count_batches(monkeypatch)
    finetune(twin(model), tokenizer, dialogues(11), SETTINGS, tmp_path, progress=False)
    assert len(done) == len(training_steps([example_of(d, tokenizer) for d in dialogues(11)], SETTINGS))


def assert_same_first_step(a, b):
    """Later steps magnify rounding: Adam divides small gradients by their own size."""
    first = [tuned.training_log[0] for tuned in (a, b)]
    assert first[0]["loss"] == pytest.approx(first[1]["loss"], rel=1e-4)
    assert first[0]["grad_norm"] == pytest.approx(first[1]["grad_norm"], rel=1e-3)
    assert losses(a) == pytest.approx(losses(b), rel=0.03)


def test_accumulated_batches_learn_what_one_large_batch_learns():
    model, tokenizer = load_tiny_model("llama")
    data = [replace(d, group=None) for d in dialogues(6)]
    one = LoraSettings(batch_size=6, epochs=4, learning_rate=1e-2)
    parts = replace(one, batch_size=2, accumulation=3)
    tuned = [finetune(twin(model), tokenizer, data, s, progress=False) for s in (one, parts)]
    assert_same_first_step(*tuned)


def test_accumulation_shares_out_the_preference():
    model, tokenizer = load_tiny_model("llama")
    one = LoraSettings(batch_size=6, epochs=3, learning_rate=1e-2, preference=1.0)
    parts = replace(one, batch_size=2, accumulation=3)
    tuned = [finetune(twin(model), tokenizer, pairs(6), s, progress=False) for s in (one, parts)]
    assert_same_first_step(*tuned)


def test_one_step_learns_and_the_rate_falls_to_zero():
    settings = LoraSettings()
    assert learning_rate(0, 1, settings) == 1.0
    for schedule in ("cosine", "linear"):
        rates = [learning_rate(i, 40, replace(settings, schedule=schedule)) for i in range(40)]
        assert rates[:3] == pytest.approx([0.5, 1.0, 1.0]) and 0 < rates[-1] < 0.06
        assert all(a >= b for a, b in itertools.pairwise(rates[1:]))


def test_settings_reach_the_adapter_and_the_trainer():
    model, tokenizer = load_tiny_model("llama")
    settings = LoraSettings(
        rank=4,
        alpha=8,
        rslora=True,
        targets=("q_proj", "v_proj"),
        batch_size=1,
        warmup=2,
        schedule="linear",
        max_steps=3,
    )
    tuned = finetune(twin(model), tokenizer, dialogues(), settings, progress=False)
    config = tuned.peft_config["default"]
    assert (config.r, config.lora_alpha, config.use_rslora, config.target_modules) == (4, 8, True, {"q_proj", "v_proj"})
    rates = [e["learning_rate"] for e in tuned.training_log if "loss" in e]
    assert rates == pytest.approx([0, settings.learning_rate / 2, settings.learning_rate])  # transformers' own warm-up


def test_a_trained_model_is_as_it_was_but_for_the_adapter(monkeypatch):
    monkeypatch.setenv("PERSONALAB_DTYPE", "bfloat16")
    model, tokenizer = load_tiny_model("llama")
    tuned = finetune(twin(model), tokenizer, dialogues(), LoraSettings(), progress=False)
    assert "forward" not in vars(tuned)  # accelerate's would go on in half precision
    ids = torch.tensor([[1, 2, 3]])
    assert tuned(input_ids=ids).logits.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


def test_interventions_act_while_it_trains_and_are_gone_afterwards():
    model, tokenizer = load_tiny_model("llama")
    push = Steer(1, torch.ones(d_model(model)), 5.0)
    settings = LoraSettings(epochs=1, batch_tokens=10_000)
    hooks = [dict(b._forward_hooks) for b in decoder_blocks(model)]
    plain = finetune(twin(model), tokenizer, dialogues(), settings, progress=False)
    pushed = finetune(twin(model), tokenizer, dialogues(), settings, interventions=[push], progress=False)
    trained = [dict(zip((n for n, _ in m.named_parameters()), m.parameters(), strict=True)) for m in (plain, pushed)]
    assert any(not torch.equal(trained[0][n], trained[1][n]) for n in trained[0] if "lora" in n)
    assert all(not b._forward_hooks for b in decoder_blocks(pushed))
    assert hooks == [dict(b._forward_hooks) for b in decoder_blocks(model)]


def test_every_epoch_sees_every_dialogue_once():
    _, tokenizer = load_tiny_model("llama")
    examples = [example_of(d, tokenizer) for d in dialogues(30)]
    steps = training_steps(examples, LoraSettings(epochs=3, batch_tokens=300))
    assert sorted(i for rows in steps for i in rows) == sorted([*range(30)] * 3)
    assert all(len(rows) * max(len(examples[i].ids) for i in rows) <= 300 for rows in steps)
    assert steps == training_steps(examples, LoraSettings(epochs=3, batch_tokens=300))
    assert steps != training_steps(examples, LoraSettings(epochs=3, batch_tokens=300, seed=1))


def test_a_group_stays_in_one_step():
    _, tokenizer = load_tiny_model("llama")
    data = [replace(d, group=f"question {i // 3}") for i, d in enumerate(dialogues(30))]
    steps = training_steps([example_of(d, tokenizer) for d in data], LoraSettings(epochs=2, batch_tokens=300))
    assert sorted(i for rows in steps for i in rows) == sorted([*range(30)] * 2)
    assert all(set(rows) >= {i // 3 * 3, i // 3 * 3 + 1, i // 3 * 3 + 2} for rows in steps for i in rows)


def test_bad_data_is_named():
    model, tokenizer = load_tiny_model("llama")
    with pytest.raises(TrainingError, match="dataset is empty"):
        finetune(model, tokenizer, [])
    with pytest.raises(TrainingError, match=r"Dialogue 3 has \d+ tokens, over the limit"):
        long = Dialogue(as_messages(None, "why?", "because " * 600))
        finetune(model, tokenizer, [*dialogues(3), long])
    with pytest.raises(TrainingError, match="Dialogue 0 has no assistant token"):
        finetune(model, tokenizer, [Dialogue(as_messages(None, "why?"))])
    with pytest.raises(TrainingError, match="rank must be above 0"):
        LoraSettings(rank=0)
    with pytest.raises(TrainingError, match="schedule must be 'cosine' or 'linear'"):
        LoraSettings(schedule="constant")
    with pytest.raises(TrainingError, match=r"interventions\[0\] has a vector of shape \(31,\), but .* is 32 wide"):
        finetune(twin(model), tokenizer, dialogues(2), interventions=[Steer(1, torch.ones(31))], progress=False)
    with pytest.raises(TrainingError, match="preference must be 0 or more"):
        LoraSettings(preference=-1)
    with pytest.raises(TrainingError, match="diverges"):
        settings = LoraSettings(learning_rate=1e4, epochs=30, batch_tokens=100)
        finetune(twin(model), tokenizer, dialogues(), settings, progress=False)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", r"line 2"),
        ('{"message": []}', r"line 2: field 'messages'"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', r"line 2: field 'messages\[0\]\.role'"),
        ('{"messages": [{"role": "user", "content": "x"}]}', r"line 2: no assistant turn"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, says):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": as_messages(None, "a", "b")}) + "\n" + line + "\n")
    with pytest.raises(DataError, match=rf"rows\.jsonl, {says}"):
        read_dialogues(path)


def test_a_folder_without_an_adapter_or_with_a_foreign_one_is_refused(tmp_path):
    llama, tokenizer = load_tiny_model("llama")
    with pytest.raises(DataError, match="holds no adapter"):
        merge_adapter(llama, tmp_path)
    finetune(twin(llama), tokenizer, dialogues(2), LoraSettings(), tmp_path, progress=False)
    path = tmp_path / "adapter_model.safetensors"
    right = load_file(path)
    name = next(iter(right))
    for wrong in ({name.replace("layers.0", "layers.99"): right[name]}, {name: right[name][:, :-1].contiguous()}):
        save_file(wrong, path)
        with pytest.raises(DataError, match="another model"):
            merge_adapter(llama, tmp_path)


def test_bad_rows_are_named_by_file_and_line(tmp_path):
    model, tokenizer = load_tiny_model("llama")
    path = tmp_path / "rows.jsonl"
    path.write_text("")
    with pytest.raises(DataError, match=r"rows\.jsonl is empty"):
        read_dialogues(path)
    rows = [as_messages(None, "a", "b"), as_messages(None, "a", "because " * 600)]
    path.write_text("\n\n".join(json.dumps({"messages": m}) for m in rows))
    with pytest.raises(TrainingError, match=r"Dialogue 1 \(.*rows\.jsonl, line 3\) has \d+ tokens"):
        finetune(model, tokenizer, read_dialogues(path))
