"""Whether a model may be padded, and whether what rows begin with may be run once: asked of the model, its caches, and
of what was checked; where the answer is not known, rows of one length run together, from their first token."""

from __future__ import annotations

import inspect

from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

# Architectures whose masked positions count for nothing wherever they stand, as `checks/lm/test_architectures.py`
# measures. Elsewhere distances may be counted in the cache, masked positions included: ALiBi in MPT, windows in
# GPT-Neo.
# fmt: off
GAPS_CHECKED = frozenset([
    "biogpt", "bloom", "codegen", "cohere2", "deepseek_v3", "falcon", "gemma2", "gemma3", "gemma3_text", "glm4", "gpt2",
    "gpt_bigcode", "gpt_neox", "gpt_oss", "gptj", "granite", "llama", "llama4_text", "mistral", "mixtral", "olmo2",
    "opt", "phi", "phi3", "qwen2", "qwen3", "smollm3", "stablelm", "starcoder2",
])
# fmt: on


def virtual_tokens(model: nn.Module) -> bool:
    """Whether an adapter puts learned tokens, or keys and values, in front of the text (prompt and prefix tuning)."""
    return bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))


def may_be_padded(model: nn.Module) -> bool:
    """Whether padding cannot reach a row's own tokens: transformers' own code, reading from left to right.

    Code from a model's repository (`trust_remote_code`) may take masks and positions in ways of its own.
    """
    base = _base(model)
    if virtual_tokens(model) or not type(base).__module__.startswith("transformers.models."):
        return False
    config = base.config.get_text_config()  # type: ignore[operator, union-attr]
    looks_ahead = getattr(config, "use_bidirectional_attention", None) in (True, "all")
    return not looks_ahead and getattr(config, "is_causal", True) is not False


def may_share(model: nn.Module) -> bool:
    """Whether keys and values of a common beginning can stand for it in every row: attention only, no running state."""
    return may_be_padded(model) and not has_running_state(model)


def may_share_with_gaps(model: nn.Module) -> bool:
    """Whether beginnings of several lengths can stand in one batch, masked positions between them and the rest.

    A window forgets, so its cache can't be padded: every layer must keep all it has read.
    """
    config = _base(model).config.get_text_config()  # type: ignore[operator, union-attr]
    return (
        may_be_padded(model)
        and config.model_type in GAPS_CHECKED
        and all(type(layer) is DynamicLayer for layer in _cache(model).layers)
    )


def may_spread(model: nn.Module) -> bool:
    """Whether the row that one block puts out may go on as several: what blocks are given besides must fit any number.

    Bloom's ALiBi is laid out for the rows of the input.
    """
    return may_share_with_gaps(model) and _base(model).config.get_text_config().model_type != "bloom"  # type: ignore[operator, union-attr]


def has_running_state(model: nn.Module) -> bool:
    """Whether some layer carries a state from token to token, which a mask cannot hide text from."""
    return any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in _cache(model).layers)


def window(model: nn.Module) -> int | None:
    """Tokens that the narrowest layer sees back, itself included; None where all see all."""
    widths = [layer.sliding_window for layer in _cache(model).layers if isinstance(layer, DynamicSlidingWindowLayer)]
    return min(widths, default=None)


def learns_positions(model: nn.Module) -> bool:
    """Whether padding on the left moves a row's text unless it is told its positions: learned ones (GPT-2), no rotary.

    A forward pass counts them from the first column, masked or not (nnsight issue 672); only `generate` does better.
    """
    base = _base(model)
    rotary = getattr(base.config.get_text_config(), "rope_parameters", None)  # type: ignore[operator, union-attr]
    return not rotary and "position_ids" in inspect.signature(base.forward).parameters


def _base(model: nn.Module) -> nn.Module:
    model = getattr(model, "_orig_mod", model)  # what torch.compile wrapped
    unwrap = getattr(model, "get_base_model", None)
    return unwrap() if callable(unwrap) else model


def _cache(model: nn.Module) -> DynamicCache:
    return DynamicCache(config=_base(model).config.get_text_config())  # type: ignore[operator, union-attr]
