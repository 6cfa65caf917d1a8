"""The pins: complete for what is installed here, and open to every Python that the course names.

`.ci/pins.py` asks the same of other platforms, from the network.
"""

from __future__ import annotations

import importlib.util
from importlib import metadata
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from personalab.setup import doctor, venv

ROOT = venv.ROOT
FILES = ("requirements.txt", "requirements-dev.txt", "requirements-site.txt", "requirements-gpu.txt")
PINS = {canonicalize_name(name): v for name, v in doctor.wanted_packages(ROOT / venv.CONSTRAINTS).items()}
OLDEST, NEWEST = venv.OLDEST_PYTHON, venv.NEWEST_PYTHON
PYTHONS = [f"3.{minor}.{patch}" for minor in range(OLDEST[1], NEWEST[1] + 1) for patch in range(25)]


def brought(roots: list[Requirement]) -> dict[str, metadata.Distribution]:
    """Normalised name -> what is installed here, of `roots` and all that they require, extras and markers applied."""
    found, seen, waiting = {}, set(), list(roots)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        found[name] = metadata.distribution(name)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                needs = map(Requirement, found[name].requires or [])
                waiting += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]
    return found


@pytest.fixture(scope="module")
def installed() -> dict[str, metadata.Distribution]:
    files = [f for f in FILES if f != venv.LAYERS["site"]]  # a layer of its own, which tests do without
    return brought([Requirement(f"{k}=={v}") for f in files for k, v in doctor.wanted_packages(ROOT / f).items()])


@pytest.mark.parametrize("file", FILES)
def test_requirements_are_pinned_and_agree_with_the_constraints(file: str) -> None:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    packages = [line for line in lines if line and not line.startswith(("#", "-r "))]
    wanted = {canonicalize_name(name): v for name, v in doctor.wanted_packages(ROOT / file).items()}
    assert len(wanted) == len(packages), f"{file} has a line without =="
    assert wanted.items() <= PINS.items()


def test_constraints_are_sorted_and_name_each_package_once() -> None:
    lines = [line for line in (ROOT / venv.CONSTRAINTS).read_text().splitlines() if not line.startswith("#")]
    names = [canonicalize_name(line.partition("==")[0]) for line in lines]
    assert names == sorted(set(names)) == list(PINS)


def test_everything_installed_is_pinned(installed: dict[str, metadata.Distribution]) -> None:
    here = {name: found.version.partition("+")[0] for name, found in installed.items()}
    assert len(here) > 150, "the walk over the requirements stopped early"
    wrong = {name: (version, PINS.get(name)) for name, version in here.items() if version != PINS.get(name)}
    assert not wrong, "installed here and pinned (None: not in constraints.txt) differ"


def test_every_pin_admits_every_python(installed: dict[str, metadata.Distribution]) -> None:
    admitted = {name: SpecifierSet(found.metadata["Requires-Python"] or "") for name, found in installed.items()}
    refused = {name: [v for v in PYTHONS if v not in pythons] for name, pythons in admitted.items()}
    assert not {name: versions for name, versions in refused.items() if versions}


@pytest.fixture(scope="module")
def resolver() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pins", ROOT / ".ci" / "pins.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_resolver_reports_what_is_not_pinned(resolver: ModuleType) -> None:
    resolution = "numpy==2.4.6  # via scipy\nscipy==1.0  # via -r requirements.txt\ncolorama==0.4.6  # via tqdm\n"
    pins = resolver.read_pins("# why\nnumpy==2.4.6\nSciPy==1.17.1\n")
    assert pins == {"numpy": "2.4.6", "scipy": "1.17.1"}
    assert resolver.unpinned(resolution, pins) == resolution.splitlines()[1:]


def test_the_resolver_asks_about_what_set_up_admits(resolver: ModuleType) -> None:
    minors = [tuple(map(int, version.split(".")))[:2] for version in resolver.PYTHONS]
    assert {OLDEST, NEWEST} <= set(minors)
    assert set(resolver.REQUIREMENTS) == set(FILES) == {p.name for p in ROOT.glob("requirements*.txt")}
    assert f"{venv.OLDEST_MACOS}.0" == resolver.MACOS
    glibc = f"manylinux_{venv.OLDEST_GLIBC.replace('.', '_')}"
    assert all(tag.endswith(glibc) for name, tag in resolver.PLATFORMS.items() if name.startswith("Linux"))
