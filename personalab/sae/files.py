"""Sparse autoencoders: the file format, the one this course trains, and GemmaScope for the larger tiers.

    sae = load_sae()                      # the embedded trait model's
    python -m personalab sae              # trains it again: nine minutes on two cores

Files are sae-lens's own (`cfg.json` and `sae_weights.safetensors`): `sae_lens.SAE.load_from_disk` reads them too, and
gives the same numbers. The embedded model's autoencoder needs no sae-lens; every other kind is read through it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save
from torch import Tensor, nn

from personalab.files import read_text, write_all
from personalab.paths import ROOT, artifacts_dir
from personalab.tiers import TRAIT_ORGANISM, current_tier

FOLDER = ROOT / "persona_vectors" / "sae"
OWN = "PERSONALAB_SAE"  # environment: a folder in sae-lens's format, in place of GemmaScope's download
BLOCK = 14  # half the embedded model's depth; our choice
CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"  # sae-lens's names
SAE_LENS = "6.54.12"  # whose format this is

# Residual-stream autoencoders of Lieberum et al. 2024 (arXiv 2408.05147), by sae-lens's names: release, id. Trained on
# the base model, read here on the instruction-tuned one, at the blocks where Section 1 reads.
GEMMA_SCOPE = {
    "google/gemma-2-2b-it": ("gemma-scope-2b-pt-res-canonical", "layer_12/width_16k/canonical"),
    "google/gemma-2-27b-it": ("gemma-scope-27b-pt-res-canonical", "layer_22/width_131k/canonical"),
}


class SaeError(ValueError):
    """An autoencoder that cannot be read; the message says what to do."""


@runtime_checkable
class Autoencoder(Protocol):
    """What the course uses of an autoencoder: ours and sae-lens's have it."""

    W_enc: Any  # (d, n_features)
    W_dec: Any  # (n_features, d)
    b_enc: Any  # (n_features)
    b_dec: Any  # (d)

    def encode(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... n_features"]:
        """How active each feature is, never negative."""

    def decode(self, feature_acts: Float[Tensor, "... n_features"]) -> Float[Tensor, "... d"]:
        """The state that these activations stand for."""


class TopKSAE(nn.Module):
    """`f = TopK(ReLU((x - b_dec) W_enc + b_enc))`, `x' = f W_dec + b_dec`: at most `k` features describe a state.

    Decoder rows are unit vectors, so that an activation is a length in the residual stream.
    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv 2406.04093).
    """

    def __init__(self, d: int, n_features: int, k: int, metadata: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.k, self.metadata = k, dict(metadata or {})
        self.W_enc = nn.Parameter(torch.zeros(d, n_features))
        self.W_dec = nn.Parameter(torch.zeros(n_features, d))
        self.b_enc = nn.Parameter(torch.zeros(n_features))
        self.b_dec = nn.Parameter(torch.zeros(d))

    def before_topk(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... n_features"]:
        """Every feature's activation before all but `k` are set to zero."""
        return (x.to(self.W_enc) - self.b_dec) @ self.W_enc + self.b_enc

    def encode(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... n_features"]:
        """How active each feature is: the `k` largest, and no negative ones."""
        return keep_largest(self.before_topk(x), self.k)

    def decode(self, feature_acts: Float[Tensor, "... n_features"]) -> Float[Tensor, "... d"]:
        """The state that these activations stand for."""
        return feature_acts @ self.W_dec + self.b_dec

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """The reconstruction of `x`."""
        return self.decode(self.encode(x))


def keep_largest(values: Float[Tensor, "... n"], k: int) -> Float[Tensor, "... n"]:
    """The `k` largest of each row where they are positive, zero elsewhere."""
    best = values.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(values).scatter(-1, best.indices, best.values.relu())


def save_sae(folder: Path | str, sae: TopKSAE, dtype: torch.dtype = torch.float16) -> Path:
    """Write `sae` and its metadata in sae-lens's format.

    Half precision halves the size and costs less than the reconstruction.

    Raises:
        SaeError: if the weights do not fit into `dtype`.
    """
    folder = Path(folder)
    tensors = {name: p.detach().cpu().to(dtype).contiguous() for name, p in sae.named_parameters()}
    if bad := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise SaeError(f"{folder.name}: {bad} hold NaN, or numbers too large for {dtype}: save in float32.")
    config = {
        "architecture": "topk",
        "d_in": sae.W_enc.shape[0],
        "d_sae": sae.W_enc.shape[1],
        "k": sae.k,
        "dtype": str(dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "rescale_acts_by_decoder_norm": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": SAE_LENS, **sae.metadata},
    }
    write_all({folder / WEIGHTS: save(tensors), folder / CONFIG: json.dumps(config, indent=1) + "\n"})
    return folder


def load_sae(path: Path | str | None = None) -> Autoencoder:
    """An autoencoder from a folder in sae-lens's format, in float32.

    Args:
        path: default: the one for the current tier: this course's own for the embedded trait model, yours for another
            (`tier_folder`), GemmaScope's for the Gemma 2 that Section 1 of the larger tiers studies (downloaded once,
            through sae-lens).

    Raises:
        SaeError: if the folder holds none, if there is none for this tier, or if it takes sae-lens and that is absent.
    """
    if path is None:
        tier = current_tier()
        path = tier_folder()
        if not tier.in_process or (tier.persona_model in GEMMA_SCOPE and not (path / CONFIG).exists()):
            return _gemma_scope(tier.persona_model)
    folder = Path(path)
    if not (folder / CONFIG).exists():
        raise SaeError(f"{folder} holds no {CONFIG}: train one with `python -m personalab sae`.")
    config = json.loads(read_text(folder / CONFIG))
    if not _is_ours(config):
        return _sae_lens().load_from_disk(folder, dtype="float32")
    sae = TopKSAE(config["d_in"], config["d_sae"], config["k"], config["metadata"])
    sae.load_state_dict({name: t.float() for name, t in load_file(folder / WEIGHTS).items()})
    return sae.requires_grad_(False).eval()


def find_sae() -> Autoencoder | None:
    """`load_sae()`, or None, after a line that says so, where none is known for the current tier's models.

    Raises:
        SaeError: if there is one that takes sae-lens, and that is absent.
    """
    tier = current_tier()
    if (tier.in_process and (tier_folder() / CONFIG).exists()) or tier.persona_model in GEMMA_SCOPE:
        return load_sae()
    print(
        f"No autoencoder is known for {tier.trait_model}, so what needs one is left out. `python -m personalab sae` "
        f"trains one; there are ready ones for {', '.join(GEMMA_SCOPE)}."
    )
    return None


def tier_folder() -> Path:
    """Where the trait model's autoencoder lies, or would: the course's own, or for a model of yours among artifacts."""
    tier = current_tier()
    return FOLDER / TRAIT_ORGANISM if tier.trait_model == TRAIT_ORGANISM else artifacts_dir(tier.folder) / "sae"


def _is_ours(config: Mapping[str, Any]) -> bool:
    """Whether `TopKSAE` computes what this configuration says: a TopK autoencoder without any of the options."""
    return (
        config["architecture"] == "topk"
        and config.get("apply_b_dec_to_input", True)
        and not config.get("rescale_acts_by_decoder_norm", False)
        and config.get("normalize_activations", "none") == config.get("reshape_activations", "none") == "none"
    )


def _gemma_scope(model_id: str) -> Autoencoder:
    if model_id not in GEMMA_SCOPE:
        raise SaeError(f"No autoencoder is known for {model_id}: use one of {', '.join(GEMMA_SCOPE)}, or give a path.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if own := os.environ.get(OWN):
        return _sae_lens().load_from_disk(Path(own).expanduser(), device=device, dtype="float32")
    release, sae_id = GEMMA_SCOPE[model_id]
    return _sae_lens().from_pretrained(release, sae_id, device=device)


def _sae_lens() -> Any:
    try:
        from sae_lens import SAE
    except ImportError:
        raise SaeError(
            f"This autoencoder takes sae-lens, which is not installed: run `pip install sae-lens=={SAE_LENS}` in the "
            "environment of this course."
        ) from None
    return SAE


def metadata(sae: Autoencoder) -> dict[str, Any]:
    """What is known about where an autoencoder comes from."""
    return sae.metadata if isinstance(sae, TopKSAE) else sae.cfg.metadata.to_dict()  # type: ignore[attr-defined]


def sae_block(sae: Autoencoder) -> int:
    """Index of the block whose output the autoencoder reads: 14 for `blocks.14.hook_resid_post`.

    Raises:
        SaeError: if its metadata does not name a residual stream after a block.
    """
    name = metadata(sae).get("hook_name") or ""
    found = re.fullmatch(r"blocks\.(\d+)\.hook_resid_post", name)
    if found is None:
        raise SaeError(f"This autoencoder reads {name or 'an unknown place'!r}, not the residual stream after a block.")
    return int(found[1])
