"""Grading at a distance: one process observes a learner's work, another judges what was observed."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, cast

from graders.harness import cases
from graders.harness.cases import Case
from personalab.setup import machine


@dataclass(frozen=True)
class Said:
    """In place of what a case observes: what the learner is told, since their work raised an error."""

    text: str


def observations(of: Iterator[Case], work: Any) -> list[Any]:
    """What each case observes, as data; after an error of the work its `Said` is the last.

    No case that the work may find in this process has a judge any more.
    """
    seen: list[Any] = []
    with machine.one_thread(), closing(cast("Generator[Case, None, None]", of)) as every:
        for case in every:
            object.__setattr__(case, "judge", None)
            try:
                seen.append(cases.observed(case, work))
            except AssertionError as error:
                return [*seen, Said(str(error))]
    return seen


def verdict(of: Iterator[Case], seen: Sequence[Any]) -> str:
    """What judges say of these observations, the first that refuses; "" where all is well.

    The cases are a list of their own: none of them has observed anything.
    """
    with machine.one_thread(), closing(cast("Generator[Case, None, None]", of)) as every:
        for i, case in enumerate(every):
            if i == len(seen):
                return f"{case.what}: your work ended the process here."
            try:
                if isinstance(seen[i], Said):
                    return f"{seen[i].text}".strip() or f"{case.what}: refused."
                cases.judge(case, seen[i])
            except AssertionError as error:
                return str(error) or f"{case.what}: refused."
    return ""
