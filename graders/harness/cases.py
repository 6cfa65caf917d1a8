"""A grader is a list of cases: each lets the learner's work run, and judges what it gave without looking at the work.

    @grader
    def test_halve() -> Iterator[Case]:
        yield Case("halve(3)", lambda halve: halve(3), lambda found: check(found == 1.5, "expected …"))

`observe` gets the learner's work and brings back data: tensors, numbers, texts, lists and dicts of them; what is none
becomes `Foreign`. `judge` gets that and raises AssertionError with a message for the learner. So a process may stand
between the two.
"""

import copy
import dataclasses
import functools
import inspect
import linecache
import sysconfig
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import NoneType, TracebackType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from graders.harness.expect import check
from personalab.records import progress
from personalab.setup import machine

_GRADERS = Path(__file__).resolve().parents[1]
_OURS = (_GRADERS, _GRADERS.parent / "personalab", Path(sysconfig.get_path("stdlib")))


@dataclass(frozen=True)
class Case:
    """One situation.

    Attributes:
        what: the situation, as a message begins ("llama, two rows of unequal length").
        observe: runs the learner's work.
        judge: raises AssertionError where what was observed is wrong: expected, found, the likely mistake, the cure.
            The grader puts `what` before a message that does not begin with it.
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
        return self.kinds[0] + (f": {self.text}" if self.text else "") + (f" ({self.where})" if self.where else "")


@dataclass(frozen=True)
class Foreign:
    """What the learner's work gave and is no data: the name of its type, and how it shows itself."""

    kind: str
    text: str

    def __repr__(self) -> str:
        return self.text


_DATA = (NoneType, bool, int, float, complex, str, bytes, Tensor, torch.dtype, torch.device, np.ndarray, np.generic)


