"""An environment for every peer, in the user's cache: none of their packages enters the course's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from personalab.paths import cache_dir
from personalab.setup.venv import SetupError, venv_python

TORCH = "torch==2.13.0"  # the course's
# Their newest releases; what they leave open, as near to the course's as they take it.
PEERS = {
    "transformers": ("transformers==5.17.0",),
    "steering-vectors": ("steering-vectors==0.12.2", "transformers==4.57.6"),  # it asks for transformers below 5
    "repeng": ("repeng==0.4.0", "transformers==5.17.0"),  # it asks for numpy below 2
    "nnsight": ("nnsight==0.8.1", "transformers==5.17.0"),
    "transformer-lens": ("transformer-lens==4.3.0", "transformers==5.17.0"),
}
_STAMP = "installed.txt"


def interpreter(peer: str) -> Path:
    """The Python of a peer's environment, made first if it is not there; "ours" and transformers run in this one.

    Raises:
        SetupError: if pip cannot install it, with pip's last lines.
    """
    if peer in ("ours", "transformers"):
        return Path(sys.executable)
    folder, wanted = cache_dir() / "peers" / peer, "\n".join((TORCH, *PEERS[peer]))
    stamp = folder / _STAMP
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"Making {folder} (1 to 2 GB) ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [venv_python(folder), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        done = subprocess.run([*pip, TORCH, *PEERS[peer]], capture_output=True, text=True)
        if done.returncode:
            last = "\n".join(done.stderr.strip().splitlines()[-5:])
            raise SetupError(f"{peer} cannot be installed beside {TORCH}:\n{last}")
        stamp.write_text(wanted, encoding="utf-8")
    return venv_python(folder)
