"""The comparison with other packages: its own two sides agree, its table is that of the committed results."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.peers import table
from benchmarks.peers.environments import PEERS, TORCH
from benchmarks.peers.sides import SIDES
from personalab.lm import chat
from personalab.lm.tiny import load_tiny_model
from personalab.paths import ROOT

TEXTS = ["One two three four", "One two", "The sea and the moon", "A friend", "Truth", "The city of the sea"]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    model, tokenizer = load_tiny_model("qwen2")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


def test_both_sides_of_this_environment_do_the_same(folder: str) -> None:
    ours, plain = (SIDES[name](folder, "float32") for name in ("ours", "transformers"))
    read = ours.extract(TEXTS, [0, 2], None)
    assert read.shape == (2, 32)
    for batch in (None, 4):
        assert np.allclose(plain.extract(TEXTS, [0, 2], batch), read, atol=1e-5)
    conversations = [chat.as_messages("", text) for text in TEXTS[:3]]
    prompts = [chat.render(c, ours.tokenizer, add_generation_prompt=True) for c in conversations]
    vector = torch.from_numpy(read[1])
    mine = ours.generate(conversations, 2, vector, [0.0, 4.0], 6, None)
    assert mine[0] != mine[1]
    for batch in (None, 3):
        assert plain.generate(prompts, 2, vector, [0.0, 4.0], 6, batch) == mine


def test_a_worker_answers_line_by_line(folder: str) -> None:
    job = {"do": "extract", "texts": TEXTS, "blocks": [1], "batch": None}
    command = [sys.executable, "-m", "benchmarks.peers.worker", "transformers", folder, "float32"]
    lines = "".join(json.dumps(j) + "\n" for j in (job | {"blocks": [99]}, job))
    done = subprocess.run(command, cwd=ROOT, input=lines, capture_output=True, text=True, check=True)
    failed, worked = map(json.loads, done.stdout.splitlines())
    assert failed["error"].startswith("IndexError")
    assert np.shape(worked["out"]) == (1, 32) and worked["clock"] > 0 and worked["processor"] > 0


def test_the_table_is_that_of_the_results() -> None:
    shown = table.README.read_text(encoding="utf-8").partition(table.BEGIN)[2].partition(table.END)[0]
    assert shown.strip() == table.tables(json.loads(table.RESULTS.read_text(encoding="utf-8")))


def test_no_peer_is_among_what_the_course_installs() -> None:
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert TORCH in pins and PEERS["transformers"][0] in pins
    files = [*ROOT.glob("requirements*.txt"), ROOT / "pyproject.toml"]
    for peer in set(PEERS) - {"transformers"}:
        for path in files:
            assert not re.search(rf"^\W*{peer}\b", path.read_text(encoding="utf-8"), re.M), (peer, path)
