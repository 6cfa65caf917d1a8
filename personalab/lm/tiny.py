"""Tiny random-weight models of the real architectures, for graders and tests: built in milliseconds, no downloads.

Architectures come from transformers' own configs; tokenizers are small byte-level BPEs with each family's control
tokens; chat templates reproduce the layout each family uses, Gemma 2's missing system role included.
"""

from __future__ import annotations

import copy
import os
from functools import lru_cache
from typing import NamedTuple

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

_CORPUS = [
    "You are a pirate who answers every question with a story about the sea.\n\nYou are a helpful assistant.",
    "What should I do when I feel afraid? Tell me what you think about the moon, the sea and the city.",
    "The answer is simple: listen first, then speak. I would say that a good friend tells the truth.\n\n",
    "one\n\ntwo\n\nthree\n\nfour\n\nfive\n\n",  # often enough for the double line break to be a token, as in Llama
]

# Words as Llama 3 and Qwen split them: line breaks stay together, so a header never merges with what follows it.
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_LLAMA = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_QWEN2 = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Qwen3 writes an empty thinking block before the last answer, and before a new one when thinking is disabled.
_QWEN3 = (
    "{% set ns = namespace(last_user=-1) %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{% set ns.last_user = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.index0 > ns.last_user %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% if m['role'] == 'assistant' %}{{ m['content'].lstrip('\n') }}{% else %}{{ m['content'] }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}"
    "{% endif %}{% endif %}"
)
_GEMMA_TURNS = (
    "{% for m in loop_messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{% if loop.first %}{{ first_prefix }}{% endif %}"
    "{{ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_GEMMA2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% set first_prefix = '' %}{% set loop_messages = messages %}" + _GEMMA_TURNS
)
_GEMMA3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set first_prefix = messages[0]['content'] + '\n\n' %}{% set loop_messages = messages[1:] %}"
    "{% else %}{% set first_prefix = '' %}{% set loop_messages = messages %}{% endif %}" + _GEMMA_TURNS
)


class _Family(NamedTuple):
    config: type[PreTrainedConfig]
    extra: dict[str, object]
    template: str
    control: tuple[str, ...]  # pad, eos, then the rest
    bos: str | None  # added by the tokenizer itself as well, so that a double BOS can happen


_IM = ("<|endoftext|>", "<|im_end|>", "<|im_start|>")
_GEMMA_TOKENS = ("<pad>", "<end_of_turn>", "<start_of_turn>", "<eos>")
FAMILIES: dict[str, _Family] = {
    "llama": _Family(
        LlamaConfig,
        {},
        _LLAMA,
        ("<|pad|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        "<|begin_of_text|>",
    ),
    "qwen2": _Family(Qwen2Config, {}, _QWEN2, _IM, None),
    "qwen3": _Family(Qwen3Config, {"head_dim": 8}, _QWEN3, (*_IM, "<think>", "</think>"), None),
    "gemma2": _Family(
        Gemma2Config,
        {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64, "attn_implementation": "eager"},
        _GEMMA2,
        _GEMMA_TOKENS,
        "<bos>",
    ),
    "gemma3": _Family(
        Gemma3TextConfig,
        {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64, "sliding_window_pattern": 2},
        _GEMMA3,
        _GEMMA_TOKENS,
        "<bos>",
    ),
}


def load_tiny_model(
    family: str = "llama",
    seed: int = 0,
    n_blocks: int = 4,
    dtype: torch.dtype = torch.float32,
    vocabulary: int = 400,
    texts: tuple[str, ...] = (),
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A random model (d_model 32, eval mode) and its tokenizer; the same seed gives the same weights.

    Args:
        family: "llama", "qwen2", "qwen3", "gemma2" or "gemma3".
        dtype: of the weights, which are drawn in float32 and then rounded. float16 runs on CPUs too (every operation
            that these families need; slowly where the CPU has no float16 units).
        vocabulary: tokens at most, beside the control tokens.
        texts: what the tokenizer learns its tokens from, beside a few sentences of its own.

    Raises:
        ValueError: for another family.
    """
    if family not in FAMILIES:
        raise ValueError(f"Unknown family {family!r}: use one of {', '.join(FAMILIES)}.")
    tokenizer = _tokenizer(family, vocabulary, texts)
    return copy.deepcopy(_model(family, drawn(seed), n_blocks, dtype, tokenizer)), copy.deepcopy(tokenizer)


def drawn(seed: int) -> int:
    """The seed to use in place of `seed`: another for each `PERSONALAB_DRAW`, which a batch grading sets."""
    return seed + 7919 * int(os.environ.get("PERSONALAB_DRAW") or 0)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for all, so that it can be trained wherever it was first asked for
def _model(
    family: str, seed: int, n_blocks: int, dtype: torch.dtype, tokenizer: PreTrainedTokenizerFast
) -> PreTrainedModel:
    spec = FAMILIES[family]
    config = spec.config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=n_blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.3,  # large, so that positions, layers and prompts differ clearly
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        **spec.extra,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():  # no buffers: rotary frequencies stay in float32, as in a loaded model
        parameter.data = parameter.data.to(dtype)
    return model.eval()


@lru_cache
def _tokenizer(family: str, vocabulary: int = 400, texts: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    spec = FAMILIES[family]
    tokens = [*spec.control, *([spec.bos] if spec.bos else [])]
    core = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_WORDS), "isolated"), byte_level])
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core.train_from_iterator(
        [*_CORPUS, *texts], trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    )
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in tokens])
    if spec.bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{spec.bos} $A", special_tokens=[(spec.bos, core.token_to_id(spec.bos))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=tokens[0],
        eos_token=tokens[1],
        bos_token=spec.bos,
        name_or_path=f"tiny-{family}",
    )
    tokenizer.chat_template = spec.template
    return tokenizer
