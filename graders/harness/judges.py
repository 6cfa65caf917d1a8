"""Verdicts: each by a process made for it, in which no submission's code has run."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing import Pipe

from graders.harness import confined
from graders.harness.cases import Case
from graders.harness.distance import verdict
from graders.harness.paper import loads

JUDGING = 300  # seconds for the verdict on one exercise, by the clock
_LONGEST = 4000  # characters of a comment


def judged(cases: Callable[[], Iterator[Case]], payload: bytes, seconds: float, memory: int) -> str:
    """What a grader says of these observations; "" where all is well.

    Args:
        payload: bytes that a submission's process has sent.
        seconds: of computing, beyond which there is no verdict; `memory` likewise, in bytes.
    """
    reader, writer = Pipe(duplex=False)
    judge = os.fork()
    if judge == 0:
        try:
            reader.close()
            confined.limit_judge(seconds, memory)
            writer.send_bytes(b"=" + shown(_judged(cases(), payload)).encode())
        finally:
            os._exit(0)
    writer.close()
    found = ""
    with contextlib.suppress(EOFError):
        found = reader.recv_bytes().decode() if reader.poll(JUDGING) else ""
    os.kill(judge, signal.SIGKILL)
    os.waitpid(judge, 0)
    reader.close()
    if not found:
        return f"no verdict within {seconds:.0f} s and {memory >> 20} MiB. Is what your work gave too large?"
    return found[1:]


def _judged(cases: Iterator[Case], payload: bytes) -> str:
    try:
        seen = loads(payload)
        if not isinstance(seen, list):
            return "what came from your process is no list of observations."
        with contextlib.redirect_stdout(None):
            return verdict(cases, seen)
    except ValueError as error:
        return str(error) or "refused."
    except Exception as error:
        return f"the grader can make nothing of what your work gave ({type(error).__name__}: {error!s:.200})."


def shown(text: str) -> str:
    """A comment as anybody can read it, in a terminal too: without control characters, and not endless."""
    clean = "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text[:_LONGEST])
    return clean + ("…" if len(text) > _LONGEST else "")
