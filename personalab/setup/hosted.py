"""For a notebook alone on a machine that others made (Colab, Kaggle): what its first cell calls with the course there.

What is installed and will do is not touched, and PyTorch, NumPy and their kin never: other packages there were built
against them.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement  # every notebook's kernel brings it
from packaging.utils import canonicalize_name

from personalab import tiers
from personalab.paths import ROOT
from personalab.setup import venv
from personalab.setup.doctor import Machine, fitting_tier, gate_problems, wanted_packages
from personalab.setup.venv import CONSTRAINTS, SetupError

ALSO = ("ipywidgets", "nbformat")  # of the extra `course`: what notebooks import; the rest is Jupyter itself
BUILDS = re.compile(r"(torch|torchvision|torchaudio|triton|numpy|jax|jaxlib|tensorflow)|(nvidia|cuda|jax)-.+")
RESTART = "Colab: Runtime > Restart session; Kaggle: Run > Restart & clear cell outputs; Jupyter: Kernel > Restart"


def prepare(course: Path = ROOT) -> None:
    """Install what is missing, choose the tier, go to the course's folder; a second time there is nothing to install.

    Raises:
        SetupError: Python, PyTorch or NumPy is too old, pip fails, or the session must be restarted; says what to do.
    """
    venv.check_python()
    os.environ.setdefault("PERSONALAB_VENV", "off")  # for commands: this Python, not one of the course's own
    if "PERSONALAB_TIER" not in os.environ and not os.environ.get(tiers.MODEL):
        os.environ["PERSONALAB_TIER"] = tier_of(gpu_bytes())
    tier = tiers.current_tier()
    found_first = _found_first()
    if wanted := unmet(needed(course, gpu=tier.name not in ("cpu", tiers.LOCAL))):
        install(wanted, course)
    if stale := replaced_in_use(found_first):
        raise SetupError(
            f"Everything is installed. But {', '.join(stale)} had been loaded before pip replaced it: restart the "
            f"session ({RESTART}), then run the notebook from this cell on. Nothing will be installed again."
        )
    os.chdir(course)
    print(f"The course is in {course}. Tier {tier.name}: {tier.persona_model}, {tier.trait_model}.")
    for problem in gate_problems(tier):
        print(
            f"{problem.what}: {problem.fix} (Colab: Secrets, at the left). Without a token: "
            'os.environ["PERSONALAB_TIER"] = "cpu" in a cell above, then restart.'
        )


def tier_of(gpu_memory: float) -> str:
    """`colab` where the GPU has room for its models, else `cpu`: neither needs a key, as `a100` does."""
    found = fitting_tier(Machine(math.inf, math.inf, math.inf, 1, "a GPU", gpu_memory))
    return "cpu" if found == "cpu" else tiers.COLAB


def gpu_bytes() -> float:
    """Memory of the NVIDIA GPUs together, 0 without one; asked of the driver, since PyTorch must not be loaded yet."""
    if not shutil.which("nvidia-smi"):
        return 0
    ask = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    said = subprocess.run(ask, capture_output=True, text=True)
    return sum(map(float, re.findall(r"^\d+$", said.stdout, re.M))) * 2**20  # MiB, one line a GPU


def needed(course: Path, gpu: bool) -> list[Requirement]:
    """What the notebooks import, with lower bounds, from the `pyproject.toml` in `course`."""
    import tomllib  # here, so that a Python without it hears first that it is too old

    project = tomllib.loads((course / "pyproject.toml").read_text("utf-8"))["project"]
    extra = [Requirement(line) for line in project["optional-dependencies"]["course"]]
    lines = [*project["dependencies"], *(project["optional-dependencies"]["gpu"] if gpu else ())]
    return [*map(Requirement, lines), *(wanted for wanted in extra if wanted.name in ALSO)]


def unmet(requirements: Iterable[Requirement]) -> list[Requirement]:
    """Those that no installed package meets."""
    there = installed()
    return [
        wanted
        for wanted in requirements
        if (version := there.get(canonicalize_name(wanted.name))) is None
        or not wanted.specifier.contains(version, prereleases=True)
    ]


def installed() -> dict[str, str]:
    """Version by canonical name of every package that this Python finds."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        if name := distribution.metadata["Name"]:  # None where a removal left an empty folder
            found.setdefault(canonicalize_name(name), distribution.version)
    return found


@cache
def _found_first() -> dict[str, str]:
    """`installed()` as it was when this process first asked."""
    return installed()


def install(wanted: Sequence[Requirement], course: Path) -> None:
    """Install `wanted` beside what is there: all of that as it is, new packages as the course pins them.

    Where no such set of versions exists, pip may move what is in the way of the pins, then choose other versions than
    the pins: but never of the packages of `BUILDS`.

    Raises:
        SetupError: as `prepare`.
    """
    start, there = time.monotonic(), installed()
    free = {canonicalize_name(requirement.name) for requirement in wanted}
    if fixed := sorted(name for name in free & set(there) if BUILDS.fullmatch(name)):
        raise SetupError(
            f"{', '.join(f'{name} {there[name]}' for name in fixed)} is too old for the course, and replacing it would "
            "break other packages here. Choose a newer runtime (Colab: Runtime > Change runtime type; Kaggle: Settings "
            "> Environment preferences > latest), then run this cell again."
        )
    kept = {name: version for name, version in there.items() if name not in free}
    builds = {name: version for name, version in kept.items() if BUILDS.fullmatch(name)}
    pinned = {canonicalize_name(name): version for name, version in wanted_packages(course / CONSTRAINTS).items()}
    new = {name: version for name, version in pinned.items() if name not in kept}
    print(f"Installing {', '.join(sorted(free))} (a minute or two) ...", flush=True)
    for versions in (new | kept, new | builds, builds):
        said = _pip(wanted, versions)
        if said is None or "(from versions: none)" in said:  # no index within reach, so other versions won't help
            break
    if said is not None:
        raise SetupError(
            f"pip cannot install {', '.join(map(str, wanted))}:\n{said}\n"
            "Connect to the network and run this cell again (Kaggle: Settings > Turn on internet)."
        )
    importlib.invalidate_caches()
    print(f"Installed in {time.monotonic() - start:.0f} s.", flush=True)


def replaced_in_use(before: Mapping[str, str]) -> list[str]:
    """Packages of `before` that have another version now, and of which this process has loaded a module."""
    now = installed()
    changed = {name for name, version in before.items() if now.get(name) != version}
    if not changed:
        return []
    owners = metadata.packages_distributions()
    loaded = {module.partition(".")[0] for module in list(sys.modules)} - {"_distutils_hack"}  # setuptools', at start
    return sorted({name for module in loaded for name in map(canonicalize_name, owners.get(module, ()))} & changed)


def _pip(wanted: Collection[Requirement], versions: Mapping[str, str]) -> str | None:
    """Run pip under constraints; None if it did the work, else what it complained of."""
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        constraints = Path(folder, CONSTRAINTS)
        constraints.write_text("".join(f"{n}=={v}\n" for n, v in sorted(versions.items())), encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]
        done = subprocess.run(
            [*pip, *map(str, wanted), "-c", str(constraints)], capture_output=True, text=True, errors="replace"
        )
    complaints = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return "\n".join(complaints or done.stderr.splitlines()[-3:]) if done.returncode else None
