"""Models' sizes, against transformers' own classes, and what the formulas make of them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Qwen2Config, Qwen3Config

from personalab import tiers
from personalab.lm.batching import GPU_TOKENS
from personalab.lm.generation import Request, batches_of
from personalab.lm.lora_data import PAPER
from personalab.setup import gpu
from personalab.setup.shapes import SHAPES, Shape
from personalab.setup.work import SECTIONS, Work, work_of

CLASSES = {"gemma2": Gemma2Config, "llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
PUBLISHED = {  # of each model's card or safetensors index
    "google/gemma-2-27b-it": 27_227_128_320,
    "google/gemma-2-2b-it": 2_614_341_888,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "SmolLM2-135M-Instruct": 134_515_008,
}


def made(shape: Shape, device: torch.device) -> torch.nn.Module:
    config = CLASSES[shape.family](
        hidden_size=shape.d_model,
        intermediate_size=shape.d_mlp,
        num_hidden_layers=shape.blocks,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
    )
    with device:
        return AutoModelForCausalLM.from_config(config)


def on_meta(shape: Shape, blocks: int | None = None) -> torch.nn.Module:
    """Without memory for its weights."""
    return made(dataclasses.replace(shape, blocks=blocks or shape.blocks), torch.device("meta"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_the_class_and_of_the_published_model(name: str) -> None:
    shape = SHAPES[name]
    assert shape.parameters == PUBLISHED[name]
    two, three = (sum(p.numel() for p in on_meta(shape, blocks=n).parameters()) for n in (2, 3))
    assert three - two == shape.block_parameters
    assert two + (shape.blocks - 2) * shape.block_parameters == shape.parameters


def test_every_model_of_a_tier_is_known() -> None:
    for tier in tiers.TIERS.values():
        for kind in ("persona", "capping", "trait"):
            shape = SHAPES[getattr(tier, f"{kind}_model")]
        assert SHAPES[tier.persona_model].blocks == tier.n_blocks
        assert tier.trait_block < shape.blocks


def test_bytes_of_a_cache_are_those_of_its_tensors() -> None:
    shape = SHAPES["Qwen/Qwen2.5-1.5B-Instruct"]
    keys = torch.empty(3, shape.kv_heads, 50, shape.head_dim, dtype=torch.bfloat16)
    assert shape.cache_bytes(150, "bfloat16") == 2 * shape.blocks * keys.nbytes


@pytest.mark.parametrize("name", ["google/gemma-2-27b-it", "Qwen/Qwen3-32B", "SmolLM2-135M-Instruct"])
def test_flops_are_those_that_torch_counts(name: str) -> None:
    """Of a narrow model with the same number of heads; torch counts attention's own products as well."""
    shape = SHAPES[name]
    sizes = {"d_model": 16 * shape.heads, "d_mlp": 64 * shape.heads, "head_dim": 16, "vocabulary": 999}
    narrow, tokens = dataclasses.replace(shape, blocks=2, **sizes), 20
    model = made(narrow, torch.device("cpu"))
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        model(torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    assert 0.97 < counted.get_total_flops() / narrow.flops(tokens) < 1.06


def test_adapters_are_counted_as_peft_makes_them() -> None:
    from peft import LoraConfig, get_peft_model

    shape = SHAPES["SmolLM2-135M-Instruct"]
    adapted = get_peft_model(on_meta(shape), LoraConfig(r=4, target_modules=list(PAPER.targets)))
    assert shape.lora_parameters(4) == sum(p.numel() for n, p in adapted.named_parameters() if "lora_" in n)
    assert PAPER.rank == gpu.RANK


@pytest.mark.parametrize("name", sorted(gpu.GPUS))
@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_fits_its_card(name: str, section: str) -> None:
    tier, card = tiers.TIERS[name], gpu.GPUS[name]
    for budget in ("full", "quick"):
        found = gpu.needs(work_of(section, tier, tier.budgets[budget]), tier, card)
        assert found.weights < found.peak < card.memory
        assert 0 < found.seconds < 10 * 3600


def test_a_batch_of_the_formula_is_the_engines() -> None:
    tier = tiers.TIERS["a100"]
    step = Work("answers", "trait", 200, 66, 256)
    requests = [Request([], step.written)] * step.n
    batches = list(batches_of([[1] * step.read] * step.n, requests, tier.max_batch_tokens, tier.max_batch_rows))
    assert gpu.READ_TOKENS == GPU_TOKENS
    assert len(batches[0]) == min(tier.max_batch_rows, tier.max_batch_tokens // (step.read + step.written))