def plain(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """The same as data: containers and records of ours with plain contents, and `Foreign` for what is no data.

    A list or dict that stands in two places is one and the same in both afterwards, too: `seen` has it by its id.
    """
    seen = {} if seen is None else seen
    if isinstance(value, (*_DATA, Raised, Foreign)):
        return value
    if id(value) in seen:
        return seen[id(value)]
    ours = type(value).__module__.startswith("graders.")
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and ours:
        return dataclasses.replace(value, **{k: plain(v, seen) for k, v in vars(value).items()})
    if isinstance(value, tuple) and hasattr(value, "_fields") and ours:
        return type(value)(*(plain(v, seen) for v in value))
    if isinstance(value, dict):
        copied = seen[id(value)] = {}
        copied.update((plain(k, seen), plain(v, seen)) for k, v in value.items())
        return copied
    if isinstance(value, list):
        items = seen[id(value)] = []
        items.extend(plain(v, seen) for v in value)
        return items
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return kind(plain(v, seen) for v in value)
    return Foreign(type(value).__name__, f"{value!r:.500}")


def kind_of(value: Any) -> str:
    """The name of a value's type, as the learner knows it."""
    return value.kind if isinstance(value, Foreign) else type(value).__name__


def check_kind(found: Any, kind: type | tuple[type, ...], expected: str) -> None:
    """`expected` says of which kind it must be."""
    check(isinstance(found, kind), f"{expected}, found {kind_of(found)}.")


def check_keys(rows: list[Any], keys: Sequence[str]) -> None:
    """Dicts that have these keys."""
    for row in rows:
        check_kind(row, dict, "expected a list of dicts")
        missing = [key for key in keys if key not in row]
        check(not missing, f"expected dicts with the keys {', '.join(keys)}; {missing} missing in {row!r:.300}.")


def check_form(found: Any, kind: type, n: int, what: str) -> None:
    """`what` says what was expected: a tuple or a list of `n` entries."""
    size = len(found) if isinstance(found, list | tuple) else None
    of = "" if size is None else f" of {size}"
    check(isinstance(found, kind) and size == n, f"{what}, found {kind_of(found)}{of}.")


def called_with(*inputs: Any, **options: Any) -> Callable[[Any], tuple[Any, tuple[Any, ...]]]:
    """To observe: what the work gives for copies of the inputs, and what has become of these."""

    def observe(work: Any) -> tuple[Any, tuple[Any, ...]]:
        given = copy.deepcopy(inputs)
        return work(*given, **options), given

    return observe


def attempt(call: Callable[[], Any]) -> Any:
    """What the call gives, or the error it raises as `Raised`. A stub's NotImplementedError passes through."""
    try:
        return call()
    except NotImplementedError:
        raise
    except Exception as error:
        return raised(error)


def attempted(observe: Callable[[Any], Any], work: Any) -> Any:
    """What is observed, or the error as `Raised`."""
    return attempt(lambda: observe(work))


def raised(error: BaseException) -> Raised:
    """An error as data."""
    kinds = tuple(kind.__name__ for kind in type(error).__mro__[:-2])
    return Raised(kinds, str(error), _learners_line(error.__traceback__))


def fails(what: str, run: Callable[[Any], Any], why: str) -> Case:
    """The work must raise an error here; any will do."""

    def judge(found: Any) -> None:
        nan = isinstance(found, Tensor) and bool(found.isnan().any())
        shown = "a tensor full of NaN" if nan else repr(found)[:200]
        check(isinstance(found, Raised), f"expected an error, found {shown}. {why}")

    return Case(what, partial(attempted, run), judge)


def check_value_error(found: Any, call: str, why: str) -> None:
    """What was attempted raised ValueError: a value instead of an error is an invented one."""
    check(isinstance(found, Raised), f"{call} returned {found!r}; it must raise ValueError: {why}")
    check("ValueError" in found.kinds, f"{call} raised {found}; raise ValueError: {why}")


def refused(call: str, run: Callable[[Any], Any], why: str) -> Case:
    """The work must raise ValueError here."""
    return Case(call, partial(attempted, run), lambda found: check_value_error(found, call, why))


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
        # one_thread by its module: the benchmark puts another in its place
        with machine.one_thread(), closing(every):  # what a generator opened it closes, whatever happens
            try:
                for case in every:
                    judge(case, observed(case, work))
            except AssertionError as error:
                progress.note(cases.__name__, str(error))
                raise
        progress.note(cases.__name__, "")
        print(f"{cases.__name__}: all checks passed.")

    given = inspect.signature(cases)
    work = inspect.Parameter(cases.__name__.removeprefix("test_"), inspect.Parameter.POSITIONAL_OR_KEYWORD)
    graded.__signature__ = given.replace(  # type: ignore[attr-defined]
        parameters=[work, *given.parameters.values()], return_annotation=None
    )
    graded.cases = cases  # type: ignore[attr-defined]
    return graded


def observed(case: Case, work: Any) -> Any:
    """What a case observes, as data; an error of the work becomes AssertionError, with a message for the learner."""
    try:
        return plain(case.observe(work))
    except NotImplementedError:
        raise AssertionError(
            f"{progress.STUB}: your function, or one it calls, still raises NotImplementedError."
        ) from None
    except Exception as error:
        hint = f"\n  {case.hint}" if case.hint else ""
        raise AssertionError(f"{case.what}: expected a result, found {raised(error)}{hint}") from error


def judge(case: Case, seen: Any) -> None:
    """The situation comes first in what a judge says; what no judge foresaw is said too."""
    try:
        case.judge(seen)
    except AssertionError as error:
        text = str(error)
        raise AssertionError(text if text.startswith(case.what) else f"{case.what}: {text}") from None
    except Exception as error:
        raise AssertionError(
            f"{case.what}: found {seen!r:.300}, of which the grader can make nothing ({type(error).__name__}: "
            f"{error}). Is it of the kind that the exercise asks for?"
        ) from error


def _learners_line(trace: TracebackType | None) -> str:
    """The innermost line that is neither ours nor an installed package's nor Python's own."""
    found = ""
    while trace is not None:
        file, number = trace.tb_frame.f_code.co_filename, trace.tb_lineno
        if not _is_ours(file) and (line := linecache.getline(file, number).strip()):
            found = f"line {number}: {line}"
        trace = trace.tb_next
    return found


def _is_ours(file: str) -> bool:
    path = Path(file)
    installed = {"site-packages", "dist-packages"} & {*path.parts}
    return bool(installed) or any(folder in path.parents for folder in _OURS)
