"""Can every Python and platform that the README names install the pins? Asks uv to resolve them; installs nothing.

Fails where a package has no wheel, refuses a Python, is not in constraints.txt, or is there though nothing brings it.
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
REQUIREMENTS = ("requirements.txt", "requirements-dev.txt", "requirements-gpu.txt")
PYTHONS = ("3.11.0", "3.11.2", "3.12.0", "3.13.0", "3.14.0", "3.14.1")  # Debian 12 has 3.11.2
PLATFORMS = {
    "Linux x86_64": "x86_64-manylinux_2_28",
    "Linux aarch64": "aarch64-manylinux_2_28",
    "macOS 14 arm64": "aarch64-apple-darwin",
    "Windows x64": "x86_64-pc-windows-msvc",
}
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
    wanted = {"UV_DEFAULT_INDEX": pip_setting("index-url"), "SSL_CERT_FILE": pip_setting("cert")}
    wanted["MACOSX_DEPLOYMENT_TARGET"] = "14.0"  # the oldest that torch has a wheel for
    return {key: value for key, value in wanted.items() if value} | dict(os.environ)


def resolve(python: str, platform: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """uv's resolution for one Python and platform: `name==version  # via who brings it` a line."""
    uv = [sys.executable, "-m", "uv", "pip", "compile", *REQUIREMENTS, "--constraints", "constraints.txt"]
    uv += ["--python-version", python, "--python-platform", platform, "--only-binary", ":all:"]
    uv += [part for name in SOURCES_ONLY for part in ("--no-binary", name)]
    uv += ["--no-header", "--annotation-style", "line", "--quiet"]
    return subprocess.run(uv, cwd=ROOT, env=environment, capture_output=True, text=True)


def unpinned(resolution: str, pins: dict[str, str]) -> list[str]:
    """The lines of a resolution that constraints.txt does not fix."""
    return [line for line in resolution.splitlines() if not read_pins(line).items() <= pins.items()]


def main() -> int:
    """Print one line a Python and platform, and what is wrong; 1 if anything is."""
    pins = read_pins((ROOT / "constraints.txt").read_text())
    environment = uv_environment()
    asked = list(product(PYTHONS, PLATFORMS))
    with ThreadPoolExecutor(4) as pool:  # they wait for the network
        found = list(pool.map(lambda pair: resolve(pair[0], PLATFORMS[pair[1]], environment), asked))
    problems, brought = [], set()
    for (python, platform), done in zip(asked, found, strict=True):
        where = f"Python {python}, {platform}"
        brought |= set(read_pins(done.stdout))
        problems += [f"{where}: not in constraints.txt: {line}" for line in unpinned(done.stdout, pins)]
        if done.returncode:
            problems.append(f"{where}: {done.stderr.strip()}")
        print(f"{where}: {len(read_pins(done.stdout)) or 'no'} packages", flush=True)
    if not any(done.returncode for done in found):
        problems += [f"constraints.txt: nothing brings {name}" for name in sorted(set(pins) - brought)]
    print(*problems, sep="\n\n", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
