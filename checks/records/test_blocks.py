"""Which block Section 4 uses."""

from __future__ import annotations

import json

import pytest

from personalab import tiers
from personalab.records import artifacts, blocks


def test_the_block_is_yours_then_the_committed_one_then_the_tiers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(artifacts, "ROOT", tmp_path)
    monkeypatch.setenv("PERSONALAB_ARTIFACTS", str(tmp_path / "own"))
    tier = tiers.use_tier("cpu")
    assert blocks.steering_block() == tier.trait_block
    assert "the tier's setting" in capsys.readouterr().out
    reference = tmp_path / "artifacts" / "reference" / "cpu" / blocks.BLOCKS
    reference.parent.mkdir(parents=True)
    reference.write_text('{"steer": 12, "evil": {"read": 3}}')
    assert blocks.steering_block() == 12
    assert "block 12: chosen in Section 3, the committed reference" in capsys.readouterr().out
    artifacts.save_artifact(blocks.BLOCKS, {"steer": 9})
    assert blocks.steering_block() == 9
    assert "your own run" in capsys.readouterr().out


@pytest.mark.parametrize("content", [{"evil": {"read": 3, "steer": 4}}, {"steer": "17"}, {"steer": True}])
def test_a_file_without_such_a_block_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.setenv("PERSONALAB_ARTIFACTS", str(tmp_path))
    tiers.use_tier("cpu")
    artifacts.save_artifact(blocks.BLOCKS, content)
    with pytest.raises(ValueError, match="run Section 3 again"):
        blocks.steering_block()


def test_the_committed_block_exists_on_the_model():
    found = json.loads((artifacts.reference_dir() / blocks.BLOCKS).read_text(encoding="utf-8"))["steer"]
    assert type(found) is int and 0 <= found < tiers.current_tier().n_blocks
