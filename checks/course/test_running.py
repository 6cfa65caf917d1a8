"""Executing the solutions and putting them on record, on a toy course in a temporary folder."""

from __future__ import annotations

import json
import os
import platform
import threading
from pathlib import Path

import nbformat
import pytest
from toy_course import NAME, TOY, notebook, read, write_source

from personalab import paths
from personalab.course import notebooks, recording, running
from personalab.course.myst import code_cells, sections
from personalab.records import pages, provenance, results

# What a section does: it measures, leaves something for the next one, and shows a figure.
WORKING = TOY.replace(
    "import sys\n",
    """import json
import sys
from pathlib import Path

import helper

from personalab import tiers
from personalab.records import results
from personalab.paths import artifacts_dir

results.record("section_9/x", helper.X, n=2, ci=(1.0, 2.0))
for name in ("section_9_axis.json", "vectors/evil.json", "steps/evil/1.json"):
    path = artifacts_dir(tiers.current_tier().name) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    print("left", path.exists())
    path.write_text(json.dumps(os.environ.get("PERSONALAB_DTYPE", "auto")))
print("careful", file=sys.stderr)
print(Path.cwd())
""",
)
COVER = """
```{code-cell} ipython3
:tags: [cover]

from IPython.display import display

display({"image/png": "Y292ZXI="}, raw=True)
display({"image/png": "Zm9sZA==", "application/vnd.plotly.v1+json": {}, "text/plain": "its twin"}, raw=True)
```
"""


@pytest.fixture
def working(course: Path) -> Path:
    """A course whose section measures 1.5, with a README and an old record."""
    (course / "helper.py").write_text("X = 1.5\n", "utf-8")
    notebooks.build(root=write_source(course, WORKING + COVER))
    old = {
        "section_9/old": {"value": 0, "n": None, "ci": None},
        "section_9/x": {"value": 3, "n": 1, "ci": [2, 4]},
        "section_8/x": {"value": 8, "n": None, "ci": None},
    }
    notebooks.write(course / "solutions" / "results.json", json.dumps(old))
    (course / "README.md").write_text(f"top\n{pages.TABLE_START}\n{pages.TABLE_END}\nend\n", "utf-8")
    return course


