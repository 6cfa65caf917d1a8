"""The command line's help, exit codes and what it says of a wrong command; make's way in."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from personalab import __main__ as cli
from personalab import __version__
from personalab.command_options import GROUPS
from personalab.paths import ROOT


def commands() -> set[str]:
    top = cli.parser()
    return set(next(action.choices for action in top._actions if action.dest == "command"))


def test_every_command_stands_in_the_help_once(capsys: pytest.CaptureFixture[str]) -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert len(set(grouped)) == len(grouped) and set(grouped) <= commands()
    with pytest.raises(SystemExit) as done:
        cli.main(["--help"])
    printed = capsys.readouterr().out
    assert done.value.code == 0 and max(map(len, printed.splitlines())) <= 115
    assert all(len(re.findall(rf"^  {name} ", printed, re.M)) == 1 for name in commands())
    assert "Exit codes:" in printed and "{" not in printed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rnu"], "There is no command 'rnu'. Did you mean run?"),
        (["quixotic"], "There is no command 'quixotic'. python -m personalab --help lists them."),
        (["run", "--bugdet"], "unrecognized arguments: --bugdet"),
        (["run", "--budget", "huge"], "invalid choice: 'huge'"),
    ],
)
def test_what_does_not_exist(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(arguments)
    said = capsys.readouterr().err
    assert done.value.code == 2 and says in said and said.count("\n") == 1


def test_no_command_shows_the_help_and_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main([])
    assert done.value.code == 2 and "Learning:" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(["--version"])
    assert done.value.code == 0 and capsys.readouterr().out == f"personalab {__version__}\n"


@pytest.mark.parametrize("error", [cli.SetupError("why"), ValueError("why")])
def test_a_failure_is_one_line_and_code_1(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setenv("PERSONALAB_VENV", "off")
    monkeypatch.setattr("personalab.tiers.current_tier", fail)
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().err.strip() == "why"


def test_options_of_lab_go_to_jupyter(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setenv("PERSONALAB_VENV", "off")
    monkeypatch.setattr("personalab.course.workbook.update", lambda root: [])
    monkeypatch.setattr(cli, "_ensure_weights", lambda: None)
    monkeypatch.setattr(cli, "run_child", lambda command, cwd: ran.append(command) or 0)
    assert cli.main(["lab", "--no-browser", "--port", "9001"]) == 0
    assert ran == [[sys.executable, "-m", "jupyter", "lab", "--no-browser", "--port", "9001"]]


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
def test_make_passes_its_arguments_on() -> None:
    names = re.findall(r"^(\w+):$", (ROOT / "Makefile").read_text(), re.M)
    assert set(names) <= commands() and "lab" in names
    for name in names:
        command = ["make", "--no-print-directory", "--dry-run", name, "ARGS=--one two", "PYTHON=python"]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert said.strip() == f"python -m personalab {name} --one two"


def test_a_windows_console_can_print_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes through a pipe there is cp1252."""
    monkeypatch.setenv("PERSONALAB_VENV", "off")
    top = cli.parser()
    subparsers = next(action for action in top._actions if action.dest == "command")
    for sub in (top, *subparsers.choices.values()):
        assert sub.format_help().encode("cp1252")
    assert cli.main(["tiers"]) == 0
    assert capsys.readouterr().out.encode("cp1252")


def test_a_python_with_nothing_installed_reads_the_commands() -> None:
    """The first call makes the environment, so all that comes before must do without it."""
    bare = [sys.executable, "-S", "-E", "-m", "personalab", "--help"]
    assert "setup" in subprocess.run(bare, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("arguments", "processes", "says"),
    [(["--dry-run", "--budget", "quick"], "1", "leave --budget out"), ([], "2", "without a launcher")],
)
def test_run_refuses_what_it_would_ignore_or_wait_for(
    arguments: list[str], processes: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PERSONALAB_VENV", "off")
    monkeypatch.setenv("WORLD_SIZE", processes)
    assert cli.main(["run", *arguments]) == cli.FAILED
    assert says in capsys.readouterr().err


def test_a_commands_help_begins_with_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["screen", "--help"])
    assert capsys.readouterr().out.startswith("usage: python -m personalab screen [")
