"""One new token's attention to the cache, where several query heads share their keys, without copies of these.

transformers' sdpa repeats keys and values for every query head as soon as a batch is padded: each step of decoding
copies the whole cache, `num_key_value_groups` times. But the query heads that share keys are as good as so many queries
at different positions: `(b, heads, 1, d)` reshaped to `(b, kv_heads, groups, d)` asks the cache as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "grouped_sdpa"


@contextmanager
def grouped_attention(model: PreTrainedModel) -> Iterator[None]:
    """Inside the `with` block a model whose attention is transformers' sdpa takes this one; others stay as they are."""
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa" or not model._supports_attention_backend:
        yield
        return
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """What `sdpa_attention_forward` gives, (b, s, heads, d), and left to it but for one new token on a CPU."""
    rows, heads, new, width = query.shape
    shared = heads // key.shape[1]
    one_mask = attention_mask is None or attention_mask.shape[1] == 1  # for all heads
    plain = not settings.get("dropout") and settings.get("position_bias") is None
    if new > 1 or shared == 1 or query.device.type != "cpu" or not (one_mask and plain):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    if attention_mask is not None:
        attention_mask = attention_mask.expand(-1, -1, shared, -1)
    asked = query.reshape(rows, heads // shared, shared, width)
    found = scaled_dot_product_attention(asked, key, value, attention_mask, scale=settings.get("scaling"))
    return found.reshape(rows, 1, heads, value.shape[-1]), None


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)
