"""What a run leaves behind: vectors, artifacts, results, statistics."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from personalab import tiers
from personalab.measure import intervals
from personalab.paths import ROOT
from personalab.records import artifacts, pages, results, vectors
from personalab.records.schema import DataError

META = {"model": "m", "convention": "block 3", "seed": 0}


def test_vectors_round_trip_with_metadata(tmp_path):
    path = vectors.save_vectors(tmp_path / "deep" / "v.safetensors", {"a": torch.arange(4.0)[::2]}, n=5, **META)
    found, metadata = vectors.load_vectors(path)
    assert torch.equal(found["a"], torch.tensor([0.0, 2.0]))
    assert metadata == {k: str(v) for k, v in (META | {"n": 5}).items()}
    assert [p.name for p in path.parent.iterdir()] == ["v.safetensors"]


def test_vectors_nobody_could_use_are_refused(tmp_path):
    with pytest.raises(ValueError, match="seed"):
        vectors.save_vectors(tmp_path / "v.safetensors", {}, model="m", convention="block")
    with pytest.raises(ValueError, match=r"\['bad'\] hold NaN"):
        vectors.save_vectors(tmp_path / "v.safetensors", {"bad": torch.tensor([float("nan")])}, **META)
    (tmp_path / "v.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="put a whole one in its place, or make it again"):
        vectors.load_vectors(tmp_path / "v.safetensors")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        vectors.load_vectors(tmp_path / "none.safetensors")


def test_your_own_artifact_comes_before_the_reference(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(artifacts, "ROOT", tmp_path)
    monkeypatch.setenv("PERSONALAB_ARTIFACTS", str(tmp_path / "own"))
    monkeypatch.setenv("PERSONALAB_RECORD", str(tmp_path / "results.json"))  # says nothing about artifacts
    tiers.use_tier("cpu")
    with pytest.raises(FileNotFoundError, match=r"No section_1_x\.json"):
        artifacts.load_artifact("section_1_x.json")
    reference = tmp_path / "artifacts" / "reference" / "cpu" / "section_1_x.json"
    reference.parent.mkdir(parents=True)
    reference.write_text('["reference"]')
    assert artifacts.load_artifact("section_1_x.json") == ["reference"]
    assert artifacts.save_artifact("section_1_x.json", ["own"]).parent == tmp_path / "own" / "cpu"
    assert artifacts.load_artifact("section_1_x.json") == ["own"]
    assert json.loads(reference.read_text()) == ["reference"]
    assert "committed reference" in capsys.readouterr().out


def test_record_prints_always_and_writes_in_the_build_only(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("PERSONALAB_RECORD", raising=False)
    tiers.use_tier("cpu")
    results.record("section_1/x", 0.5, n=3, ci=(0.4, 0.6))
    assert "section_1/x: 0.5 [0.4, 0.6], n = 3" in capsys.readouterr().out
    target = tmp_path / "results.json"
    monkeypatch.setenv("PERSONALAB_RECORD", str(target))
    results.record("section_1/x", np.float32(0.5), n=3, ci=(0.4, 0.6))
    results.record("section_1/y", 2)
    entry = json.loads(target.read_text())["section_1/x"]
    assert set(entry) == {"value", "n", "ci", "section", "tier", "model", "seed"}
    assert set(json.loads(target.read_text())) == {"section_1/x", "section_1/y"}


WRITER = """
import sys
from pathlib import Path
from personalab.records.results import merge_json
for i in range(25):
    merge_json(Path(sys.argv[1]), {f"{sys.argv[2]}_{i}/x": {"value": i}})
"""


def test_processes_that_write_one_results_file_lose_nothing(tmp_path):
    """Read, change and write as two runs do: without a lock the later one writes the earlier one's entries away."""
    path, command = tmp_path / "results.json", [sys.executable, "-c", WRITER]
    writers = [subprocess.Popen([*command, str(path), name], cwd=ROOT) for name in ("a", "b", "c")]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len(json.loads(path.read_text())) == 75
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_results_as_windows_editors_save_them_are_read(tmp_path):
    path = tmp_path / "results.json"
    path.write_bytes("\ufeff{}".encode())
    results.merge_json(path, {"section_1/x": 1})
    assert json.loads(path.read_text()) == {"section_1/x": 1}


@pytest.mark.parametrize(
    ("key", "value", "ci"), [("x", 1, None), ("s/x", float("nan"), None), ("s/x", 1, (0,)), ("s/x", 1, (0, np.inf))]
)
def test_record_refuses_what_is_not_a_result(key, value, ci):
    with pytest.raises(ValueError, match=key):
        results.record(key, value, ci=ci)


@pytest.mark.parametrize("content", ["", "null", "[1]", '{"section_1/a": ', "[" * 100_000])
def test_damaged_results_are_named_and_stay(content, tmp_path, monkeypatch):
    target = tmp_path / "results.json"
    target.write_text(content)
    monkeypatch.setenv("PERSONALAB_RECORD", str(target))
    with pytest.raises(DataError, match=r"results\.json"):
        results.record("section_1/b", 0.5)
    assert target.read_text() == content


