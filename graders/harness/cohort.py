"""Grades submissions of one section: `python -m graders.harness.cohort`, which `personalab grade` starts.

Standard input: a line that says what the section is (`Section`), then a line a submission. Standard output: a line
each, JSON throughout. Models and set-up are loaded once; then this process forks, for each submission one that runs
its cells, confined, and for each exercise one that judges what was observed. No submission's code runs in the latter,
nor here.
"""

import contextlib
import gc
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pipe, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from graders.harness import confined
from graders.harness.cases import Case
from graders.harness.judges import judged, shown
from graders.harness.leftovers import Leftovers
from graders.harness.paper import set_aside
from graders.harness.submission import Attempt, Step, silence
from graders.harness.trial import Trial
from graders.harness.watch import Stub, Watch


@dataclass(frozen=True)
class Section:
    """What all submissions share.

    Attributes:
        setup: code of the release's cells before the first exercise.
        given: by grader, expressions of what it takes besides the work.
        tiny: a tiny model in the place of the notebook's.
        hidden: folders that submissions must not see.
        seconds: limits for one step and for a whole notebook.
        limits: processes and bytes of memory.
    """

    setup: list[str]
    given: dict[str, list[str]]
    tiny: bool
    hidden: list[str]
    seconds: tuple[float, float]
    limits: tuple[int, int]


