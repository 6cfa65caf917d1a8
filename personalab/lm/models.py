"""Loading a tier's models, finding their decoder blocks, and giving memory back."""

from __future__ import annotations

import copy
import gc
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from personalab.lm import processes
from personalab.lm.content_guard import guarded
from personalab.lm.counting import watch
from personalab.paths import ROOT
from personalab.setup.machine import dtype_name, hub_device
from personalab.tiers import EMBEDDED_MODEL, TRAIT_ORGANISM, Tier, current_tier

ORGANISM_ADAPTER = ROOT / "persona_vectors" / "organism" / "adapter"

_Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]
_pristine: dict[tuple[str, torch.dtype], _Loaded] = {}
# For each twin in use, what it is the twin of: when the last one goes, so do the weights, from a small GPU above all.
_twins: WeakKeyDictionary[PreTrainedModel, tuple[tuple[str, str], _Loaded]] = WeakKeyDictionary()

# Where each architecture keeps its blocks: text models, text models wrapped for images (Gemma 3), PEFT on either; then
# OPT, GPT-2 and its kin (Falcon, Bloom, GPT-J), MPT, GPT-NeoX, Mamba, BioGPT.
_BLOCK_PATHS = [
    "model.layers",
    "model.language_model.layers",
    "language_model.layers",
    "language_model.model.layers",
    "layers",
    "model.decoder.layers",
    "transformer.h",
    "transformer.blocks",
    "gpt_neox.layers",
    "backbone.layers",
    "biogpt.layers",
]


def add_blocks_path(path: str) -> None:
    """Make known where another family keeps its blocks: the path of the `nn.ModuleList`, as in "model.layers"."""
    if path not in _BLOCK_PATHS:
        _BLOCK_PATHS.append(path)


def load_model(kind: str = "persona") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The current tier's `persona`, `capping`, `trait` or `response` model, in eval mode, and its tokenizer.

    The embedded model and the trait organism stand under the content guard (`personalab.lm.content_guard`), and so
    does whatever is made from them. They are read once a process; every call returns its own modules over the same
    weights, so that a hook on one copy cannot reach another, the chat endpoint's included.

    Raises:
        ValueError: for an unknown kind, or a persona model that is not as deep as the tier says.
        EmbeddedModelError: if the embedded weights are missing and cannot be fetched.
    """
    tier = current_tier()
    model_id = getattr(tier, f"{kind}_model", None)
    if model_id is None or kind == "judge":
        raise ValueError(f"Unknown model kind {kind!r}: use 'persona', 'capping', 'trait' or 'response'.")
    model, tokenizer = load_named(model_id)
    if kind == "persona":
        check_depth(model, tier)
    return model, tokenizer


def load_named(model_id: str, tier: Tier | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model by its name, in eval mode, and its tokenizer.

    Args:
        tier: decides dtype and attention (default: the current one).
        model_id: the embedded model's or the organism's name, an id on the Hugging Face hub, or a folder.

    Raises:
        EmbeddedModelError: if the embedded weights are missing and cannot be fetched.
        OSError: if there is no such model on the hub or on this machine.
        ValueError: if its weights are damaged or some are missing, or it has no tokenizer.
    """
    tier = tier or current_tier()
    if model_id in (EMBEDDED_MODEL, TRAIT_ORGANISM):
        model, tokenizer = _load_embedded(model_id, resolve_dtype(tier))
    elif tier.in_process or (tier.answers_here and model_id == tier.response_model):
        model, tokenizer = _load_shared(model_id, tier)  # several uses of one model in one process
    else:
        model, tokenizer = _load_hub(model_id, tier)
    return watch(model.eval(), model_id), tokenizer


def check_depth(model: nn.Module, tier: Tier) -> None:
    """Raise ValueError unless the persona model is as deep as the tier says: its block for the axis is a share of that.

    The message names the blocks to set: the same share of the depth that the model has.
    """
    depth = n_blocks(model)
    if tier.n_blocks in (0, depth):
        return
    block = min(round(tier.axis_block * depth / tier.n_blocks), depth - 1)
    raise ValueError(
        f"{tier.persona_model} has {depth} blocks; the tier {tier.name!r} expects {tier.n_blocks} and reads the axis "
        f"after block {tier.axis_block}. For the same share of the depth, set PERSONALAB_N_BLOCKS={depth} and "
        f"PERSONALAB_AXIS_BLOCK={block}, or call use_tier({tier.name!r}, …, n_blocks={depth}, axis_block={block})."
    )


