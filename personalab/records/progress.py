"""What graders have said in a learner's workbook, kept across sessions in `workbook/.progress.json`."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from personalab.files import write
from personalab.paths import ROOT

WORKBOOK = ROOT / "workbook"
FILE = ".progress.json"
STUB = "Nothing to grade yet"  # what a grader says first of an exercise that nobody has worked on


@dataclass(frozen=True)
class Last:
    """What a grader said last.

    Attributes:
        message: "" where all was well.
        when: in UTC, as 2026-01-31T12:00:00+00:00.
    """

    message: str
    when: str

    @property
    def passed(self) -> bool:
        """Whether all was well."""
        return not self.message


def note(grader: str, message: str) -> None:
    """Keep what a grader has said, if this process works in the workbook; elsewhere nothing is kept.

    Args:
        message: "" where all was well.
    """
    if Path.cwd() != WORKBOOK:
        return
    found = read(WORKBOOK) | {grader: Last(message, datetime.now(UTC).isoformat(timespec="seconds"))}
    with suppress(OSError):  # a full disk is no reason why an exercise should fail
        write(WORKBOOK / FILE, json.dumps({name: asdict(last) for name, last in found.items()}, indent=1) + "\n")


def read(workbook: Path = WORKBOOK) -> dict[str, Last]:
    """What each grader said last; {} where nothing is kept, or nobody can read it."""
    try:
        return {name: Last(**last) for name, last in json.loads((workbook / FILE).read_text("utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
