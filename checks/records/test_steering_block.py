"""The one block for all traits, as Section 3 leaves it and Section 4 reads it."""

from __future__ import annotations

import pytest
import torch

from personalab import tiers
from personalab.paths import ARTIFACTS
from personalab.records.artifacts import load_axis_of_section_1, load_steering_block, save_artifact


def test_the_block_is_read_and_an_older_file_is_refused(tmp_path, monkeypatch):
    tiers.use_tier("cpu")
    monkeypatch.setenv(ARTIFACTS, str(tmp_path))
    save_artifact("section_3_blocks.json", {"steer": 14, "candidates": [11, 14, 17]})
    assert load_steering_block() == 14
    save_artifact("section_3_blocks.json", {"evil": {"read": 10, "steer": 18}})
    with pytest.raises(ValueError, match="Run Section 3 again"):
        load_steering_block()


def test_a_model_of_ones_own_never_gets_the_courses_block(monkeypatch, tmp_path):
    monkeypatch.setenv(ARTIFACTS, str(tmp_path))
    tiers.use_tier("cpu", trait_model="some/model")  # of 12 blocks, say
    with pytest.raises(FileNotFoundError, match="some--model"):
        load_steering_block()
    tiers.use_tier("cpu")


def test_section_1s_axis_is_of_the_trait_model_or_not_used(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(ARTIFACTS, str(tmp_path))
    tiers.use_tier("cpu")
    axis, block = load_axis_of_section_1()  # the committed one: the organism is that model and an adapter
    assert axis.shape == (576,) and block == 21
    tiers.use_tier("cpu", trait_model="some/model")
    assert load_axis_of_section_1() is None and "run Section 1" in capsys.readouterr().out
    made = {"axis": torch.ones(8)}, {"convention": "block 2"}
    for model, fits in (("other/model", False), ("some/model", True)):
        save_artifact("section_1_axis.safetensors", made[0], model=model, **made[1])
        found = load_axis_of_section_1()
        assert (found is not None) == fits and (not found or found[1] == 2)
        assert fits or "is of other/model" in capsys.readouterr().out
    tiers.use_tier("cpu")


def test_the_committed_block_is_one_of_the_models() -> None:
    assert 0 <= load_steering_block() < tiers.use_tier("cpu").n_blocks
