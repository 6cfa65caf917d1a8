"""What is known of one submission, from what its process says and from when it stops saying anything."""

import json
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from graders.harness.attempt import OUT_OF_TIME, Step
from graders.harness.confined import FILE_BYTES

STARTING = 120  # seconds for a process to begin
WAITING = 10  # times the seconds of computing: on a busy machine, or for who sleeps
_MEDDLES = "meddles with what is sent to the grader"
_ENDS = "ends the process that runs it"


class _Over(Exception):
    """Nothing more is taken from this process: what the submission's code does."""


@dataclass
class Trial:
    """Observations by step, and what each lost step was lost to.

    Args:
        seconds: limits for one step, of computing, and for all, of waiting.
        stopped: by solution, the error at which its cell stopped.
    """

    steps: Sequence[Step]
    seconds: tuple[float, float]
    seen: dict[int, bytes] = field(default_factory=dict)
    lost: dict[int, str] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)
    end: float = 0.0

    def __post_init__(self) -> None:
        self.graders = [i for i, step in enumerate(self.steps) if step.kind == "grader"]
        self.end = time.monotonic() + self.seconds[1]

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
        at, limit = -1, float(STARTING)
        try:
            while True:
                said = self._next(reader, limit)
                if said.get("broken") and at < 0:
                    raise RuntimeError(f"The confined process cannot start: {said['broken']}")
                at = self._take(said, at)
                if at == len(self.steps):
                    return
                limit = WAITING * self.seconds[0]
        except _Over as over:
            if at < 0:
                raise RuntimeError(f"The confined process cannot start: it {over}") from None
            self.lose(at, str(over))

    def _next(self, reader: Connection, limit: float) -> dict[str, object]:
        left = min(limit, max(self.end - time.monotonic(), 0.1))
        try:
            if not reader.poll(left):
                raise _Over(f"takes longer than {left:.0f} s: an endless loop?")
            message = reader.recv_bytes(FILE_BYTES)
            said = json.loads(message[1:]) if message[:1] == b"J" else {"seen": message[1:]}
        except EOFError:
            raise _Over(_ENDS) from None
        except (OSError, ValueError):
            raise _Over(_MEDDLES) from None
        if not isinstance(said, dict):
            raise _Over(_MEDDLES)
        return said

    def _take(self, said: dict[str, object], at: int) -> int:
        """The step that the process is at after saying this; the number of steps where it has ended."""
        if "did" in said:
            raise _Over(f"{said['did']}, and nothing but what the exercise asks for counts")
        if isinstance(said.get("seen"), bytes) and at >= 0:
            self.seen.setdefault(at, said["seen"])  # type: ignore[arg-type]
        elif "stopped" in said and at >= 0:
            self.stopped[self.steps[at].name] = str(said["stopped"])
        elif "ended" in said and at >= 0:
            killed = said["ended"] in (-signal.SIGXCPU, -signal.SIGKILL, OUT_OF_TIME)
            takes = f"takes more than {self.seconds[0]:.0f} s of computing, or all memory"
            self.lose(at, takes if killed else f"{_ENDS} (exit code {said['ended']!s:.20})")
        elif "end" in said or "at" in said:
            if at in self.graders and at not in self.seen:
                self.lost.setdefault(at, f"{self.steps[at].name}: your code {_ENDS}.")
            new = len(self.steps) if "end" in said else said["at"]
            if type(new) is not int or not at < new <= len(self.steps):
                raise _Over(_MEDDLES)
            return new
        return at
