"""The doctor's judgement, on given facts."""

from __future__ import annotations

from pathlib import Path

import pytest

from personalab import tiers
from personalab.setup import doctor
from personalab.tier_commands import before_run


def machine(memory: float = 16, gpu_memory: float = 0) -> doctor.Machine:
    gpu = "some GPU" if gpu_memory else None
    return doctor.Machine(memory * doctor.GB, memory * doctor.GB, 50 * doctor.GB, 8, gpu, gpu_memory * doctor.GB)


@pytest.mark.parametrize(
    ("memory", "gpu_memory", "tier"),
    [(16, 0, "cpu"), (3.9, 0, "cpu"), (16, 8, "cpu"), (13, 15.8, "colab"), (200, 85, "a100"), (2, 0, None)],
)
def test_fitting_tier(memory: float, gpu_memory: float, tier: str | None) -> None:
    assert doctor.fitting_tier(machine(memory, gpu_memory)) == tier


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    assert doctor.within_container(64, 32, tmp_path) == (64, 32)  # no such files: no container
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("6\n")
    (tmp_path / "memory.stat").write_text("anon 3\ninactive_file 2\n")
    assert doctor.within_container(64, 32, tmp_path) == (64, 32)
    (tmp_path / "memory.max").write_text("8\n")
    assert doctor.within_container(64, 32, tmp_path) == (8, 4)
    assert doctor.within_container(64, 3, tmp_path) == (8, 3)  # the host has less
    (tmp_path / "memory.current").write_text("11\n")
    assert doctor.within_container(64, 32, tmp_path) == (8, 0)


def test_a_tier_runs_where_it_fits_and_on_anything_larger() -> None:
    sizes = {"cpu": 0, "colab": 15.8, "a100": 85}
    assert set(sizes) == set(tiers.TIERS), "a new tier needs its GPU memory in the doctor"
    for wanted, needed in sizes.items():
        for found in sizes.values():
            problems = doctor.hardware_problems(wanted, machine(gpu_memory=found))
            assert (not problems) == (found >= needed)


def test_package_problems(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("# comment\npytest==0.0.1\nno-such-package==1.0  # why\n-r other.txt\n")
    wanted = doctor.wanted_packages(file)
    assert wanted == {"pytest": "0.0.1", "no-such-package": "1.0"}
    wrong, missing = doctor.package_problems(wanted, "fix")
    assert "the course is pinned to 0.0.1" in wrong.what
    assert missing.what == "no-such-package 1.0 is not installed"


def test_a_build_suffix_is_no_other_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "2.13.0+cpu")
    assert doctor.package_problems({"torch": "2.13.0"}, "fix") == []


def test_keys_are_reported_by_name_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in (*doctor.ENDPOINT_KEYS, "HF_TOKEN"):
        monkeypatch.delenv(key, raising=False)
    (tmp_path / ".env").write_text("export OPENAI_API_KEY = sk-1\nOPENAI_BASE_URL=\n# OPENROUTER_API_KEY=x\n")
    monkeypatch.setattr(doctor, "workplace", lambda: tmp_path)
    settings = doctor.key_settings()
    assert {key for key, there in settings.items() if there} == {"OPENAI_API_KEY"}
    assert set(map(type, settings.values())) == {bool}


@pytest.mark.parametrize("tier", ["colab", "a100"])
def test_a_gated_model_is_named_before_anything_is_fetched(
    tier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is logged in; then there is a token; then the model is here already."""
    gemma = tiers.TIERS[tier].persona_model
    monkeypatch.setattr(doctor, "_is_here", lambda name: False)
    monkeypatch.setattr(doctor, "_hub_token", lambda: None)
    (problem,) = doctor.gate_problems(tiers.TIERS[tier])
    assert problem.what == f"{gemma} is gated, and HF_TOKEN is not set"
    assert f"https://huggingface.co/{gemma}" in problem.fix and "HF_TOKEN" in problem.fix
    assert problem in doctor.problems_of(tiers.TIERS[tier], machine(gpu_memory=85))
    with pytest.raises(ValueError, match=f"{gemma} is gated.*set HF_TOKEN"):
        tiers.use_tier(tier)
        before_run("1", "full")
    monkeypatch.setattr(doctor, "_hub_token", lambda: "hf_x")
    assert doctor.gate_problems(tiers.TIERS[tier]) == []
    monkeypatch.setattr(doctor, "_hub_token", lambda: None)
    monkeypatch.setattr(doctor, "_is_here", lambda name: True)
    assert doctor.gate_problems(tiers.TIERS[tier]) == []


def test_open_models_have_no_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_hub_token", lambda: pytest.fail("nobody needs one"))
    assert doctor.gate_problems(tiers.TIERS["cpu"]) == []
    assert doctor.gate_problems(tiers.use_tier("a100", persona_model="Qwen/Qwen2.5-7B-Instruct")) == []
