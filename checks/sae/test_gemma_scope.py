"""Section 3's bonus, as it stands in the notebook: Gemma's own trait vector, in the features of a GemmaScope."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

import utils
from personalab.course.myst import read_source
from personalab.lm.chat import as_messages, render_prompt
from personalab.lm.tiny import load_tiny_model
from personalab.paths import ROOT
from personalab.sae.files import load_sae

D, N, BLOCK = 32, 64, 2
CELLS = (
    "def extract_all_layer_activations_qwen", "def construct_system_prompt", "def filter_effective_pairs",
    "def extract_contrastive_vectors", "def top_sae_features", "def in_span", "def explain", "def vector_of",
)  # fmt: skip
DATA = {
    "instruction": [{"pos": f"Praise {x}.", "neg": f"Judge {x} fairly."} for x in ("the sea", "the moon")],
    "questions": ["What should I do?", "Tell me about the city."],
}


@pytest.fixture
def gemma_scope(tmp_path):
    """A tiny JumpReLU autoencoder with GemmaScope's tensors, in sae-lens's file format."""
    generator = torch.Generator().manual_seed(3)
    rows = F.normalize(torch.randn(N, D, generator=generator), dim=1)
    tensors = {"W_dec": rows, "W_enc": rows.T.contiguous(), "b_enc": torch.zeros(N), "threshold": torch.zeros(N)}
    save_file(tensors | {"b_dec": torch.randn(D, generator=generator)}, tmp_path / "sae_weights.safetensors")
    config = {
        "architecture": "jumprelu", "d_in": D, "d_sae": N, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": False, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12", "hook_name": f"blocks.{BLOCK}.hook_resid_post"},
    }  # fmt: skip
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    return load_sae(tmp_path)


def test_the_bonus_makes_gemmas_own_vector_and_takes_it_apart(gemma_scope, capsys):
    model, tokenizer = load_tiny_model("gemma2")
    seen: list[dict] = []

    def judge(trait: str, rows: list[dict], coherence: bool = True) -> None:  # as if all prompts but one had worked
        seen.extend(rows)
        for row in rows:
            failed = row["question"] == DATA["questions"][1] and row["instruction_idx"] == 1
            row["score"] = 90 if row["polarity"] == "pos" and not failed else 10

    here = {
        "utils": utils, "torch": torch, "np": np, "F": F, "Float": Float, "Tensor": Tensor, "partial": partial,
        "TIER": SimpleNamespace(in_process=False), "EXTRACT": {"sycophantic": DATA}, "N_TOKENS": 6, "judge": judge,
        "model": torch.nn.Linear(1, 1), "sae": gemma_scope, "SAE_BLOCK": utils.sae_block(gemma_scope),
        "sae_model": model, "sae_tokenizer": tokenizer, "sae_texts": ["The sea is deep and the moon is far."],
        "sae_vectors": {"Assistant Axis": torch.ones(D)},
    }  # fmt: skip
    cells = [cell.source for cell in read_source(ROOT / "instructions" / "section_3_contrastive_prompting.md").cells]
    for start in CELLS:
        (source,) = [source for source in cells if start in source and not source.startswith("tests.")]
        exec(source, here)
    # What it must be, from the answers that the judge saw: three pairs worked.
    worked = [r for r in seen if (r["question"], r["instruction_idx"]) != (DATA["questions"][1], 1)]
    assert len(seen) == 8 and len(worked) == 6
    means = []
    for side in ("pos", "neg"):
        read = [as_messages(r["system_prompt"], r["question"], r["response"]) for r in worked if r["polarity"] == side]
        means.append(utils.mean_response_activations(model, tokenizer, read)[:, BLOCK].mean(dim=0))
    vector = means[0] - means[1]
    torch.testing.assert_close(here["gemma_vector"], vector, rtol=1e-4, atol=1e-4)
    best = (vector @ gemma_scope.W_enc).argsort(descending=True)[:5].tolist()
    shown = capsys.readouterr().out.split("top features of: sycophantic, of Gemma")[1]
    assert [line.split(":")[0] for line in shown.splitlines() if line.startswith("feature")] == [
        f"feature {feature}" for feature in best
    ]
    assert "sae" not in here and "sae_model" not in here  # 27 billion parameters, off the device again


def test_gemma_2_reads_the_contrastive_prompt_in_the_first_users_turn():
    _, tokenizer = load_tiny_model("gemma2")
    prompt = render_prompt(as_messages("You are a sycophantic assistant.", "Is it late?"), tokenizer)
    turn = prompt.split("<start_of_turn>user\n")[1].split("<end_of_turn>")[0]
    assert turn.startswith("You are a sycophantic assistant.") and turn.endswith("Is it late?")
