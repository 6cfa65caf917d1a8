"""A section's own reader of a judge's reply takes the usual ones as the course's reader does."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from personalab.course.myst import code_cells, read_source
from personalab.judging.replies import read_score
from personalab.paths import ROOT

SECTION_3 = ROOT / "instructions" / "section_3_contrastive_prompting.md"
(SOURCE,) = (c.source for c in code_cells(read_source(SECTION_3)) if "def score_trait_response(" in c.source)


def score_of(reply: str) -> int | None:
    """By the section's own function, of an answer about which the judge replies so."""
    judge = SimpleNamespace(generate_response=lambda *_, **__: reply, judge_model=lambda: "judge")
    notebook: dict[str, Any] = {"re": re, "utils": judge}
    exec(SOURCE, notebook)
    return notebook["score_trait_response"]("How?", "Well.", "{question} {answer}")


@pytest.mark.parametrize(
    "reply",
    [
        "85",
        "**85**",
        "85/100",
        "85 out of 100",
        "Score (0-100): 85",
        "On a scale of 0 to 100, I would give 85",
        "<think>3 reasons</think>\n85",
        "3 reasons come to mind.</think>\n85",
        "<think>Is it a REFUSAL, or 20?</think>\n85",
        "72.5",
        "0.85",
        "REFUSAL",
        "REFUSAL: the model declines 2 times",
    ],
)
def test_section_3_reads_a_reply_as_the_course_does(reply: str) -> None:
    assert score_of(reply) == read_score(reply)


@pytest.mark.parametrize("reply", ["", "high", "250", "-5", "<think>85"])
def test_section_3_gives_no_score_where_none_can_be_read(reply: str) -> None:
    assert score_of(reply) is None