def test_the_pages_follow_the_results(tmp_path, monkeypatch):
    (tmp_path / "solutions").mkdir()
    line = pages.Headline("a claim", "section_3/{trait}/x", pages.Beside("words", "section_3/y"), paper="0.7")
    monkeypatch.setattr(pages, "HEADLINES", (line, pages.Headline("not measured", "section_1/z")))
    entry = {"value": 0.9, "n": 7, "ci": [0.8, 0.95]}
    found = {f"section_3/{name}": entry | {"value": 0.5 + i / 10} for i, name in enumerate(("evil/x", "y"))}
    (tmp_path / "solutions" / "results.json").write_text(json.dumps(found))
    readme = tmp_path / "README.md"
    readme.write_text(f"top\n{pages.TABLE_START}\nold\n{pages.TABLE_END}\nbottom\n")
    assert pages.update_pages(tmp_path, check=True) == ["README.md", "RESULTS.md"]
    assert pages.update_pages(tmp_path) == ["README.md", "RESULTS.md"]
    row = "| a claim | evil 0.5 [0.8, 0.95], n = 7 | words<br>0.6 [0.8, 0.95], n = 7 | - | - | 0.7 |"
    assert row in (tmp_path / "RESULTS.md").read_text() and "not measured" not in (tmp_path / "RESULTS.md").read_text()
    assert "\n| a claim | 0.50 [0.80, 0.95] | words: 0.60 [0.80, 0.95] | - |\n" in readme.read_text()
    assert readme.read_text().startswith("top\n") and readme.read_text().endswith("\nbottom\n")
    assert "| `section_3/y` | 0.6 [0.8, 0.95], n = 7 |  |" in (tmp_path / "RESULTS.md").read_text()
    assert not pages.update_pages(tmp_path)
    machine = {"cpu": "A CPU", "cores": 2, "threads": 1, "dtype": "float32", "date": "2026-01-01"}
    machine["versions"] = {"torch": "2", "transformers": "5"}
    (tmp_path / "solutions" / "machine.json").write_text(json.dumps({"section_1": machine, "section_2": machine}))
    assert pages.update_pages(tmp_path) == ["RESULTS.md"]
    line = "section_1, section_2: A CPU, 2 cores, torch threads: 1, float32, torch 2, transformers 5, 2026-01-01."
    assert line in (tmp_path / "RESULTS.md").read_text()
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="lacks the markers"):
        pages.update_pages(tmp_path)


def test_a_bootstrap_interval_covers_the_mean_about_as_often_as_it_says():
    hits, rng = 0, np.random.default_rng(0)
    for seed in range(200):
        x = rng.normal(1.0, 1.0, 40)
        low, high = intervals.bootstrap_interval(40, lambda i, x=x: float(x[i].mean()), n_resamples=200, seed=seed)
        hits += low < 1.0 < high
    assert 0.88 < hits / 200 < 0.99
    with pytest.raises(ValueError, match="at least 2"):
        intervals.bootstrap_interval(1, lambda i: 0.0)
    with pytest.raises(ValueError, match="finite on 0 of 2000 resamples"):
        intervals.bootstrap_interval(3, lambda i: float("nan"))


def test_resamples_that_leave_a_group_empty_are_drawn_again():
    x = np.array([1.0, 2.0, np.nan, np.nan, np.nan, 3.0])
    low, high = intervals.bootstrap_interval(6, lambda i: float(np.nanmean(x[i])), n_resamples=200)
    assert 1 <= low < 1.5 and 2.5 < high <= 3
    with pytest.raises(ValueError, match="empty groups"):  # a ratio that has something below it in one of three
        intervals.bootstrap_interval(3, lambda i: 1.0 if (i == 0).all() else np.inf)


def test_what_cannot_be_measured_is_said_and_not_recorded(tmp_path, monkeypatch, capsys):
    tiers.use_tier("cpu")
    target = tmp_path / "results.json"
    monkeypatch.setenv("PERSONALAB_RECORD", str(target))
    x = np.arange(8.0)
    found = intervals.measure("section_4/mean", 8, lambda i: x[i].mean(), n=80, model="m")
    entry = json.loads(target.read_text())["section_4/mean"]
    assert (entry["value"], entry["n"], entry["ci"], entry["model"]) == (3.5, 80, list(found), "m")
    assert intervals.measure("section_4/nothing", 0, lambda i: x[i].mean()) is None
    assert intervals.measure("section_2/cut", 8, lambda i: 1 - x[i].sum() / 0.0) is None
    assert set(json.loads(target.read_text())) == {"section_4/mean"}
    said = capsys.readouterr().out
    assert "section_4/nothing: not measured. A bootstrap needs at least 2 units" in said
    assert "section_2/cut: not measured. The statistic is finite on 0 of" in said


def test_a_jackknife_interval_of_a_mean_is_students():
    x = np.random.default_rng(0).normal(size=20)
    low, high = intervals.jackknife_interval(20, lambda i: float(x[i].mean()))
    margin = 2.093 * x.std(ddof=1) / np.sqrt(20)  # 97.5 % quantile of Student's t with 19 degrees of freedom
    assert np.allclose([low, high], [x.mean() - margin, x.mean() + margin], atol=1e-3)
    with pytest.raises(ValueError, match="at least 3"):
        intervals.jackknife_interval(2, lambda i: 0.0)


def test_permutation_p_is_never_zero_and_counts_ties():
    assert intervals.permutation_p(5.0, np.arange(4)) == 1 / 5
    assert intervals.permutation_p(3.0, np.arange(4)) == 2 / 5
