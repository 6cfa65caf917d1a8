"""The table of a run's seconds: every section's phases and what is left, from the run's own files."""

from __future__ import annotations

import json

import pytest

from benchmarks import where_time_goes

MACHINE = {"cpu": "A CPU", "cpu_capability": "AVX2", "cores": 2, "threads": 1, "dtype": "float32"}
MACHINE |= {"date": "2026-01-02", "sections_at_once": 2}


def folder_of(tmp_path, *seconds, **changed):
    machines = {f"section_{i}": MACHINE | {"seconds": spent, "began": i / 2} for i, spent in enumerate(seconds, 1)}
    for name, value in changed.items():
        machines["section_2"][name] = value
    results = {f"{name}/seconds": {"value": 100.0 * int(name[-1])} for name in machines}
    (tmp_path / "results.json").write_text(json.dumps(results), "utf-8")
    (tmp_path / "machine.json").write_text(json.dumps(machines), "utf-8")
    return tmp_path


def test_a_run_becomes_a_table(tmp_path):
    run = where_time_goes.taken(
        folder_of(tmp_path, {"judge": 10.0, "answers": 70.0}, {"answers": 120.0}, date="2026-01-03")
    )
    lines = where_time_goes.tables({"float32": run}).splitlines()
    assert lines[0] == "| seconds, float32 | in all | answers | judge | the rest |"
    assert lines[2:5] == [
        "| section_1 | 100 | 70 | 10 | 20 |",
        "| section_2 | 200 | 120 | 0 | 80 |",
        "| **together** | 300 | 190 | 10 | 100 |",
    ]
    by_clock = "Sections at once: 2, threads each: 1; 201 by the clock (3.4 minutes). A CPU, AVX2, 2 cores, 2026-01-03."
    assert lines[-1] == by_clock  # 200 s for the second, which began after 1 s


def test_runs_of_other_sections_stay(tmp_path, monkeypatch):
    of = where_time_goes
    monkeypatch.setattr(of, "RESULTS", tmp_path / "run.json")
    monkeypatch.setattr(of, "README", tmp_path / "README.md")
    of.README.write_text(f"before\n{of.BEGIN}\nold\n{of.END}\nafter\n", "utf-8")
    of.RESULTS.write_text("{}", "utf-8")
    for i, spent in enumerate([({"judge": 1.0},), ({"judge": 1.0}, {"judge": 2.0}), ({"judge": 5.0},)]):
        (tmp_path / str(i)).mkdir()
        of.main(str(folder_of(tmp_path / str(i), *spent)))
    text = of.README.read_text("utf-8")
    names = ["float32, A CPU, AVX2: section_1", "float32, A CPU, AVX2: section_1, section_2"]
    assert list(json.loads(of.RESULTS.read_text("utf-8"))) == names
    assert "old" not in text and text.startswith("before") and text.endswith("after\n")
    assert text.count("| section_1 | 100 | 5 | 95 |") == 1 and text.count("| **together** | 300 | 3 | 297 |") == 1


def test_a_quick_run_stands_beside_a_full_one(tmp_path, monkeypatch):
    of = where_time_goes
    monkeypatch.setattr(of, "RESULTS", tmp_path / "run.json")
    monkeypatch.setattr(of, "README", tmp_path / "README.md")
    of.README.write_text(f"{of.BEGIN}{of.END}", "utf-8")
    for budget in ("full", "quick"):
        (tmp_path / budget).mkdir()
        of.main(str(folder_of(tmp_path / budget, {"judge": 1.0})))
    assert [run["budget"] for run in json.loads(of.RESULTS.read_text("utf-8")).values()] == ["full", "quick"]
    assert "| seconds, float32 | in all |" in of.README.read_text("utf-8")
    assert "| seconds, float32, quick budget | in all |" in of.README.read_text("utf-8")


def test_sections_that_ran_in_different_ways_are_no_run(tmp_path):
    with pytest.raises(ValueError, match="different ways"):
        where_time_goes.taken(folder_of(tmp_path, {}, {}, dtype="bfloat16"))


def test_the_table_is_that_of_the_results():
    of = where_time_goes
    shown = of.README.read_text("utf-8").partition(of.BEGIN)[2].partition(of.END)[0]
    assert shown.strip() == of.tables(json.loads(of.RESULTS.read_text("utf-8")))
