"""`clean` removes what the course made and can make again, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from personalab import tiers
from personalab.setup.cleaning import clean

STAYS = (
    "runs/colab-full/results.json",
    "runs/finetune/my/result.json",
    "artifacts/colab/section_1_axis.safetensors",
    "artifacts/reference/cpu/section_1_blocks.json",
    "workbook/__pycache__/x.pyc",
    "my-project/__pycache__/x.pyc",
    "my-project/.ipynb_checkpoints/notes.ipynb",
    "ckpt/adapter_model.safetensors",
)
GOES = (
    "runs/full/results.json",
    "runs/quick/results.json",
    "runs/failed/section_1.ipynb",
    "personalab/lm/__pycache__/x.pyc",
    "exercises/.ipynb_checkpoints/x.ipynb",
    ".ruff_cache/x",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tiers.use_tier("cpu")
    for name in (*STAYS, *GOES, "artifacts/cpu/section_1_axis.json", ".venv/bin/python"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def left(root: Path) -> set[str]:
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}


def test_only_what_the_course_made_goes(root):
    said = clean(root)
    assert left(root) == {*STAYS, "artifacts/cpu/section_1_axis.json", ".venv/bin/python"}
    assert "removing runs/full" in said and "keeping runs/colab-full" in said
    assert "keeping .venv: this course did not make it" in said


def test_everything_is_this_tiers_artifacts_too(root):
    (root / ".venv" / "personalab-installed.json").touch()
    said = clean(root, everything=True)
    assert left(root) == set(STAYS)
    assert "removing artifacts/cpu" in said and "removing .venv" in said and "keeping artifacts/colab" in said


def test_another_tier_leaves_the_first_alone(root):
    tiers.use_tier("colab")
    clean(root, everything=True)
    assert "runs/full/results.json" in left(root) and "artifacts/cpu/section_1_axis.json" in left(root)
    assert not {"runs/colab-full/results.json", "artifacts/colab/section_1_axis.safetensors"} & left(root)