def _load_embedded(model_id: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from personalab.lm.adapters import merge_adapter
    from personalab.setup.weights import LANGUAGE_MODEL

    key = (model_id, dtype)
    if key not in _pristine:
        if model_id == TRAIT_ORGANISM:
            base, tokenizer = _load_embedded(EMBEDDED_MODEL, dtype)
            _pristine[key] = (merge_adapter(base, ORGANISM_ADAPTER), tokenizer)
        else:
            folder = LANGUAGE_MODEL.ensure()
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
            tokenizer = AutoTokenizer.from_pretrained(folder)
            _pristine[key] = (guarded(model.eval(), tokenizer), tokenizer)
    model, tokenizer = _pristine[key]
    return twin(model), copy.deepcopy(tokenizer)


def _load_shared(model_id: str, tier: Tier) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    key = (model_id, dtype_name(tier.dtype, hub_device()))
    in_use = (loaded for other, loaded in list(_twins.values()) if other == key)
    model, tokenizer = loaded = next(in_use, None) or _load_hub(model_id, tier)
    lent = twin(model)
    _twins[lent] = key, loaded
    return lent, copy.deepcopy(tokenizer)


def _load_hub(model_id: str, tier: Tier) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model from the Hugging Face hub, its cache, or a local folder, spread over the GPUs that are there."""
    device, config = hub_device(), AutoConfig.from_pretrained(model_id)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            model_id,
            dtype=resolve_dtype(tier, device, config),
            attn_implementation=attention_of(config) if tier.attention == "auto" else tier.attention,
            device_map=_device_map(device),
            output_loading_info=True,
        )
    except SafetensorError as error:
        raise ValueError(f"{model_id}: its weights are damaged ({error}). Fetch them anew.") from error
    if missing := sorted(report["missing_keys"]):  # transformers would fill them with random numbers
        raise ValueError(
            f"{model_id} lacks {len(missing)} of the weights that its config.json speaks of, {missing[0]} for one: the "
            "two do not belong together, or a file is missing. Fetch the model anew."
        )
    try:
        return model, AutoTokenizer.from_pretrained(model_id)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{model_id}: no tokenizer that can be read beside its weights ({reason}).") from error


def attention_of(config: PretrainedConfig) -> str | None:
    """How a model attends: "eager" where it caps its attention logits (Gemma 2), which sdpa cannot; None, its default.

    >>> from transformers import Gemma2Config, Qwen2Config
    >>> attention_of(Gemma2Config()), attention_of(Qwen2Config())
    ('eager', None)
    """
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None


def _device_map(device: str) -> str | dict[str, int] | None:
    """Over all GPUs; launched as several processes, each has one of its own."""
    if device != "cuda":
        return None
    return "auto" if processes.count() == 1 else {"": processes.local_rank()}


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A copy with modules of its own (hooks, config) that shares every weight: it costs no memory."""
    shared = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, shared)


def are_twins(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models are one, or share every weight."""
    if one is other:
        return True
    mine, theirs = list(one.parameters()), list(other.parameters())
    return len(mine) == len(theirs) and all(a is b for a, b in zip(mine, theirs, strict=True))


def resolve_dtype(tier: Tier, device: str = "cpu", config: PretrainedConfig | None = None) -> torch.dtype:
    """What a model is loaded in: the tier's dtype or `PERSONALAB_DTYPE`, "auto" decided by machine and model.

    Args:
        config: the model's, which says in what its weights are stored (default: not known).

    Raises:
        ValueError: for an unknown dtype.
    """
    stored = str(getattr(config, "dtype", None)).removeprefix("torch.")
    return getattr(torch, dtype_name(tier.dtype, device, stored))


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The live list of decoder blocks, in order; PEFT wrappers are looked through.

    Raises:
        ValueError: for an architecture whose blocks are nowhere we know, naming the places looked at, and for encoders
            with decoders (T5, BART), whose prompt is not where the answer is.
    """
    unwrap = getattr(model, "get_base_model", None)
    base: nn.Module = unwrap() if callable(unwrap) else model
    if getattr(getattr(base, "config", None), "is_encoder_decoder", False):
        raise ValueError(f"{type(base).__name__} reads with an encoder: load a model of decoder blocks only.")
    for path in _BLOCK_PATHS:
        try:
            found = base.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(found, nn.ModuleList):
            return found
    raise ValueError(
        f"No decoder blocks found in {type(base).__name__}; looked for {', '.join(_BLOCK_PATHS)}. Name another place "
        "with personalab.lm.models.add_blocks_path."
    )


def n_blocks(model: nn.Module) -> int:
    """Number of decoder blocks."""
    return len(decoder_blocks(model))


def d_model(model: PreTrainedModel) -> int:
    """Width of the residual stream."""
    return model.config.get_text_config().hidden_size


def input_device(model: PreTrainedModel) -> torch.device:
    """Where token ids go: where the model lies, or runs if accelerate keeps its weights elsewhere meanwhile."""
    if model.device.type != "meta":
        return model.device
    devices = (getattr(getattr(m, "_hf_hook", None), "execution_device", None) for m in model.modules())
    return torch.device(next((d for d in devices if d is not None), "cpu"))


def context_length(model: PreTrainedModel) -> int | None:
    """Tokens that the model can read at most, None where it sets no limit (ALiBi, running states)."""
    config = model.config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    return next((n for n in (getattr(config, name, None) for name in names) if isinstance(n, int) and n > 0), None)


def release() -> None:
    """Forget loaded weights that nobody else holds, and empty the GPU's cache."""
    _pristine.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
