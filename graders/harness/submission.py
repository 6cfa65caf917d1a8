"""The process of a submission: it runs the cells, and all that it gives back are observations."""

import ast
import json
import linecache
import math
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from graders.harness.cases import Case, raised
from graders.harness.distance import Said, observations
from graders.harness.leftovers import Leftovers
from graders.harness.paper import dumps
from graders.harness.watch import CELL, Watch

OUT_OF_TIME = 152  # exit code: the shell's for SIGXCPU
PAYLOAD = 1 << 26  # bytes of what the work gives for one exercise; those of the course are below a hundredth of it
_MAGIC = re.compile(r"^([ \t]*)[%!].*$", re.M)
_KEPT = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Step:
    """What is done for one cell.

    Attributes:
        kind: "solution", whose cell is executed; "other", of which definitions are; or "grader".
        name: the cell's.
        source: its code, unless it is a grader.
        work: of a grader, the expression that it grades; `of` is the solution's name.
    """

    kind: str
    name: str
    source: str = ""
    work: str = ""
    of: str = ""


class Attempt:
    """One run through the steps.

    Args:
        namespace: where cells are executed, as the set-up has left it.
        cases: by grader, a function that gives its cases.
        to: where everything noticed goes: {"at": step}, {"stopped": …}, {"did": …}, {"end": …}, or observations.
        seconds: of computing, for a step.
        leftovers: put away after each step.
    """

    def __init__(
        self,
        namespace: dict[str, Any],
        cases: dict[str, Callable[[], Iterator[Case]]],
        to: Connection,
        seconds: float,
        leftovers: Leftovers,
    ) -> None:
        self.namespace, self.cases, self._to, self._leftovers = namespace, cases, to, leftovers
        self._own, self._seconds = False, math.ceil(seconds)
        self._send_bytes, self._exit, self._pid = to.send_bytes, os._exit, os.getpid()
        os.register_at_fork(after_in_child=self._in_child)

    def run(self, steps: Sequence[Step], skip: Collection[int], watch: Watch) -> None:
        """All steps but those to skip."""
        for i, step in enumerate(steps):
            if i in skip:
                continue
            self.tell(at=i)
            if step.kind == "grader":
                self._observe(step, watch)
            else:
                self._execute(step)
            if os.getpid() != self._pid:  # a copy of this process that the cell has made
                self._exit(1)
            if did := self._leftovers.clear() or watch.replaced(self.namespace):
                self.tell(did=did)
                self._exit(1)
        self.tell(end=True)

    def tell(self, **what: Any) -> None:
        """Send a message."""
        self._send_bytes(b"J" + json.dumps(what).encode())

    def _in_child(self) -> None:
        """Copies of this process have nothing to say, unless they are ours."""
        if not self._own:
            with suppress(OSError):
                self._to.close()

    def _execute(self, step: Step) -> None:
        file = f"{CELL}{step.name}>"
        signal.signal(signal.SIGXCPU, lambda *_: self._exit(OUT_OF_TIME))  # the first of a namespace ignores defaults
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + self._seconds, resource.RLIM_INFINITY))
        try:
            for code in _compiled(step.source, file, whole=step.kind == "solution"):
                with suppress(*([] if step.kind == "solution" else [Exception])):
                    exec(code, self.namespace)
        except BaseException as error:  # SystemExit too
            self.tell(stopped=str(raised(error))[:1000])

    def _observe(self, step: Step, watch: Watch) -> None:
        """In a process of its own, so that what a function does to the models is gone with it."""
        self._own = True
        child = os.fork()
        if child:
            self._own = False
            status = os.waitpid(child, 0)[1]
            if status:
                self.tell(ended=os.waitstatus_to_exitcode(status))
            return
        try:
            self._own, own = False, os.getpid()
            signal.signal(signal.SIGXCPU, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CPU, (self._seconds, self._seconds + 1))
            payload = self._seen(step)
            if os.getpid() == own:
                if did := watch.replaced(self.namespace):
                    self.tell(did=did)
                self._send_bytes(b"O" + payload)
        finally:
            self._exit(0)

    def _seen(self, step: Step) -> bytes:
        try:
            work = eval(step.work, self.namespace)
        except Exception as error:
            return dumps([Said(f"There is no {step.work} to grade ({raised(error)}).")])
        try:
            payload = dumps(observations(self.cases[step.name](), work))
            large = dumps([Said(f"what your work gave takes {len(payload)} bytes.")])
            return payload if len(payload) <= PAYLOAD else large
        except ValueError as error:
            return dumps([Said(f"{error}")])
        except BaseException as error:  # SystemExit, KeyboardInterrupt: never the grader's
            return dumps([Said(f"expected a result, found {type(error).__name__}: {error!s:.300}")])


def _compiled(source: str, file: str, whole: bool) -> list[Any]:
    """The cell's code; of a cell that is no exercise each import, function, class and constant by itself."""
    try:
        tree = ast.parse(source, file)
    except SyntaxError:  # IPython's own lines
        source = _MAGIC.sub(r"\1pass", source)
        tree = ast.parse(source, file)
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    if whole:
        return [compile(tree, file, "exec")]
    kept = [node for node in tree.body if isinstance(node, _KEPT) or _is_constant(node)]
    return [compile(ast.Module([node], []), file, "exec") for node in kept]


def _is_constant(node: ast.stmt) -> bool:
    calls = (ast.Call, ast.Await, ast.Yield, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    return isinstance(node, ast.Assign | ast.AnnAssign) and not any(isinstance(n, calls) for n in ast.walk(node))


def silence() -> None:
    """What a submission prints goes nowhere; nor can it read what is typed."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: SIM115 - for good
