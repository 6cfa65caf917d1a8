"""What confines a submission, tried from inside; and what one of its steps leaves to the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from graders.harness import confined
from graders.harness.leftovers import Leftovers

LINUX = sys.platform == "linux"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forks of a process with threads


OVER, NOTHING = 78, 77


def inside(place: Path, hidden: list[Path], look: Callable[[], None], memory: int = 1 << 40) -> int:
    """The exit code of a process that is confined and then looks around.

    `OVER` if it takes more memory with all that it starts, `NOTHING` where the kernel confines nothing.
    """
    outer = os.fork()
    if outer:
        return os.waitstatus_to_exitcode(os.waitpid(outer, 0)[1])
    try:
        try:
            confined.separate(place, hidden, [Path(p) for p in (sys.prefix, sys.base_prefix)])
        except OSError:
            os._exit(NOTHING)
        inner = os.fork()
        if inner == 0:
            confined.processes_inside()
            confined.give_up_rights(os.getuid() or 60000, confined.Limits())
            look()
            os._exit(0)
        status, over = confined.wait(inner, None, memory)
        os._exit(OVER if over else os.waitstatus_to_exitcode(status))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


@pytest.mark.skipif(not LINUX, reason="only Linux confines")
def test_nothing_can_be_written_and_what_is_hidden_is_not_there(tmp_path: Path) -> None:
    mine, place = Path(sys.prefix).resolve(), tmp_path / "place"
    (tmp_path / "submissions").mkdir()
    (tmp_path / "submissions" / "ada").touch()
    place.mkdir()

    def look() -> None:
        for folder in (mine, Path("/etc"), Path("/usr"), Path("/run"), Path("/")):
            with pytest.raises(OSError, match=r"Read-only|denied"):
                (folder / "lab-was-here").write_text("")
        assert not os.path.exists(tmp_path / "submissions") and not [*Path("/dev/pts").iterdir()]
        assert [p for p in os.listdir("/proc") if p.isdecimal()] == ["1"] and os.getpid() == 1

    assert inside(place, [tmp_path], look) in (0, NOTHING)


@pytest.mark.skipif(not LINUX, reason="only Linux confines")
def test_what_many_processes_take_together_is_limited(tmp_path: Path) -> None:
    def many() -> None:
        for _ in range(4):
            if os.fork() == 0:
                kept = b"1" * (150 << 20)
                time.sleep(99 + len(kept) % 2)
        time.sleep(99)

    (tmp_path / "place").mkdir()
    assert inside(tmp_path / "place", [tmp_path], many, 550 << 20) in (OVER, NOTHING)


@pytest.mark.skipif(not LINUX, reason="only Linux confines")
def test_a_process_bomb_stops_at_its_limit_and_is_gone_when_it_is_ended(tmp_path: Path) -> None:
    user = os.getuid() or 60001  # whoever may do something else runs as somebody else
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            confined.give_up_rights(user, confined.Limits(processes=20))
            with pytest.raises(OSError, match="temporarily unavailable"):
                while os.fork():
                    os.write(writer, b".")
        finally:
            signal.pause()
    os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as said:
        started = said.read(1)
        while len(started) < 15:
            started += said.read(20)
        confined.end(child, user)
        started += said.read()  # ends when nobody holds the other side any more
    assert 15 <= len(started) <= 20


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A copy of a course."""
    for name in ("utils.py", "personalab/tiers.py", "workbook/mine.txt", "artifacts/cpu/a.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("as it was")
    return tmp_path


def left(course: Path, step: Callable[[], object]) -> str:
    """What is said of the things that a step leaves, in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            confined._call("prctl", 36, 1, 0, 0, 0)
            leftovers = Leftovers(course, alone=False, disk=False, memory=1 << 30)
            step()
            os.write(writer, leftovers.clear().encode() or b"nothing")
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as said:
        return said.read()


@pytest.mark.skipif(not LINUX, reason="only Linux confines")
def test_what_a_step_leaves_is_named_or_put_away(course: Path) -> None:
    assert left(course, lambda: (course / "workbook" / "new.txt").write_text("mine")) == "nothing"
    assert left(course, lambda: (course / "artifacts" / "cpu" / "a.json").write_text("mine")) == "nothing"
    assert left(course, threading.Timer(60, print).start) == "leaves a thread running"
    assert left(course, lambda: bytearray(1 << 30)) == "nothing"
    assert left(course, lambda: globals().update(kept=bytearray(1 << 30))) == "keeps more than half of the memory"
    assert left(course, lambda: signal.setitimer(signal.ITIMER_REAL, 60)) == "nothing"
    assert left(course, lambda: (course / "utils.py").write_text("as it is")) == "changes utils.py in the course"
    assert left(course, lambda: (course / "personalab" / "tiers.py").unlink()).startswith("changes personalab/tiers.py")


@pytest.mark.skipif(not LINUX, reason="only Linux confines")
def test_more_memory_than_one_process_may_take_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "_crew", lambda process, user: [process])
    for code, limit, over in (("x = b'1' * (1 << 28)\nwhile True: pass", 1 << 27, True), ("", 1 << 27, False)):
        child = subprocess.Popen([sys.executable, "-c", code])
        status, found = confined.wait(child.pid, None, limit)
        assert (os.waitstatus_to_exitcode(status), found) == (-signal.SIGKILL if over else 0, over)
