"""What is known of one submission, from what its process says and from when it stops saying anything."""

import json
import os
import signal
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from graders.harness.confined import FILE_BYTES
from graders.harness.leftovers import KEEPS
from graders.harness.submission import OUT_OF_TIME, Step

STARTING = 120  # seconds for a process to begin
WAITING = 5  # times the seconds of computing: on a busy machine, or for who sleeps
WORDS = 1 << 15  # bytes of a message that is no observation
_MEDDLES = "meddles with what is sent to the grader"
_ENDS = "ends the process that runs it"


class _Over(Exception):
    """Nothing more is taken from this process: what the submission's code does."""


class Mailbox:
    """Messages of a process that may lie: none is waited for beyond its time, none is larger than it may be."""

    def __init__(self, reader: Connection) -> None:
        self._reader, self._got = reader, bytearray()
        os.set_blocking(reader.fileno(), False)

    def next(self, until: float) -> bytes:
        """The next message, as `Connection.send_bytes` wrote it.

        Args:
            until: when to give up, by `time.monotonic`.

        Raises:
            TimeoutError, EOFError: there is none, or half of one.
            ValueError: it says that it is too large.
        """
        while (end := self._end()) is None or len(self._got) < end:
            if not self._reader.poll(max(until - time.monotonic(), 0)) or time.monotonic() > until:
                raise TimeoutError
            more = os.read(self._reader.fileno(), 1 << 20)
            if not more:
                raise EOFError
            self._got += more
        message = bytes(self._got[4:end])
        del self._got[:end]
        return message

    def _end(self) -> int | None:
        """Where the first message ends, if its length is there."""
        if len(self._got) < 4:
            return None
        (size,) = struct.unpack_from("!i", self._got)
        if not 0 <= size <= FILE_BYTES:
            raise ValueError("a message of more bytes than may be sent")
        return 4 + int(size)


@dataclass
class Trial:
    """Observations by step, and what each lost step was lost to.

    Args:
        seconds: limits for one step, of computing, and for all, of waiting.
        memory: bytes that a submission's processes may take together.
        stopped: by solution, the error at which its cell stopped.
    """

    steps: Sequence[Step]
    seconds: tuple[float, float]
    memory: int = 4 << 30
    seen: dict[int, bytes] = field(default_factory=dict)
    lost: dict[int, str] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)
    end: float = 0.0

    def __post_init__(self) -> None:
        self.graders = [i for i, step in enumerate(self.steps) if step.kind == "grader"]
        self.end = time.monotonic() + self.seconds[1]

    @property
    def too_much(self) -> str:
        """What a step does that is over a limit: in the same words for all, since which it meets first is chance."""
        computing, waiting = self.seconds[0], WAITING * self.seconds[0]
        return (
            f"takes longer than {computing:.0f} s of computing or {waiting:.0f} s by the clock, or more than "
            f"{self.memory >> 20} MiB of memory in all its processes, half of it beyond the cell: an endless loop?"
        )

    def done(self) -> bool:
        """Whether every grader has its observations, or will never have any."""
        if time.monotonic() > self.end:
            for i in self.graders:
                if i not in self.seen:
                    self.lost.setdefault(i, f"the notebook takes longer than {self.seconds[1]:.0f} s.")
        return {*self.seen, *self.lost}.issuperset(self.graders)

    def lose(self, step: int, does: str) -> None:
        """The step, and the graders of the exercise if it is a solution."""
        why = f"{self.steps[step].name}: your code {does}{'' if does.endswith('?') else '.'}"
        solution = self.steps[step].kind == "solution"
        for i in [step, *(i for i in self.graders if solution and self.steps[i].of == self.steps[step].name)]:
            self.seen.pop(i, None)
            self.lost.setdefault(i, why)

    def listen(self, reader: Connection) -> None:
        """Take what one process says until it comes to its end, or must.

        Raises:
            RuntimeError: the process could not begin; nothing that a submission does can cause that.
        """
        box, at, until = Mailbox(reader), -1, time.monotonic() + STARTING
        order = iter([i for i in range(len(self.steps)) if i not in self.seen and i not in self.lost])
        try:
            while at < len(self.steps):
                said = self._next(box, until)
                if said.get("broken") and at < 0:
                    raise RuntimeError(f"The confined process cannot start: {said['broken']}")
                new = self._take(said, at, order)
                if new != at:
                    at, until = new, time.monotonic() + WAITING * self.seconds[0]
        except _Over as over:
            if at < 0:
                raise RuntimeError(f"The confined process cannot start: it {over}") from None
            self.lose(at, str(over))

    def _next(self, box: Mailbox, until: float) -> dict[str, object]:
        started = time.monotonic()
        try:
            message = box.next(min(until, max(self.end, started + 0.1)))
            if message[:1] == b"J" and len(message) > WORDS:
                raise ValueError(f"a message of {len(message)} bytes")
            said = json.loads(message[1:]) if message[:1] == b"J" else {"seen": message[1:]}
        except TimeoutError:
            raise _Over(self.too_much) from None
        except EOFError:
            raise _Over(_ENDS) from None
        except (OSError, ValueError, RecursionError):
            raise _Over(_MEDDLES) from None
        if not isinstance(said, dict):
            raise _Over(_MEDDLES)
        return said

    def _take(self, said: dict[str, object], at: int, order: Iterator[int]) -> int:
        """The step that the process is at after saying this, the next of `order`; the number of steps at its end."""
        if "over" in said or said.get("did") == KEEPS:
            raise _Over(self.too_much)
        if "did" in said:
            raise _Over(f"{said['did']}, and nothing but what the exercise asks for counts")
        if isinstance(said.get("seen"), bytes) and at >= 0:
            self.seen.setdefault(at, said["seen"])  # type: ignore[arg-type]
        elif "stopped" in said and at >= 0:
            self.stopped[self.steps[at].name] = str(said["stopped"])
        elif "ended" in said and at >= 0:
            killed = said["ended"] in (-signal.SIGXCPU, -signal.SIGKILL, OUT_OF_TIME)
            self.lose(at, self.too_much if killed else f"{_ENDS} (exit code {said['ended']!s:.20})")
        elif "end" in said or "at" in said:
            if at in self.graders and at not in self.seen:
                self.lost.setdefault(at, f"{self.steps[at].name}: your code {_ENDS}.")
            new = len(self.steps) if "end" in said else said["at"]
            if type(new) is not int or new != next(order, len(self.steps)):
                raise _Over(_MEDDLES)
            return new
        return at
