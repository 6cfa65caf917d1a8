"""What one step of a submission leaves behind that would reach the next: it is put away, or named."""

import _thread
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from graders.harness import confined

WRITABLE = ("workbook", "artifacts", "runs", ".home", ".tmp")  # what a solution may change in the copy of the course
KEEPS = "keeps more than half of the memory"
_ROOM = 0.5  # how much of the space for files and of the memory must be free for the next step


class Leftovers:
    """Made in the process that runs a submission's cells, before the first of them.

    Args:
        course: the copy of the course, in which nothing but `WRITABLE` may change.
        alone: no process but a submission's can be reached from here, so that all of them may be ended.
        disk: the copy lies on a disk of its own.
        memory: bytes that a process may take.
    """

    def __init__(self, course: Path, alone: bool, disk: bool, memory: int) -> None:
        self._course, self._alone, self._count = course, alone, _thread._count
        self._files, self._threads = dict(_files(course)), self._count()
        self._room = _ROOM * _room(course) if disk else 0
        self._memory = confined.address_space() + _ROOM * memory
        self._kill, self._wait, self._itimer = os.kill, os.waitpid, signal.setitimer

    def clear(self) -> str:
        """End processes and timers; what cannot be put away is told: "" if there is none of it."""
        for kind in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            self._itimer(kind, 0)
        self._end_processes()
        if self._count() > self._threads:
            return "leaves a thread running"
        if lost := next((name for name, state in self._files.items() if _state(self._course / name) != state), ""):
            return f"changes {lost} in the course"
        if _room(self._course) < self._room:
            return "leaves files that fill the disk"
        if confined.address_space() > self._memory:
            return KEEPS
        return ""

    def _end_processes(self) -> None:
        """Also those that others have left: they are this process's children by then."""
        while True:
            try:
                ended, _ = self._wait(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not ended:
                if not self._alone:
                    return
                self._kill(-1, signal.SIGKILL)  # every one but this
                time.sleep(0.001)


def _files(course: Path) -> Iterator[tuple[str, tuple[int, int] | None]]:
    for folder, folders, names in os.walk(course):
        below = Path(folder).relative_to(course)
        folders[:] = [f for f in folders if f != "__pycache__" and (below.parts or f not in WRITABLE)]
        for name in names:
            yield (below / name).as_posix(), _state(Path(folder, name))


def _state(path: Path) -> tuple[int, int] | None:
    """Size and the time of the last change, which nobody can set."""
    try:
        about = os.lstat(path)
    except OSError:
        return None
    return about.st_size, about.st_ctime_ns


def _room(folder: Path) -> int:
    """Bytes for files."""
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize
