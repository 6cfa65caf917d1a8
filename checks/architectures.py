"""Tiny random models of 35 architectures, and the naive loop each is held against: one row, no cache, plain hooks.

The vocabulary is the tiny Qwen 2 tokenizer's; windows are short, so that the conversations of a check exceed them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from personalab.lm.models import decoder_blocks
from personalab.lm.tiny import FAMILIES, load_tiny_model

WINDOW = 16
_ROTARY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.3,
}
_GPT = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 2048, "initializer_range": 0.3}
_OLD = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 2048}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_MIXED = ["sliding_attention", "full_attention"] * 2

# name: configuration class, what it needs beyond the common sizes
_CONFIGS: dict[str, tuple[str, dict[str, object]]] = {
    "mistral": ("MistralConfig", {**_ROTARY, "sliding_window": WINDOW}),
    "phi3": ("Phi3Config", {**_ROTARY, "sliding_window": WINDOW}),
    "starcoder2": ("Starcoder2Config", {**_ROTARY, "sliding_window": WINDOW}),
    "mixtral": ("MixtralConfig", {**_ROTARY, **_EXPERTS, "sliding_window": WINDOW}),
    "cohere2": ("Cohere2Config", {**_ROTARY, "sliding_window": WINDOW, "layer_types": _MIXED, "logit_scale": 1.0}),
    "gpt_oss": ("GptOssConfig", {**_ROTARY, **_EXPERTS, "head_dim": 8, "sliding_window": WINDOW}),
    "llama4": ("Llama4TextConfig", {**_ROTARY, "head_dim": 8, "num_local_experts": 2, "attention_chunk_size": WINDOW}),
    "qwen3_next": (
        "Qwen3NextConfig",
        {
            **_ROTARY,
            "head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "layer_types": ["linear_attention"] * 3 + ["full_attention"],
        },
    ),
    "lfm2": ("Lfm2Config", {**_ROTARY, "layer_types": ["conv", "full_attention"] * 2, "block_multiple_of": 8}),
    "jamba": (
        "JambaConfig",
        {
            **_ROTARY,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 8,
            "use_mamba_kernels": False,  # they would be fetched
        },
    ),
    "mamba": ("MambaConfig", {"hidden_size": 32, "num_hidden_layers": 4, "state_size": 8, "initializer_range": 0.3}),
    "falcon": ("FalconConfig", {**_OLD, "initializer_range": 0.3}),
    "falcon_alibi": ("FalconConfig", {**_OLD, "initializer_range": 0.3, "alibi": True}),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 4, "n_head": 4, "initializer_range": 0.3}),
    "mpt": ("MptConfig", {"d_model": 32, "n_layers": 4, "n_heads": 4, "initializer_range": 0.3}),
    "opt": ("OPTConfig", {**_OLD, "ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3}),
    "biogpt": ("BioGptConfig", {**_OLD, "intermediate_size": 64, "initializer_range": 0.3}),
    "gpt2": ("GPT2Config", _GPT),
    "gpt_bigcode": ("GPTBigCodeConfig", _GPT),
    "gptj": ("GPTJConfig", {**_GPT, "rotary_dim": 8}),
    "codegen": ("CodeGenConfig", {**_GPT, "rotary_dim": 8}),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "hidden_size": 32,
            "num_layers": 4,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 2]],
            "window_size": WINDOW,
            "initializer_range": 0.3,
        },
    ),
    "gpt_neox": ("GPTNeoXConfig", _ROTARY),
    "phi": ("PhiConfig", _ROTARY),
    "stablelm": ("StableLmConfig", _ROTARY),
    "olmo2": ("Olmo2Config", _ROTARY),
    "granite": ("GraniteConfig", _ROTARY),
    "smollm3": ("SmolLM3Config", _ROTARY),
    "glm4": ("Glm4Config", {**_ROTARY, "head_dim": 8}),
    "deepseek_v3": (
        "DeepseekV3Config",
        {
            **_ROTARY,
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": 32,
            "kv_lora_rank": 8,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "first_k_dense_replace": 1,
        },
    ),
}
ARCHITECTURES = (*FAMILIES, *_CONFIGS)
# Families that answer from a plain cache, and those whose layers carry a state.
STATEFUL = ("qwen3_next", "lfm2", "jamba", "mamba")


def load_architecture(name: str) -> PreTrainedModel:
    """A random model, d_model 32, 4 blocks, in eval mode; its tokenizer is `load_tiny_model("qwen2")`'s."""
    if name in FAMILIES:
        return load_tiny_model(name)[0]
    tokenizer, (config, sizes) = load_tiny_model("qwen2")[1], _CONFIGS[name]
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    made = getattr(transformers, config)(vocab_size=len(tokenizer), **ids, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(made, dtype=torch.float32).eval()


def watched(model: nn.Module, act: Callable[[int, Tensor], Tensor | None]) -> list[torch.utils.hooks.RemovableHandle]:
    """A plain hook on every block: `act(block, output)`, whose result takes the output's place unless it is None."""

    def hook_of(block: int) -> Callable[..., object]:
        def hook(_module: object, _args: object, output: object) -> object:
            if isinstance(output, tuple):
                changed = act(block, output[0])
                return None if changed is None else (changed, *output[1:])
            return act(block, output)

        return hook

    return [layer.register_forward_hook(hook_of(k)) for k, layer in enumerate(decoder_blocks(model))]


@torch.inference_mode()
def naive_greedy(
    model: nn.Module, ids: Sequence[int], n: int, stops: Sequence[int], act: Callable[[int, Tensor], Tensor | None]
) -> list[int]:
    """Greedy decoding, the whole text read anew for every token."""
    handles, answer = watched(model, act), []
    for _ in range(n):
        token = model(input_ids=torch.tensor([[*ids, *answer]]), use_cache=False).logits[0, -1].argmax().item()
        if token in stops:
            break
        answer.append(token)
    for handle in handles:
        handle.remove()
    return answer


@torch.inference_mode()
def naive_means(model: nn.Module, ids: Sequence[int], start: int, end: int) -> Tensor:
    """(blocks, d): means over tokens `start` to `end` of one row."""
    rows: list[Tensor] = []
    handles = watched(model, lambda _block, hidden: rows.append(hidden[0, start:end].mean(0)))
    model(input_ids=torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return torch.stack(rows)