class Cohort:
    """Everything loaded; the folder it runs in is the throw-away copy of the course."""

    def __init__(self, section: Section) -> None:
        self.section, self.place = section, Path.cwd()
        self.template = self.place.with_name("template")
        self.namespace = _set_up(section)
        graders, modules = _graders()
        values = {name: [eval(x, self.namespace) for x in given] for name, given in section.given.items()}
        self.cases: dict[str, Callable[[], Iterator[Case]]] = {
            name: partial(graders[name].cases, *given) for name, given in values.items()
        }
        self.modules = modules
        self.user = _free_user()
        self._clear_desk()
        self.separate = self._can_separate()
        gc.collect()
        gc.freeze()  # so that forks share what is there

    def _clear_desk(self) -> None:
        """Graders leave the copy of the course, and what imports find."""
        set_aside()
        shutil.rmtree(self.place / "graders")
        (self.place / "tests.py").unlink()
        self.place.rename(self.template)
        self.place.mkdir()
        importlib.invalidate_caches()
        main = types.ModuleType("__main__")
        main.__dict__.update(self.namespace)
        self.namespace = main.__dict__
        sys.modules["__main__"], sys.modules["tests"] = main, Stub("tests")
        self.namespace["tests"] = sys.modules["tests"]

    @property
    def protection(self) -> str:
        """What confines submissions here, for the report."""
        user = f"user {self.user}" if os.getuid() == 0 else "your own user"
        apart = "namespaces for processes, network and files" if self.separate else "no namespaces"
        return f"{user}, {apart}, {self.section.limits[0]} processes, {self.section.limits[1] >> 20} MiB each"

    def _can_separate(self) -> bool:
        """Whether the kernel gives namespaces here, tried in a child."""
        child = os.fork()
        if child:
            return os.waitpid(child, 0)[1] == 0
        try:
            self._separate()
            inner = os.fork()
            if inner == 0:
                try:
                    confined.processes_inside()
                    os._exit(0)
                finally:
                    os._exit(1)
            os._exit(int(os.waitpid(inner, 0)[1] != 0))
        finally:
            os._exit(1)

    def _separate(self) -> None:
        hidden = [Path.home(), *map(Path, self.section.hidden), *map(Path, confined.TEMPORARY)]
        keep = [self.template, *(Path(p) for p in (sys.prefix, sys.base_prefix, *sys.path) if p)]
        confined.separate(self.place, hidden, keep)

    def grade(self, steps: Sequence[Step]) -> dict[str, str]:
        """By grader, what is wrong; "" where all is well."""
        trial = Trial(steps, self.section.seconds, self.section.limits[1])
        while not trial.done():
            self._try(trial)
        found = {}
        for i, step in ((i, steps[i]) for i in trial.graders):
            text = trial.lost[i] if i in trial.lost else self._verdict(step.name, trial.seen[i])
            stopped = trial.stopped.get(step.of) if text else None
            found[step.name] = shown(f"{text}\nThe cell stopped at {stopped}" if stopped else text)
        return found

    def _verdict(self, grader: str, payload: bytes) -> str:
        return judged(self.cases[grader], payload, self.section.seconds[0], self.section.limits[1])

    def _try(self, trial: Trial) -> None:
        """One confined process runs what is left, watched over by one that is not."""
        reader, writer = Pipe(duplex=False)
        keeper = os.fork()
        if keeper == 0:
            try:
                reader.close()
                self._keep(trial, writer)
            finally:
                os._exit(1)
        writer.close()
        try:
            trial.listen(reader)
        finally:
            reader.close()
            os.kill(keeper, signal.SIGTERM)
            os.waitpid(keeper, 0)
            if not self.separate:
                shutil.rmtree(self.place, ignore_errors=True)

    def _keep(self, trial: Trial, writer: Connection) -> None:
        """Start the confined process; when it ends, or on SIGTERM, end all that it has started."""
        child = 0

        def stop(*_: object) -> None:
            if child:
                confined.end(child, None if self.separate else self.user)
            os._exit(0)

        signal.signal(signal.SIGTERM, stop)
        try:
            confined.die_with_parent(signal.SIGTERM)
            if self.separate:
                self._separate()
            else:
                self.place.mkdir(exist_ok=True)
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                attempt = self._confine(writer)
        except BaseException as error:
            writer.send_bytes(b"J" + json.dumps({"broken": f"{type(error).__name__}: {error}"}).encode())
            os._exit(1)
        if child == 0:
            skip = {*trial.seen, *trial.lost}
            attempt.run(trial.steps, skip, self._watch(attempt))
            os._exit(0)
        memory = self.section.limits[1]
        status, over = confined.wait(child, None if self.separate else self.user, memory)
        if status:
            with contextlib.suppress(OSError):
                said = {"over": True} if over else {"ended": os.waitstatus_to_exitcode(status)}
                writer.send_bytes(b"J" + json.dumps(said).encode())
        stop()

    def _confine(self, writer: Connection) -> Attempt:
        if self.separate:
            confined.processes_inside()
        if os.getuid() == 0:
            os.chown(self.place, self.user, self.user)
        confined.give_up_rights(self.user, confined.Limits(*self.section.limits))
        silence()
        os.closerange(3, writer.fileno())
        os.closerange(writer.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        vars(resource_tracker._resource_tracker)["_fd"] = None  # that of tqdm's locks is out of reach from here
        shutil.copytree(self.template, self.place, dirs_exist_ok=True)
        for name in ("workbook", ".home", ".tmp"):
            (self.place / name).mkdir(exist_ok=True)
        own = {"HOME": ".home", "TMPDIR": ".tmp", "PERSONALAB_CACHE": ".home/cache"}
        os.environ |= {name: f"{self.place}/{folder}" for name, folder in own.items()}
        tempfile.tempdir = None
        os.chdir(self.place / "workbook")
        alone = self.separate or os.getuid() == self.user
        leftovers = Leftovers(self.place, alone, self.separate, self.section.limits[1])
        return Attempt(self.namespace, self.cases, writer, self.section.seconds[0], leftovers)

    def _watch(self, attempt: Attempt) -> Watch:
        watch = Watch(self.modules, lambda what: attempt.tell(did=what))
        watch.install()
        return watch


def _set_up(section: Section) -> dict[str, Any]:
    """What the release's set-up cells leave."""
    torch.set_num_threads(1)
    namespace: dict[str, Any] = {"__name__": "__main__", "display": lambda *args, **kwargs: None}
    if section.tiny:
        from personalab.lm.tiny import load_tiny_model

        utils = importlib.import_module("utils")
        vars(utils)["load_model"] = lambda *args, **kwargs: load_tiny_model("qwen2", seed=7)
    for number, source in enumerate(section.setup, start=1):
        exec(compile(source, f"<set-up {number}>", "exec"), namespace)
    return namespace


def _graders() -> tuple[dict[str, Any], list[types.ModuleType]]:
    """Every grader by name, and the modules to watch, those of graders and of the course."""
    front = importlib.import_module("tests")
    found = {name: getattr(front, name) for name in front.__all__}
    own = [m for name, m in sys.modules.items() if name.partition(".")[0] in ("personalab", "graders", "utils") and m]
    return found, own


def _free_user() -> int:
    """A user id that nobody has, and under which nothing runs; of no use unless this is root."""
    running = {confined.owner(process) for process in confined.processes()}
    first = 60001 + os.getpid() % 4000
    return next(user for user in range(first, first + 1000) if user not in running)


def main() -> None:
    """Read, grade, write, until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def put(**what: Any) -> None:
        print(json.dumps(what), file=out, flush=True)

    started = time.monotonic()
    cohort = Cohort(Section(**json.loads(sys.stdin.readline())))
    put(ready=round(time.monotonic() - started, 1), protection=cohort.protection)
    for line in sys.stdin:
        started, computed = time.monotonic(), _computed()
        found = cohort.grade([Step(**step) for step in json.loads(line)])
        put(found=found, seconds=round(time.monotonic() - started, 2), computed=round(_computed() - computed, 2))


def _computed() -> float:
    """Seconds of processor time, of this process and of those that it has waited for."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    main()
