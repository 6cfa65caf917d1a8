"""In CI a check that cannot run is a failure; elsewhere it is skipped as usual."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = """
import pytest
def test_that_runs(): pass
@pytest.mark.skipif(True, reason="no such file")
def test_by_mark(): pass
def test_inside(): pytest.skip("not today")
@pytest.fixture
def absent(): pytest.importorskip("no_such_package")
def test_by_fixture(absent): pass
def test_on_gpu(): pytest.skip("needs a GPU")
@pytest.mark.xfail
def test_known_to_fail(): assert False
"""


@pytest.mark.parametrize(
    ("setting", "counts"),
    [
        ("1", {"1 failed", "3 errors", "1 passed", "1 skipped", "1 xfailed"}),
        ("", {"1 passed", "5 skipped", "1 xfailed"}),
    ],
)
def test_only_a_gpu_excuses_a_skip(tmp_path: Path, setting: str, counts: set[str]) -> None:
    (tmp_path / "test_some.py").write_text(CHECKS)
    (tmp_path / "test_whole_file.py").write_text("import pytest\npytest.importorskip('no_such_package')\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no_skips",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
    ]
    settings = os.environ | {"PERSONALAB_NO_SKIPS": setting, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True)
    assert set(done.stdout.splitlines()[-1].strip("= ").partition(" in ")[0].split(", ")) == counts, done.stdout
