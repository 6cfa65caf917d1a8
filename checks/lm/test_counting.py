"""Tokens are counted where they enter a model: whoever asks, and in its twins."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from personalab import tiers
from personalab.lm import counting, models
from personalab.lm.generation import generate, requests_for
from personalab.lm.tiny import load_tiny_model
from personalab.records import provenance


def test_read_and_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in load_tiny_model("qwen2", n_blocks=2):
        part.save_pretrained(tmp_path / "tiny")
    monkeypatch.setenv("PERSONALAB_DTYPE", "float32")
    monkeypatch.setattr(models, "_pristine", {})
    monkeypatch.setattr(counting, "_counts", {})
    name = str(tmp_path / "tiny")
    tiers.use_tier("local", name)
    model, tokenizer = models.load_model("trait")
    with torch.inference_mode():
        model(torch.zeros(2, 7, dtype=torch.long))
    assert counting.counts() == {name: {"passes": 1, "read": 14, "decoded": 0}}
    models.twin(model)(torch.zeros(1, 1, dtype=torch.long))
    models.load_model("persona")[0](input_ids=torch.zeros(1, 3, dtype=torch.long))
    assert counting.counts()[name] == {"passes": 3, "read": 17, "decoded": 1}
    (answer,) = generate(model, tokenizer, requests_for([[{"role": "user", "content": "The sea?"}]], max_tokens=6))
    assert counting.counts()[name]["decoded"] == answer.n_tokens  # 1 from before, and all but its own first
    assert provenance.describe()["tokens"] == counting.counts()