def committed(root: Path) -> dict[str, bytes]:
    """Everything that git would track, by path."""
    found = [path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {
        shown: path.read_bytes()
        for path in found
        if not (shown := path.relative_to(root).as_posix()).startswith(("runs/", "workbook/"))
    }


@pytest.mark.parametrize("budget", ["full", "quick"])
def test_a_run_changes_nothing_that_git_tracks(working: Path, budget: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = committed(working)
    assert running.execute(9, budget, working) == 0
    assert committed(working) == before
    folder = working / "runs" / budget
    own = json.loads((folder / "results.json").read_text("utf-8"))
    assert list(own) == ["section_9/seconds", "section_9/x"] and own["section_9/x"]["value"] == 1.5
    assert set(own["section_9/seconds"]) == {"value", "n", "ci", "section", "tier", "model", "seed"}
    saved = read(working, f"runs/{budget}")
    assert code_cells(saved)[0].outputs[0].text.endswith(f"/solutions\nbudget {budget}\n")
    assert [cell.id for cell in saved.cells] == [cell.id for cell in read(working, "solutions").cells]
    machine = json.loads((folder / "machine.json").read_text("utf-8"))["section_9"]
    assert machine["versions"]["torch"] and machine["cores"] >= 1
    printed = capsys.readouterr().out
    assert "test_halve" in printed and "import os" in printed and "provenance" not in printed
    assert "inside the recorded interval: 0 of 1\n  section_9/x: 1.5, recorded 3 [2, 4], n = 1" in printed


def test_a_run_keeps_its_artifacts_to_itself(working: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = paths.ROOT / "artifacts" / "cpu"
    before = {path: path.stat().st_mtime_ns for path in mine.rglob("*")}
    for expected in ("left False\nleft False\nleft False", "left True\nleft True\nleft False"):  # never old steps
        assert running.execute(9, "quick", working) == 0
        assert expected in code_cells(read(working, "runs/quick"))[0].outputs[0].text
    assert (working / "runs" / "quick" / "artifacts" / "cpu" / "section_9_axis.json").exists()
    assert before == {path: path.stat().st_mtime_ns for path in mine.rglob("*")}
    assert not (working / "artifacts").exists()


def test_one_variable_says_where_artifacts_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(paths.ARTIFACTS, raising=False)
    assert paths.artifacts_dir("cpu") == paths.ROOT / "artifacts" / "cpu"
    monkeypatch.setenv(paths.ARTIFACTS, str(tmp_path / "elsewhere"))
    assert paths.artifacts_dir("cpu") == tmp_path / "elsewhere" / "cpu"
    assert (tmp_path / "elsewhere" / "cpu").is_dir()


def test_the_record_replaces_what_is_committed_in_float32(working: Path) -> None:
    learners_own = working / "artifacts" / "cpu" / "section_9_axis.json"
    notebooks.write(learners_own, "mine")
    assert recording.record(None, working) == 0
    recorded = json.loads((working / "solutions" / "results.json").read_text("utf-8"))
    assert list(recorded) == ["section_8/x", "section_9/seconds", "section_9/x"]
    assert recorded["section_9/x"]["value"] == 1.5
    saved = read(working, "solutions")
    assert [cell.execution_count for cell in code_cells(saved)] == [1, 2, 3, 4]
    texts = [output.text for output in code_cells(saved)[0].outputs]
    assert "left False\nleft False\nleft False\n./solutions\nbudget full\n" in texts[0] and texts[1] == "careful\n"
    assert not any("execution" in cell.metadata for cell in saved.cells)
    (cover,) = (working / "solutions").glob("*.png")
    assert cover.read_bytes() == b"cover"
    reference = working / "artifacts" / "reference" / "cpu"
    assert (reference / "section_9_axis.json").read_text("utf-8") == '"float32"'
    assert (working / "persona_vectors" / "vectors" / "evil.json").exists()
    assert not [*working.rglob("steps")] and learners_own.read_text("utf-8") == "mine"
    assert list(json.loads((working / "solutions" / "machine.json").read_text("utf-8"))) == ["section_9"]
    assert "Recorded on" in (working / "RESULTS.md").read_text("utf-8")
    assert pages.update_pages(working, check=True) == []
    assert notebooks.build(check=True, root=working, strict=True) == []


def test_another_seed_is_recorded_beside_and_replaces_nothing(working: Path) -> None:
    before = committed(working)
    assert recording.record(9, working, seed=3) == 0
    recorded = json.loads((working / "solutions" / "results.json").read_text("utf-8"))
    assert recorded["section_9_seed_3/x"]["seed"] == 3
    assert recorded["section_9_seed_3/x"]["value"] == 1.5
    pages_only = {"README.md", "RESULTS.md", "results.json", "machine.json"}
    after = committed(working)
    assert {Path(name).name for name in after if after[name] != before.get(name)} <= pages_only


@pytest.mark.parametrize("fails", ["a cell", "the disk"])
def test_a_record_is_all_or_nothing(working: Path, fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fails == "a cell":
        notebooks.build(root=write_source(working, (WORKING + COVER).replace("halve(3) == 1.5", "halve(3) == 2")))
    before = committed(working)
    if fails == "a cell":
        assert recording.record(9, working) == 1
        assert code_cells(read(working, "runs/failed"))[2].outputs[0].ename == "AssertionError"
    else:
        real, room = os.fsync, iter(range(4))

        def full(number: int) -> None:
            if next(room, None) is None:
                raise OSError("disk full")
            real(number)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="disk full"):
            recording.record(9, working)
    assert committed(working) == before


def test_the_record_runs_what_the_sources_say_and_loses_no_change(working: Path) -> None:
    nb = read(working, "solutions")
    code_cells(nb)[1].source = "halve = 'my try'"
    notebooks.write(notebook(working, "solutions"), notebooks.dumps(nb))
    assert recording.record(9, working) == 0
    assert "my try" not in notebook(working, "solutions").read_text("utf-8")
    assert "my try" in (working / "workbook" / "solutions" / f"{NAME}.ipynb").read_text("utf-8")


def test_the_record_is_the_cpu_tiers(working: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "current_tier", lambda: recording.TIERS["colab"])
    with pytest.raises(ValueError, match="unset PERSONALAB_TIER"):
        recording.record(9, working)


def test_a_failing_cell_is_reported_and_overwrites_nothing(course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notebooks.build(root=write_source(course, TOY.replace("halve(3) == 1.5", "halve(3) == 2")))
    before = committed(course)
    assert running.execute(9, "full", course) == 1
    assert committed(course) == before
    assert [path.name for path in (course / "runs").iterdir()] == ["failed"]
    assert code_cells(read(course, "runs/failed"))[2].outputs[0].ename == "AssertionError"
    printed = capsys.readouterr().out
    assert "assert halve(3) == 2" in printed and "AssertionError" in printed and "\x1b" not in printed


def test_a_dead_kernel_is_reported_with_its_cell(course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notebooks.build(root=write_source(course, TOY.replace("import sys\n", "os._exit(3)\n")))
    assert running.execute(9, "quick", course) == 1
    assert "Cell 'import os': Kernel died" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="nbclient catches no signals on Windows")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_stops_the_run_and_its_kernel(course: Path, name: str) -> None:
    """Ctrl-C, or `kill`: no further section begins. nbclient by itself stops the kernel and swallows the signal."""
    lines = ["import signal, sys, time", "from pathlib import Path", "Path('kernel').write_text(str(os.getpid()))"]
    sends = "\n".join([*lines, f"os.kill(os.getppid(), signal.{name})", "time.sleep(60)\n"])
    notebooks.build(root=write_source(course, TOY.replace("import sys\n", sends)))
    with pytest.raises(KeyboardInterrupt):
        running.execute(9, "quick", course)
    with pytest.raises(ProcessLookupError):
        os.kill(int(next(course.rglob("kernel")).read_text()), 0)
    assert not (course / "runs" / "failed").exists()


def test_a_key_or_too_big_a_notebook_fails(
    course: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOY_API_KEY", "sk-toy-12345")
    monkeypatch.setattr(running, "MAX_BYTES", 1_000)
    notebooks.build(root=write_source(course, TOY.replace("import sys", 'print(os.environ["TOY_API_KEY"])')))
    assert running.execute(9, "full", course) == 1
    printed = capsys.readouterr().out
    assert "value of TOY_API_KEY" in printed and "over 1,000" in printed
    assert "sk-toy" not in printed + notebook(course, "runs/failed").read_text("utf-8")


def test_an_unknown_section_is_refused(course: Path) -> None:
    notebooks.build(root=course)
    for command in (running.chosen, recording.record):
        with pytest.raises(ValueError, match=r"no section 4: it has \[9\]"):
            command(4, course)


def test_a_comparison_counts_what_has_an_interval() -> None:
    recorded = {key: {"value": 1.0, "n": None, "ci": [0.5, 1.5]} for key in "abcdefgh"}
    recorded["seconds"] = {"value": 1.0, "n": 1, "ci": None}
    own = {key: {"value": value} for key, value in zip("abcdefg", [1, 0.5, 1.5, 2, 2, 2, 0], strict=True)}
    text = results.compare(own | {"seconds": {"value": 9}, "new": {"value": 1}}, recorded, shown=3)
    assert text.splitlines()[0] == "inside the recorded interval: 3 of 7"
    assert text.splitlines()[-1] == "  and 1 more" and len(text.splitlines()) == 5


def test_a_machine_is_described_without_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("PERSONALAB_DTYPE", "float32")
    described = provenance.describe()
    expected = {
        "date",
        "cpu",
        "cores",
        "memory_gib",
        "system",
        "python",
        "dtype",
        "threads",
        "cpu_capability",
        "tokens",
        "seconds",
        "versions",
    }
    assert set(described) == expected and set(described["versions"]) == set(provenance.PACKAGES)
    assert (described["dtype"], described["threads"]) == ("float32", torch.get_num_threads())
    text = json.dumps(described)
    assert not [name for name in (platform.node(), str(Path.home())) if len(name) > 1 and name in text]
    same = provenance.one_line({"section_1": described, "section_2": described})
    assert same.startswith(f"section_1, section_2: {described['cpu']}") and "float32" in same


def test_a_bonus_comes_after_its_section_under_a_key_of_its_own(tmp_path: Path) -> None:
    for name in ("section_4_bonus_finetuning", "section_4_steering", "section_10_more"):
        (tmp_path / f"{name}.md").write_text("# A\n", "utf-8")
    found = sections(tmp_path, ".md")
    assert {key: path.stem for key, path in found.items()} == {
        "4": "section_4_steering",
        "4b": "section_4_bonus_finetuning",
        "10": "section_10_more",
    }
    assert list(found) == ["4", "4b", "10"]
    assert running.Finished("4b", tmp_path, nbformat.v4.new_notebook(), 0.0, []).family == "finetuning"
    assert running.Finished("4", tmp_path, nbformat.v4.new_notebook(), 0.0, []).family == "section_4"


def test_a_second_run_into_the_same_folder_waits(working: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each would delete the other's steps, and read half of its artifacts."""
    started = threading.Event()

    async def section(number: str, path: Path, *rest: object) -> running.Finished:
        started.set()
        return running.Finished(number, path, read(working, "solutions"), 0.0, ["stopped"])

    monkeypatch.setattr(running, "_run", section)
    second = threading.Thread(target=running.execute, args=(9, "full", working))
    with results.one_writer(working / "runs" / "full"):
        second.start()
        assert not started.wait(0.6)
    second.join(10)
    assert started.is_set()
