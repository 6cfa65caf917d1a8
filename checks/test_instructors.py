"""The instructor's guide says what cards and banks say."""

from __future__ import annotations

from checks import instructors


def test_the_generated_parts_are_those_of_cards_and_banks() -> None:
    assert instructors.page() == instructors.PAGE.read_text("utf-8"), "run python -m checks.instructors"


def test_every_exercise_has_common_mistakes() -> None:
    lines = [line for line in instructors.PAGE.read_text("utf-8").splitlines() if line.startswith("* `test_")]
    assert len(lines) >= 44 and not [line for line in lines if line.count(";") < 2]
