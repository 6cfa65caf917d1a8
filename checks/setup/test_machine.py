"""The dtype of this machine: measured once, stored, obeyed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from personalab import tiers
from personalab.lm import models
from personalab.paths import ROOT
from personalab.setup import machine


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERSONALAB_CACHE", str(tmp_path))
    monkeypatch.delenv("PERSONALAB_DTYPE", raising=False)
    return tmp_path


@pytest.mark.parametrize(("speedup", "dtype"), [(2.1, "bfloat16"), (1.1, "float32"), (0.008, "float32")])
def test_the_decision_is_made_once_and_kept(speedup: float, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "bf16_speedup", lambda: speedup)
    assert machine.cpu_dtype() == dtype
    monkeypatch.setattr(machine, "bf16_speedup", lambda: 1 / speedup)  # a busy machine, say
    assert machine.cpu_dtype() == dtype
    assert models.resolve_dtype(tiers.TIERS["cpu"]) == getattr(torch, dtype)
    (entry,) = json.loads(machine.store().read_text("utf-8")).values()
    assert entry["bfloat16_speedup"] == pytest.approx(speedup, rel=1e-2)


def test_another_cpu_or_pytorch_decides_for_itself_and_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, speedup in (("a", 2.0), ("b", 0.1)):
        monkeypatch.setattr(machine, "_key", lambda key=key: key)
        monkeypatch.setattr(machine, "bf16_speedup", lambda speedup=speedup: speedup)
        machine.cpu_dtype()
    assert {k: v["dtype"] for k, v in json.loads(machine.store().read_text("utf-8")).items()} == {
        "a": "bfloat16",
        "b": "float32",
    }


@pytest.mark.parametrize("damage", ["", "[]", '{"x": 1}', '{"x": {"dtype": "int3"}}', "{"])
def test_a_damaged_store_is_measured_again(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.store().write_text(damage, "utf-8")
    monkeypatch.setattr(machine, "bf16_speedup", lambda: 2.0)
    assert machine.cpu_dtype() == "bfloat16"
    assert len(json.loads(machine.store().read_text("utf-8"))) == 1


def test_many_processes_at_once_decide_alike() -> None:
    ask = [sys.executable, "-c", "from personalab.setup.machine import cpu_dtype; print(cpu_dtype())"]
    running = [subprocess.Popen(ask, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)]
    said = {process.communicate()[0].splitlines()[-1] for process in running}
    (entry,) = json.loads(machine.store().read_text("utf-8")).values()
    assert said == {entry["dtype"]}


def test_the_environment_decides_over_tier_and_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "bf16_speedup", lambda: 2.0)
    for name in machine.DTYPES:
        monkeypatch.setenv("PERSONALAB_DTYPE", name)
        assert machine.dtype_name("auto") == machine.dtype_name("bfloat16", "cuda") == name
    monkeypatch.setenv("PERSONALAB_DTYPE", "auto")
    assert machine.dtype_name("float32") == "bfloat16"
    monkeypatch.setenv("PERSONALAB_DTYPE", "")
    assert machine.dtype_name("float16") == "float16"
    with pytest.raises(ValueError, match=r"'int3'.*PERSONALAB_DTYPE"):
        machine.dtype_name("int3")


@pytest.mark.parametrize(("native", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_gets_bfloat16_only_where_it_has_it(native: bool, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A T4 emulates bfloat16 when asked whether it supports it; only without emulation does it tell the truth.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert machine.dtype_name(tiers.TIERS["colab"].dtype, "cuda") == dtype


def test_measuring_leaves_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    times = machine.gemm_seconds()
    assert torch.get_num_threads() == before
    assert set(times) == {"float32", "bfloat16"} and all(0 < t < 10 for t in times.values())


def test_what_goes_on_record_is_computed_in_float32_on_the_cpu_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "_active", tiers.TIERS["colab"])
    monkeypatch.setenv("PERSONALAB_DTYPE", "")  # so that what is set below is undone
    monkeypatch.delenv("PERSONALAB_DTYPE")
    machine.compute_for_the_record()
    assert "PERSONALAB_DTYPE" not in machine.os.environ
    monkeypatch.setattr(tiers, "_active", tiers.TIERS["cpu"])
    machine.compute_for_the_record()
    assert models.resolve_dtype(tiers.TIERS["cpu"]) == torch.float32
