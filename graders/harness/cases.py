"""A grader is a list of cases: each lets the learner's work run, and judges what it gave without looking at the work.

    @grader
    def test_halve() -> Iterator[Case]:
        yield Case("halve(3)", lambda halve: halve(3), lambda found: check(found == 1.5, "halve(3): …"))

`observe` gets the learner's work and brings back data: tensors, numbers, texts, lists and dicts of them. `judge` gets
that and raises AssertionError with a message for the learner. So a process may stand between the two.
"""

from __future__ import annotations

import functools
import inspect
import linecache
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from graders.harness.expect import one_thread

_OURS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Case:
    """One situation.

    Attributes:
        what: the situation, as a message begins ("llama, two rows of unequal length").
        observe: runs the learner's work.
        judge: raises AssertionError where what was observed is wrong: expected, found, the likely mistake, the cure.
        hint: where to look if the learner's work raises an error, on a line of its own.
    """

    what: str
    observe: Callable[[Any], Any]
    judge: Callable[[Any], None]
    hint: str = ""


@dataclass(frozen=True)
class Raised:
    """An error of the learner's work, as data: for cases in which one is expected, or is no surprise.

    Attributes:
        kinds: names of the error's class and of those above it, the class itself first.
        where: the learner's line, as `line 3: x[0]`; "" if none is known.
    """

    kinds: tuple[str, ...]
    text: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.kinds[0]}: {self.text}" + (f" ({self.where})" if self.where else "")


def attempt(call: Callable[[], Any]) -> Any:
    """What the call gives, or the error it raises as `Raised`. A stub's NotImplementedError passes through."""
    try:
        return call()
    except NotImplementedError:
        raise
    except Exception as error:
        return raised(error)


def raised(error: Exception) -> Raised:
    """An error as data."""
    kinds = tuple(kind.__name__ for kind in type(error).__mro__[:-2])
    return Raised(kinds, str(error), _learners_line(error.__traceback__))


def grader(cases: Callable[..., Iterator[Case]]) -> Callable[..., None]:
    """A function that grades a learner's work by these cases, the first that fails first. Runs in one thread.

    It takes the work and then what `cases` takes (the notebook's model, say). An error of the learner's, an `assert`
    of their own included, is shown as theirs, with its line.

    Tiny models gain nothing from a second thread, and on a busy machine the two wait for each other (1.3 s become
    97.7 s). The number of threads belongs to each thread: those that run already keep theirs, and one started while
    grading has 1 for good. Graders start none that outlives them: the judge is scripted, so that the endpoint's
    worker is never asked.
    """

    @functools.wraps(cases)
    def graded(work: Any, *args: Any, **kwargs: Any) -> None:
        every = cast("Generator[Case, None, None]", cases(*args, **kwargs))
        with one_thread(), closing(every):  # what a generator opened it closes, whatever happens
            for case in every:
                case.judge(_observed(case, work))
        print(f"{cases.__name__}: all checks passed.")

    given = inspect.signature(cases)
    work = inspect.Parameter(cases.__name__.removeprefix("test_"), inspect.Parameter.POSITIONAL_OR_KEYWORD)
    graded.__signature__ = given.replace(  # type: ignore[attr-defined]
        parameters=[work, *given.parameters.values()], return_annotation=None
    )
    graded.cases = cases  # type: ignore[attr-defined]
    return graded


def _observed(case: Case, work: Any) -> Any:
    try:
        return case.observe(work)
    except NotImplementedError:
        raise AssertionError(
            "Nothing to grade yet: your function, or one it calls, still raises NotImplementedError."
        ) from None
    except Exception as error:
        hint = f"\n  {case.hint}" if case.hint else ""
        raise AssertionError(f"{case.what}: expected a result, found {raised(error)}{hint}") from error


def _learners_line(trace: TracebackType | None) -> str:
    """The innermost line that is neither ours nor an installed package's."""
    found = ""
    while trace is not None:
        file, number = trace.tb_frame.f_code.co_filename, trace.tb_lineno
        if not _is_ours(file) and (line := linecache.getline(file, number).strip()):
            found = f"line {number}: {line}"
        trace = trace.tb_next
    return found


def _is_ours(file: str) -> bool:
    path = Path(file)
    return "site-packages" in path.parts or _OURS in path.parents or _OURS.parent / "personalab" in path.parents
