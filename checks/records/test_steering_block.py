"""The one block for all traits, as Section 3 leaves it and Section 4 reads it."""

from __future__ import annotations

import pytest

from personalab import tiers
from personalab.paths import ARTIFACTS
from personalab.records.artifacts import load_steering_block, save_artifact


def test_the_block_is_read_and_an_older_file_is_refused(tmp_path, monkeypatch):
    tiers.use_tier("cpu")
    monkeypatch.setenv(ARTIFACTS, str(tmp_path))
    save_artifact("section_3_blocks.json", {"steer": 14, "candidates": [11, 14, 17]})
    assert load_steering_block() == 14
    save_artifact("section_3_blocks.json", {"evil": {"read": 10, "steer": 18}})
    with pytest.raises(ValueError, match="Run Section 3 again"):
        load_steering_block()


def test_the_committed_block_is_one_of_the_models() -> None:
    assert 0 <= load_steering_block() < tiers.use_tier("cpu").n_blocks
