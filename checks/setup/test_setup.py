"""The environment: made once, installed completely or again, entered by every command. pip is not called."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from personalab import __main__ as cli
from personalab import tiers
from personalab.setup import venv


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A folder with requirement files and an installer that only takes notes; `fail` makes pip fail."""
    root = tmp_path / "project"
    root.mkdir()
    for name in (*venv.LAYERS.values(), venv.CONSTRAINTS):
        (root / name).write_text(f"# {name}\n")
    state = SimpleNamespace(root=root, venv=root / ".venv", created=0, installed=[], error=None)

    def create(folder: Path) -> None:
        state.created += 1
        venv.venv_python(folder).parent.mkdir(parents=True)
        venv.venv_python(folder).touch()

    def pip_install(folder: Path, root: Path, files: list[str]) -> None:
        state.installed.append(list(files))
        if state.error:
            raise state.error

    monkeypatch.setattr(venv, "_create", create)
    monkeypatch.setattr(venv, "_pip_install", pip_install)
    monkeypatch.setattr(venv, "_put_on_path", lambda folder, root: None)
    monkeypatch.setattr(venv, "_runs", lambda folder: venv.venv_python(folder).exists())
    monkeypatch.setattr(venv, "ROOT", root)
    monkeypatch.setattr(venv, "VENV", state.venv)
    monkeypatch.setattr(venv, "rerun", lambda folder: 7)
    monkeypatch.delenv("PERSONALAB_VENV", raising=False)
    return state


def test_installs_once(project: SimpleNamespace) -> None:
    assert [venv.ensure_env(), venv.ensure_env()] == [7, 7]
    assert project.created == 1
    assert project.installed == [["requirements.txt"]]


def test_dev_layer_comes_on_top_and_stays(project: SimpleNamespace) -> None:
    venv.ensure_env()
    venv.ensure_env(dev=True)
    venv.ensure_env()
    assert project.installed == [["requirements.txt"], ["requirements.txt", "requirements-dev.txt"]]


@pytest.mark.parametrize("changed", ["requirements.txt", "constraints.txt"])
def test_a_changed_requirement_is_installed(project: SimpleNamespace, changed: str) -> None:
    venv.ensure_env()
    (project.root / changed).write_text("numpy==2.4.6\n")
    venv.ensure_env()
    assert len(project.installed) == 2
    assert project.created == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), venv.SetupError("pip stopped")])
def test_an_interrupted_installation_is_made_anew(project: SimpleNamespace, error: BaseException) -> None:
    project.error = error
    with pytest.raises(type(error)):
        venv.ensure_env()
    assert not venv.is_installed(project.venv, project.root, ["base"])
    project.error = None
    venv.ensure_env()
    assert project.created == 2
    assert venv.is_installed(project.venv, project.root, ["base"])


def test_a_cut_short_stamp_counts_as_nothing(project: SimpleNamespace) -> None:
    venv.ensure_env()
    next(project.venv.glob("*.json")).write_text('{"base": "12')
    venv.ensure_env()
    assert len(project.installed) == 2


def test_venv_off_installs_nothing(project: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONALAB_VENV", "off")
    assert venv.ensure_env(dev=True) is None
    assert not project.installed


def test_old_python_gets_a_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 6, "final", 0))
    assert cli.main(["run"]) == cli.FAILED
    assert "Python 3.11 or newer is needed; this is Python 3.9.6" in capsys.readouterr().err


def fake_machine(
    monkeypatch: pytest.MonkeyPatch,
    system: str = "linux",
    kind: str = "linux-x86_64",
    machine: str = "x86_64",
    libc: tuple[str, str] = ("glibc", "2.36"),
    macos: str = "",
    python: tuple[int, int] = (3, 12),
) -> None:
    monkeypatch.setattr(sys, "version_info", (*python, 1, "final", 0))
    monkeypatch.setattr(venv.platform, "machine", lambda: machine)
    monkeypatch.setattr(venv.platform, "libc_ver", lambda: libc)
    monkeypatch.setattr(venv.platform, "mac_ver", lambda: (macos, ("", "", ""), machine))
    monkeypatch.setattr(venv.sysconfig, "get_platform", lambda: kind)
    monkeypatch.setattr(sys, "platform", system)


