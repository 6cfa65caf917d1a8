"""The pages for maintainers name files that exist, and commands that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from personalab.__main__ import parser
from personalab.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROOMS = "|".join(p.name for p in (ROOT / "personalab").iterdir() if (p / "__init__.py").exists())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w/])((?:personalab|graders|checks|instructions)/[\w/]*\w\.(?:py|md))", text)
    named += [f"personalab/{path}" for path in re.findall(rf"(?<![\w/])((?:{ROOMS})/\w+\.py)", text)]
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_commands_exist(page: Path) -> None:
    text = " ".join(page.read_text(encoding="utf-8").split())
    for command in re.findall(r"python3? -m personalab ([a-z][a-z-]*)", text):
        with pytest.raises(SystemExit) as done:
            parser().parse_args([command, "--help"])
        assert done.value.code == 0, command


def test_every_case_of_robustness_names_a_check_that_exists() -> None:
    page = (ROOT / "docs" / "robustness.md").read_text(encoding="utf-8").partition("## Faults, counted")[0]
    rows = [row for row in page.splitlines() if row[:2] == "| "]
    named = [re.search(r"`(test_\w+)` \|$", row) for row in rows if not row.startswith("| case |")]
    defined = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "checks").rglob("test_*.py"))
    assert len(named) > 130 and all(named)
    assert not [match[1] for match in named if match and f"def {match[1]}(" not in defined]


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\([^)]*\)|<!--.*?-->|^```.*?^```", "", text, flags=re.S | re.M)  # as read: no code, no addresses
    assert len(re.findall(r"[^\W\d_][\w'-]*", text)) <= 900


def test_every_setting_is_explained() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "personalab").rglob("*.py"))
    named = set(re.findall(r"\bPERSONALAB_[A-Z]+(?:_[A-Z]+)*\b", code))
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert named and not [name for name in named if f"`{name}`" not in page]


def test_architecture_says_enough() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^\| .*\? \| ", text, re.M)) == 10
    assert all(f"`{room}/`" in text for room in ROOMS.split("|"))
