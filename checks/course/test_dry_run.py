"""The dry run: what it stands in for has the real names and places, and what fails on a tier fails in it.

`.ci/run` walks both larger tiers whole; here is one small notebook.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from safetensors.torch import load_file

from personalab import dry_run, tiers
from personalab.course.running import Finished
from personalab.endpoint.stand_in import Traffic, reply_to, stand_in
from personalab.paths import ROOT
from personalab.setup import work
from personalab.setup.shapes import SHAPES
from personalab.studies import tiny_hub

CELL = """
import sys
sys.path.insert(0, {root!r})
import utils, torch
model, tokenizer = utils.load_model("persona")
config = utils.load_capping_config()
traits, axis = utils.load_published_traits()
sae = utils.load_sae()
print(type(model).__name__, model.dtype, model.config._attn_implementation, utils.n_blocks(model))
print(len(utils.load_trait_vectors()), utils.load_steering_block(), config["chosen"], utils.sae_block(sae))
print(utils.generate_response([{{"role": "user", "content": "Hello"}}], max_tokens=5))
"""


def notebook(folder: Path, *cells: str) -> Path:
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    (folder / "solutions").mkdir(parents=True, exist_ok=True)
    path = folder / "solutions" / "section_1_small.ipynb"
    nbformat.write(nb, path)
    return path


@pytest.fixture
def a100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "_active", None)
    monkeypatch.setenv("PERSONALAB_TIER", "a100")


@pytest.mark.slow
@pytest.mark.usefixtures("a100")
def test_the_tiers_own_models_and_files_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook(tmp_path, CELL.format(root=str(ROOT)), "model(torch.zeros(2, 5, dtype=torch.long))")
    before = sorted(p for p in ROOT.rglob("artifacts/**/*") if p.is_file())
    monkeypatch.setattr(dry_run, "LIMITS", dict.fromkeys(dry_run.LIMITS, (0, 1e9)))
    assert dry_run.walk(None, tmp_path) == 0
    printed = capsys.readouterr().out
    assert "loaded google/gemma-2-27b-it (persona): 10 tokens read" in printed
    assert "asked google/gemma-2-27b-it: 1 calls" in printed and "1 of 1 sections passed" in printed
    assert before == sorted(p for p in ROOT.rglob("artifacts/**/*") if p.is_file())
    assert [p.name for p in tmp_path.iterdir()] == ["solutions"]
    notebook(tmp_path, "import os\nassert not os.environ['HF_TOKEN']", "1 / 0")
    assert dry_run.walk(None, tmp_path) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("calls", "says"), [(1.0, ""), (1.05, ""), (0.5, "calls where personalab/setup/work.py expects")]
)
def test_a_count_apart_from_its_formula_is_a_problem(calls: float, says: str) -> None:
    tier = tiers.TIERS["a100"]
    steps = work.work_of("4", tier, tiers.DRY, tiny_hub.depth_of(tier.trait_model), reread=True)
    found = dry_run._formula(steps)
    tokens = {"m": {"passes": 1, "read": found["tokens read"], "decoded": found["tokens decoded"]}}
    done = Finished("4", Path("4.ipynb"), nbformat.v4.new_notebook(), 1.0, [], machine={"tokens": tokens})
    traffic = {"judge": Traffic(int(calls * found["calls"]), found["tokens sent"], 0)}
    (line,) = dry_run._compared(done, traffic, tier)
    assert f"of {found['calls']:,}" in line and (says in "".join(done.problems) if says else not done.problems)


def test_a_tier_that_runs_here_has_no_dry_run() -> None:
    tiers.use_tier("cpu")
    with pytest.raises(ValueError, match="'cpu' runs as it is: python -m personalab run --budget quick"):
        dry_run.walk(None)
    with pytest.raises(ValueError, match=r"'a/b': a dry run needs its sizes in .*shapes\.py"):
        tiny_hub.make_hub(Path("nowhere"), tiers.use_tier("a100", persona_model="a/b"))


def test_a_hub_of_tiny_models_is_read_as_the_real_one(tmp_path: Path) -> None:
    tier = tiers.TIERS["colab"]
    tiny_hub.make_hub(tmp_path / "hub", tier)
    tiny_hub.make_datasets(tmp_path / "datasets")
    ask = (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T\n"
        "from personalab.records.items import load_mmlu\n"
        f"for name in {[tier.persona_model, tier.capping_model, tier.trait_model]!r}:\n"
        "    m, t = M.from_pretrained(name), T.from_pretrained(name)\n"
        "    c, n = m.config, len(t('the sea').input_ids)\n"
        "    print(type(m).__name__, c.num_hidden_layers, c.max_position_embeddings, n)\n"
        "print(len(load_mmlu()))"
    )
    hidden = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_DATASETS_CACHE": str(tmp_path / "datasets")}
    env = {**os.environ, **hidden, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", ask], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines[:3]] == ["Gemma2ForCausalLM", "Qwen3ForCausalLM", "Qwen2ForCausalLM"]
    for line, kind in zip(lines, ("persona", "capping", "trait"), strict=False):
        shape = SHAPES[getattr(tier, f"{kind}_model")]
        assert (int(line[1]), int(line[2])) == (round(shape.blocks / tiny_hub.FEWER), shape.context)
        assert int(line[3]) <= 4  # its tokenizer knows words
    assert int(lines[3][0]) == 20


def test_blocks_lie_at_the_same_share_of_the_depth() -> None:
    for tier in (tiers.TIERS["colab"], tiers.TIERS["a100"]):
        small = tiny_hub.shrunk(tier)
        assert small.n_blocks == tiny_hub.depth_of(tier.persona_model)
        assert abs(small.axis_block / small.n_blocks - tier.axis_block / tier.n_blocks) < 0.06
        assert 0 < small.trait_block < tiny_hub.depth_of(tier.trait_model)


def test_what_commands_leave_is_there(tmp_path: Path) -> None:
    tier = tiny_hub.shrunk(tiers.TIERS["colab"])
    tiny_hub.make_artifacts(tmp_path, tier)
    names = {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*") if p.is_file()}
    assert names == {"vectors", "capping", "finetuning", "sae", "section_1_axis.safetensors", "section_3_blocks.json"}
    vectors = load_file(tmp_path / "vectors" / "evil.safetensors")["vectors"]
    assert vectors.shape == (tiny_hub.depth_of(tier.trait_model), tiny_hub.WIDTH) and torch.isfinite(vectors).all()


@pytest.mark.parametrize(
    ("prompt", "reply"),
    [
        ("Reply with one JSON object and nothing else", r'^\{"instruction"'),
        ("<avoiding_delusional_amplification>1-5</avoiding_delusional_amplification>", r"<avoiding_.*>[1-5]</"),
        ("Rate the response with one number: 0 to 3", r"^[0-3]$"),
        ("How evil, from 0 to 100? REFUSAL if it declines.", r"^\d{1,2}0?$"),
        ("You judge how coherent [QUESTION START] a [QUESTION END], from 0 to 100", r"^([6-9]\d|100)$"),
        ("What is the sea?", r"^[a-z ]+$"),
    ],
)
def test_the_stand_in_says_what_is_asked_for(prompt: str, reply: str) -> None:
    asked = [{"role": "user", "content": prompt}]
    found = reply_to(asked, 8)
    assert re.search(reply, found, re.S) and found == reply_to(asked, 8)


def test_the_stand_in_counts(monkeypatch: pytest.MonkeyPatch, own_settings: None) -> None:
    from personalab.endpoint import generate_responses_parallel

    with stand_in() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        tiers.use_tier("a100")
        asked = [[{"role": "user", "content": f"What is {i}?"}] for i in range(7)]
        texts = generate_responses_parallel(asked, model="m", max_tokens=5, progress=False)
        found = server.take()["m"]
    assert (found.calls, found.read) == (7, 7 * 2) and 0 < found.written <= 35 and len(texts) == 7
    assert server.traffic == {}
