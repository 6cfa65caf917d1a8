"""Can every Python and platform that the README names install the pins? Asks uv to resolve them; installs nothing.

Fails where a package has no wheel or refuses a Python, on one that constraints.txt lacks, and on one that it names
though nothing brings it.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ("requirements.txt", "requirements-dev.txt", "requirements-site.txt", "requirements-gpu.txt")
# Debian 12 has 3.11.2. uv reads Requires-Python as a lower bound: checks/setup/test_pins.py sees to the rest of it.
PYTHONS = ("3.11.0", "3.11.2", "3.12.0", "3.13.0", "3.14.0")
PLATFORMS = {
    "Linux x86_64": "x86_64-manylinux_2_28",
    "Linux aarch64": "aarch64-manylinux_2_28",
    "macOS 14 arm64": "aarch64-apple-darwin",
    "Windows x64": "x86_64-pc-windows-msvc",
}
MACOS = "14.0"  # the oldest that torch has a wheel for
SOURCES_ONLY = ("transformers-stream-generator",)  # has no wheel, but is pure Python: pip builds it anywhere


def read_pins(text: str) -> dict[str, str]:
    """Normalised name -> version, from lines `name==version`, with or without a comment behind."""
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines) if name}


def pip_setting(name: str) -> str | None:
    """What pip is told on this machine, by its environment or its configuration files."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    found = dict(line.partition("=")[::2] for line in listed.stdout.splitlines())
    values = [found[key] for key in (f":env:.{name}", f"install.{name}", f"global.{name}") if key in found]
    return ast.literal_eval(values[0]) if values else None


def uv_environment() -> dict[str, str]:
    """uv reads none of pip's settings: hand it the index and the certificates, unless it has its own."""
    settings = {"UV_DEFAULT_INDEX": pip_setting("index-url"), "SSL_CERT_FILE": pip_setting("cert")}
    given = {key: value for key, value in settings.items() if value}
    return given | os.environ | {"MACOSX_DEPLOYMENT_TARGET": MACOS}


def resolve(python: str, platform: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """uv's resolution for one Python and platform: `name==version  # via who brings it` a line."""
    uv = [sys.executable, "-m", "uv", "pip", "compile", *REQUIREMENTS, "--constraints", "constraints.txt"]
    uv += ["--python", sys.executable, "--no-python-downloads"]  # for what has to be built, whatever is asked about
    uv += ["--python-version", python, "--python-platform", platform, "--only-binary", ":all:"]
    uv += [part for name in SOURCES_ONLY for part in ("--no-binary", name)]
    uv += ["--no-header", "--annotation-style", "line", "--quiet"]
    return subprocess.run(uv, cwd=ROOT, env=environment, capture_output=True, text=True)


def unpinned(resolution: str, pins: dict[str, str]) -> list[str]:
    """The lines of a resolution that constraints.txt does not fix."""
    return [line for line in resolution.splitlines() if not read_pins(line).items() <= pins.items()]


def main() -> int:
    """Print one line a Python and platform, and what is wrong, and where; 1 if anything is."""
    pins = read_pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    environment = uv_environment()
    asked = list(product(PYTHONS, PLATFORMS))
    with ThreadPoolExecutor(4) as pool:  # they wait for the network
        found = list(pool.map(lambda pair: resolve(pair[0], PLATFORMS[pair[1]], environment), asked))
    problems: dict[str, list[str]] = {}
    for (python, platform), done in zip(asked, found, strict=True):
        where = f"Python {python} on {platform}"
        print(f"{where}: {len(read_pins(done.stdout)) or 'no'} packages")
        errors = [done.stderr.strip() or f"uv stopped with exit code {done.returncode}"] if done.returncode else []
        for what in errors + [f"not in constraints.txt: {line}" for line in unpinned(done.stdout, pins)]:
            problems.setdefault(what, []).append(where)
    if not problems:
        brought = {name for done in found for name in read_pins(done.stdout)}
        problems = {f"constraints.txt names {name}": ["nothing brings it"] for name in sorted(set(pins) - brought)}
    for what, places in problems.items():
        print(f"\n{', '.join(places)}:\n{what}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
