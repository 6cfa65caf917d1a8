"""Where things live: the course's data, the user's cache, the artifacts of a tier.

In a checkout all but the cache lies in the repository. An installed wheel carries the data in `personalab/shipped` and
never writes there: what runs leave goes into the folder you work in.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
SHIPPED = _PACKAGE / "shipped"  # made by the wheel's build (pyproject.toml)
INSTALLED = SHIPPED.is_dir()
ROOT = SHIPPED if INSTALLED else _PACKAGE.parent  # holds persona_vectors/, assistant-axis/, artifacts/reference/
ARTIFACTS = "PERSONALAB_ARTIFACTS"  # environment: in place of `artifacts/`, so that a run leaves a learner's alone


def cache_dir() -> Path:
    """Folder for weights and API replies, created on demand. `PERSONALAB_CACHE` overrides the platform's own."""
    override = os.environ.get("PERSONALAB_CACHE")
    folder = Path(override).expanduser() if override else _platform_cache() / "personalab"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _platform_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))


def workplace() -> Path:
    """Folder for `artifacts/`, `runs/` and `.env`: the checkout, or with an installed wheel the current one."""
    return Path.cwd() if INSTALLED else ROOT


def artifacts_dir(tier: str) -> Path:
    """What one section's run leaves for the next ones, one folder a tier, created on demand.

    `artifacts/` in `workplace()`, or the folder that the environment variable `PERSONALAB_ARTIFACTS` names.
    """
    folder = Path(os.environ.get(ARTIFACTS) or workplace() / "artifacts").expanduser() / tier
    folder.mkdir(parents=True, exist_ok=True)
    return folder
