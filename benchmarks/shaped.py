"""Models with random weights of any `Shape`, made where they lie, in the dtype they are used in: no hub, no files.

Their logits spread as a trained model's do, so that sampling meets as many likely tokens; no answer ends before its
limit, so that what a run costs is known before.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from personalab.lm.decoding import TurnEnd
from personalab.lm.models import attention_of
from personalab.lm.tiny import FAMILIES, load_tiny_model
from personalab.setup.shapes import Shape

# Standard deviation of logits. At temperature 0.7 about one token in twenty of 150,000 is then close enough to the
# likeliest one to be given noise, as `lm.sampling` says of a trained model.
SPREAD = 4.8


def config_of(shape: Shape) -> PreTrainedConfig:
    """The configuration of transformers' own class with this shape's sizes."""
    sizes = {
        "hidden_size": shape.d_model,
        "intermediate_size": shape.d_mlp,
        "num_hidden_layers": shape.blocks,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.context,
        "tie_word_embeddings": shape.tied,
    }
    no_ends = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}  # those of the class lie beyond ours
    return FAMILIES[shape.family].config(**sizes, **no_ends)


def shrunk(shape: Shape, blocks: int = 2) -> Shape:
    """The same architecture 16 wide a head, with few blocks and a small vocabulary: for a run of seconds."""
    sizes = {"d_model": 16 * shape.heads, "d_mlp": 64 * shape.heads, "head_dim": 16, "vocabulary": 999}
    return replace(shape, blocks=blocks, **sizes)


def random_model(
    shape: Shape, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu", seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model in eval mode whose weights are drawn on `device` in `dtype`, and a small tokenizer of its family."""
    tokenizer = load_tiny_model(shape.family)[1]
    torch.manual_seed(seed)
    config = config_of(shape)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention_of(config))
    model = model.eval().requires_grad_(False)
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        head.normal_(std=SPREAD / shape.d_model**0.5)
        head[TurnEnd.of(model, tokenizer).tokens] = 0  # logit 0, far below the likeliest: no answer ends early
    return model, tokenizer
