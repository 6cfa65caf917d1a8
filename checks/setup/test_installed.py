"""What an installed wheel reads, writes and refuses; `.ci/wheel.py` builds one and uses it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from personalab import __main__ as cli
from personalab import files, paths, tiers
from personalab.setup import doctor, installed, venv

PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As if this package were installed, with its data in `shipped`; the current folder is an empty one."""
    shipped, here = tmp_path / "site" / "personalab" / "shipped", tmp_path / "here"
    shipped.mkdir(parents=True)
    here.mkdir()
    for module in (paths, venv):
        monkeypatch.setattr(module, "INSTALLED", True)
    monkeypatch.setattr(files, "SHIPPED", shipped)
    monkeypatch.delenv(paths.ARTIFACTS, raising=False)
    monkeypatch.delenv("PERSONALAB_VENV", raising=False)
    monkeypatch.setattr(tiers, "_active", tiers.TIERS["cpu"])
    monkeypatch.chdir(here)
    return shipped


def test_what_runs_leave_goes_into_the_current_folder(wheel: Path) -> None:
    assert paths.workplace() == Path.cwd() != paths.ROOT
    assert paths.artifacts_dir("cpu") == Path.cwd() / "artifacts" / "cpu"
    files.write(Path.cwd() / "note.txt", "yes")
    with pytest.raises(PermissionError, match="stays as it is"):
        files.write(wheel / "persona_vectors" / "note.txt", "no")
    assert not [*wheel.rglob("*")]


def test_it_makes_no_environment(wheel: Path) -> None:
    assert venv.ensure_env() is None and venv.enter_env() is None


@pytest.mark.parametrize("command", [[name] for name in installed.COURSE] + [["sae"], ["capping"], ["organism"]])
def test_what_needs_a_checkout_says_so_before_anything_runs(
    wheel: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command) == cli.FAILED
    assert "clone" in capsys.readouterr().err


def test_what_goes_elsewhere_is_allowed(wheel: Path) -> None:
    installed.check("trait-vectors", True, None)
    installed.check("sae", True, Path("mine"))
    for command in ("convert", "faults"):  # write where they are told, or nothing
        installed.check(command, True, None)
    installed.check("judge", False, None)
    tiers.use_tier("cpu", capping_model="some/model", trait_model="some/model")
    installed.check("capping", True, None)


def test_a_checkout_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not paths.INSTALLED and paths.workplace() == paths.ROOT == venv.ROOT
    installed.check("run", False, None)


@pytest.mark.parametrize(
    ("file", "listed"),
    [
        ("requirements.txt", [*PROJECT["dependencies"], *EXTRAS["course"]]),
        ("requirements-dev.txt", [*EXTRAS["dev"], *EXTRAS["gpu"]]),
        ("requirements-gpu.txt", EXTRAS["gpu"]),
    ],
)
def test_the_wheel_asks_loosely_for_what_the_course_pins(file: str, listed: list[str]) -> None:
    bounds = {canonicalize_name(r.name): r.specifier for r in map(Requirement, listed)}
    assert all({s.operator for s in found} <= {">="} for found in bounds.values())
    for name, version in doctor.wanted_packages(paths.ROOT / file).items():
        assert canonicalize_name(name) in bounds, f"{file} has {name}, which pyproject.toml does not ask for"
        assert bounds[canonicalize_name(name)].contains(version)
