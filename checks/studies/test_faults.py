"""The command `faults` at a small size: nothing is lost, and where something would be, it is counted."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from personalab.endpoint import cache
from personalab.paths import ROOT
from personalab.studies import faults
from personalab.studies.faults_files import contents, hostile_files
from personalab.studies.faults_jobs import Job, note
from personalab.studies.faults_kills import kills
from personalab.studies.faults_server import KINDS, ChatServer

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@forks
def test_forty_requests_and_five_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yours = [path for folder in ("artifacts", "benchmarks/results", "solutions") for path in (ROOT / folder).rglob("*")]
    before = [(path, path.stat().st_mtime_ns) for path in yours]
    rows = faults.measure(40, 5, 0, tmp_path)
    assert [(path, path.stat().st_mtime_ns) for path in yours] == before
    assert not any(row.lost or row.twice for row in rows), capsys.readouterr().out
    times = Counter[str]()
    for row in rows:
        times[row.disturbed] += row.times
    assert times["kills"] == 5 and times[f"faults of {len(KINDS)} kinds"] > 3 and times["damaged files"] > 50
    assert sum(row.n for row in rows if row.disturbed == "kills") > 50
    assert not [row.notes for row in rows if row.disturbed == "full disks" and row.notes]  # every error names the disk


def test_answers_that_are_not_kept_are_paid_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = cache.store_reply
    monkeypatch.setattr(cache, "store_reply", lambda key, *rest: None if key < "8" else stored(key, *rest))
    monkeypatch.setattr(faults, "SHARE", 0.05)  # half of all are asked again in each round until all succeed at once
    row = faults.faulty_server(20, 0, tmp_path)
    assert row.lost > 3 and row.twice > 3


def test_a_page_that_passes_for_an_answer_is_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personalab.endpoint.parallel.text_of", lambda reply, asked: "an answer")
    with pytest.raises(RuntimeError, match="20 of 20 answers are not the server's"):
        faults.faulty_server(20, 0, tmp_path)


def careless(folder: Path) -> None:
    """Writes in place, begins every piece anew, and says that it is kept before it is."""
    for name in "abcd":
        note(folder, "made", name)
        note(folder, "kept", name)
        with (folder / name).open("w") as file:
            for _ in range(20):
                print("line", file=file, flush=True)
                time.sleep(0.005)


@forks
def test_a_careless_job_loses_and_makes_twice(tmp_path: Path) -> None:
    job = Job("careless", careless, lambda folder: {p.name: p.read_text() for p in folder.glob("?")})
    row = kills(job, 4, tmp_path, 0)
    assert row.times == 4 and row.lost > 0 and row.twice > 0


def ends_in_an_error(folder: Path) -> None:
    """Comes to its end only where nothing of an earlier try lies."""
    (folder / "leftover").mkdir()
    time.sleep(0.3)


@forks
def test_a_job_that_a_kill_leaves_unable_to_go_on_is_a_loss(tmp_path: Path) -> None:
    row = kills(Job("stuck", ends_in_an_error, lambda folder: {}), 2, tmp_path, 0)
    assert row.lost == 1 and "FileExistsError" in row.notes[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_fault_is_tried_again_or_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("personalab.studies.faults_server.KINDS", (kind,))
    assert faults.faulty_server(12, 1, tmp_path).lost == 0


def test_hostile_files_are_hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personalab.studies.faults_files.load_or_generate", lambda path, make, what: path.read_bytes())
    row = hostile_files(tmp_path)
    assert row.lost >= len(contents(tmp_path)) and any(note.startswith("step, bytes") for note in row.notes)


def test_the_readmes_line_is_what_is_on_record() -> None:
    found = json.loads((ROOT / faults.RECORDED).read_text("utf-8"))
    for path, text in faults.pages(found).items():
        assert path.read_text("utf-8") == text, f"{path} is not what faults.json says: run personalab faults --record"
    assert not any(row["lost"] or row["twice"] for row in found["rows"])
    changed = json.loads(json.dumps(found))
    changed["rows"][0]["lost"] = 3
    assert "3 results lost" in faults.sentence(changed)
    assert all(path.read_text("utf-8") != text for path, text in faults.pages(changed).items())


def test_the_server_fails_as_often_as_it_says() -> None:
    server = ChatServer(0.2, 0)
    for i in range(1000):
        server.reply("", str(i))
    assert 160 < sum(server.faults.values()) < 240 and set(server.faults) == set(KINDS)
