"""Two sections at once: what they print, keep and share, and that both stop when the run is stopped."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from toy_course import NAME, TOY, write_source

from personalab.course import notebooks, running
from personalab.files import write
from personalab.setup.doctor import GB, Machine
from personalab.tiers import TIERS

OTHER = "section_8_more_toys"
# Waits until the other section has begun, which it never does where sections take turns.
MEETS = """
import time
from pathlib import Path

folder = Path(os.environ["PERSONALAB_ARTIFACTS"])
folder.mkdir(parents=True, exist_ok=True)
me = Path(folder, str(os.getpid()))
me.write_text(os.environ.get("OMP_NUM_THREADS", "unset"))
print("threads", me.read_text())
deadline = time.time() + 30
while len(list(folder.glob("[0-9]*"))) < 2 and time.time() < deadline:
    time.sleep(0.05)
print("met", len(list(folder.glob("[0-9]*"))))
"""
ENOUGH = 2 * running.SECTION_MEMORY + 1


def two(course: Path, first: str = MEETS, second: str = MEETS) -> Path:
    """A course with two sections, whose first cells do as told."""
    write_source(course, TOY.replace("import sys\n", first))
    write(course / "instructions" / f"{OTHER}.md", TOY.replace("import sys\n", second).replace("halve", "half_of"))
    notebooks.build(root=course)
    return course


def printed(course: Path, name: str) -> str:
    """What the first cell of an executed section printed."""
    nb = json.loads((course / "runs" / "quick" / f"{name}.ipynb").read_text("utf-8"))
    first = next(cell for cell in nb["cells"] if cell["cell_type"] == "code")
    return "".join(first["outputs"][0]["text"])


def test_two_sections_meet_and_share_the_threads(course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert running.execute(None, "quick", two(course), jobs=2) == 0
    for name in (NAME, OTHER):
        assert f"threads {running.threads(2)}\nmet 2\n" in printed(course, name)
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if line.endswith(" s") and "test_hal" in line} == {"8", "9"}
    kept = {
        name: json.loads((course / "runs" / "quick" / f"{name}.json").read_text("utf-8"))
        for name in ("machine", "results")
    }
    assert set(kept["results"]) == {"section_8/seconds", "section_9/seconds"}
    assert [m["sections_at_once"] for m in kept["machine"].values()] == [2, 2]
    assert all(m["began"] < 30 for m in kept["machine"].values())


def test_one_at_a_time_keeps_their_order_and_the_threads(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    alone = MEETS.replace("+ 30", "+ 0")
    assert running.execute(None, "quick", two(course, alone, alone), jobs=1) == 0
    assert "threads unset\nmet 1\n" in printed(course, OTHER)
    assert "threads unset\nmet 2\n" in printed(course, NAME)


def test_several_sections_by_name(course: Path) -> None:
    root = two(course)
    assert list(running.chosen("8,9", root)) == ["8", "9"] == list(running.chosen(None, root))
    assert list(running.chosen("9", root)) == list(running.chosen(9, root)) == ["9"]
    with pytest.raises(ValueError, match=r"no section 7, : it has \[8, 9\]"):
        running.chosen("8,7,", root)


def test_one_that_fails_costs_the_other_nothing(course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert running.execute(None, "quick", two(course, "import sys\n", "os._exit(3)\n"), jobs=2) == 1
    assert "Kernel died" in capsys.readouterr().out
    assert [path.name for path in (course / "runs" / "failed").iterdir()] == [f"{OTHER}.ipynb"]
    assert set(json.loads((course / "runs" / "quick" / "results.json").read_text("utf-8"))) == {"section_9/seconds"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_stops_both_kernels(course: Path, name: str) -> None:
    waits = MEETS + "time.sleep(60)\n"
    sends = MEETS + f"import signal\nos.kill(os.getppid(), signal.{name})\ntime.sleep(60)\n"
    with pytest.raises(KeyboardInterrupt):
        running.execute(None, "quick", two(course, waits, sends), jobs=2)
    kernels = [int(path.name) for path in (course / "runs" / "quick" / "artifacts").glob("[0-9]*")]
    assert len(kernels) == 2
    for pid in kernels:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not (course / "runs" / "failed").exists()


def test_the_longest_on_record_begins_first() -> None:
    picked = {number: Path() for number in ("1", "3", "4", "4b", "5")}
    seconds = {"section_1/seconds": 10, "section_3/seconds": 30, "section_4/seconds": 20, "finetuning/seconds": 25}
    recorded = {key: {"value": value} for key, value in seconds.items()}
    assert running.longest_first(picked, recorded) == ["3", "4b", "4", "1", "5"]


@pytest.mark.parametrize(
    ("tier", "cores", "free", "jobs"),
    [
        ("cpu", 2, ENOUGH, 2),
        ("cpu", 16, 100 * GB, 2),
        ("cpu", 1, ENOUGH, 1),
        ("cpu", 8, ENOUGH - 2, 1),
        ("colab", 8, 100 * GB, 1),
        ("a100", 8, 100 * GB, 1),
    ],
)
def test_two_at_once_where_cores_and_memory_allow(tier: str, cores: int, free: float, jobs: int) -> None:
    assert running.usual_jobs(TIERS[tier], Machine(16 * GB, free, 1e12, cores)) == jobs


def test_a_model_of_your_own_runs_alone_unless_asked() -> None:
    own = replace(TIERS["cpu"], persona_model="someone/7B", response_model="someone/7B")
    assert running.usual_jobs(own, Machine(16 * GB, 100 * GB, 1e12, 8)) == 1
    assert running.jobs_allowed(2, own) == 2


@pytest.mark.parametrize(("jobs", "tier", "match"), [(0, "cpu", "at least 1"), (2, "a100", "take turns on the GPU")])
def test_what_cannot_be_is_refused(jobs: int, tier: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        running.jobs_allowed(jobs, TIERS[tier])