MAC = {"system": "darwin", "kind": "macosx-11.0-universal2", "machine": "arm64", "macos": "14.0"}
WINDOWS = {"system": "win32", "kind": "win-amd64", "machine": "AMD64"}
ARM = {"kind": "linux-aarch64", "machine": "aarch64"}


@pytest.mark.parametrize(
    "machine",
    [
        *({"python": python} for python in (venv.OLDEST_PYTHON, venv.NEWEST_PYTHON)),
        {"libc": ("glibc", "2.28")},
        ARM,
        MAC,
        MAC | {"macos": "26.1"},
        WINDOWS,
        WINDOWS | {"machine": "ARM64"},
    ],
)
def test_a_machine_with_wheels_is_not_refused(machine: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        fake_machine(patch, **machine)
        venv.check_machine()


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (MAC | {"machine": "x86_64"}, "Intel Macs since 2.3"),
        (MAC | {"macos": "13.6.1"}, "macOS 14 or newer, this is macOS 13.6.1"),
        (WINDOWS | {"kind": "win-arm64"}, "this one is for win-arm64"),
        (WINDOWS | {"kind": "win32"}, "this one is for win32"),
        ({"kind": "linux-armv7l"}, "this one is for linux-armv7l"),
        ({"libc": ("glibc", "2.17")}, "glibc 2.28 or newer, this Linux has glibc 2.17"),
        ({"libc": ("", "")}, "this Linux has another C library"),
        ({"python": (3, 15)}, "up to 3.14, this is Python 3.15"),
    ],
)
def test_a_machine_without_wheels_is_told_so(machine: dict, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        fake_machine(patch, **machine)
        with pytest.raises(venv.SetupError, match=f"(?s){words}.*PERSONALAB_VENV=off"):
            venv.check_machine()


def test_only_an_installation_needs_wheels(project: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.ensure_env()
    monkeypatch.setattr(venv, "_no_wheels", lambda: "there are none")
    assert venv.ensure_env() == 7
    with pytest.raises(venv.SetupError, match="there are none"):
        venv.ensure_env(dev=True)
    monkeypatch.setenv("PERSONALAB_VENV", "off")
    assert venv.ensure_env(dev=True) is None


def test_missing_venv_module_gets_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venv.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(venv.SetupError, match="apt install python3-venv"):
        venv._create(tmp_path / ".venv")


def test_child_exit_codes_pass_through(tmp_path: Path) -> None:
    assert venv.run_child([sys.executable, "-c", "raise SystemExit(5)"], cwd=tmp_path) == 5


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_signal_becomes_128_plus_its_number(tmp_path: Path) -> None:
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    assert venv.run_child([sys.executable, "-c", kill], cwd=tmp_path) == 128 + 15


def test_lock_admits_one_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with venv.exclusive_lock(tmp_path / "lock", "the test"):
            order.append("second")

    with venv.exclusive_lock(tmp_path / "lock", "the test"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize("name", ["__init__", "__main__", "paths", "setup/__init__", "setup/venv"])
def test_what_an_old_python_reads_first_is_in_old_syntax(name: str) -> None:
    source = (venv.ROOT / "personalab" / f"{name}.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 8))


@pytest.mark.parametrize("command", ["setup", "doctor"])
def test_unknown_tier_names_the_choices(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("PERSONALAB_VENV", "off")
    monkeypatch.setenv("PERSONALAB_TIER", "tpu")
    monkeypatch.setattr(tiers, "_active", None)
    assert cli.main([command]) == cli.FAILED
    assert "cpu, colab, a100" in capsys.readouterr().err


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import json, sys, personalab.__main__, personalab.setup.doctor; print(json.dumps([*sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=venv.ROOT)
    assert not {"torch", "transformers", "numpy", "openai"} & set(json.loads(done.stdout))
