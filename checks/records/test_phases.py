"""Seconds by kind of work: counted once, however calls are nested, run side by side, or end."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from personalab.lm.generation import Request, generate
from personalab.lm.tiny import load_tiny_model
from personalab.records import phases


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that stands still but for what the test lets pass."""
    monkeypatch.setattr(phases, "_seconds", {})
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_a_phase_inside_itself_counts_once_and_a_failed_one_too(clock):
    @phases.phase("work")
    def work(deeper):
        clock[0] += 2
        if deeper:
            work(False)
        else:
            raise KeyError

    with pytest.raises(KeyError):
        work(True)
    with phases.phase("other"):
        clock[0] += 1
    assert phases.seconds() == {"work": 4.0, "other": 1.0}


def test_threads_in_one_phase_count_once(clock):
    inside = threading.Barrier(3, timeout=10)

    def work(_):
        with phases.phase("calls"):
            inside.wait()
            inside.wait()

    with ThreadPoolExecutor(2) as pool:
        done = pool.map(work, range(2))
        inside.wait()
        clock[0] += 5
        inside.wait()
        list(done)
    assert phases.seconds() == {"calls": 5.0}


def test_the_engine_is_timed():
    generate(*load_tiny_model("llama"), [Request([{"role": "user", "content": "hi"}], 2)])
    assert "answers" in phases.seconds()


def test_a_line_names_the_rest():
    assert phases.one_line({"answers": 61.2, "judge": 3.0}, 70.0) == "answers 61 s, judge 3 s, the rest 6 s"
    assert phases.one_line({"finetuning": 9.0, "answers": 4.0}, 10.0).endswith("the rest 0 s")
