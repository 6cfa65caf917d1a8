"""How far a learner is: kept across sessions, by what graders said in the workbook."""

from __future__ import annotations

from pathlib import Path

import pytest

import tests
from personalab.course import progress
from personalab.paths import ROOT
from personalab.records import progress as kept


@pytest.fixture
def workbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workbook in which this process works, in a course with the real exercises."""
    folder = tmp_path / "workbook"
    folder.mkdir()
    (tmp_path / "exercises").symlink_to(ROOT / "exercises")
    monkeypatch.setattr(kept, "WORKBOOK", folder)
    monkeypatch.chdir(folder)
    return folder


def right(response):
    import re

    found = re.search(r"(?<![\d-])[0-3](?!\d)", response)
    if found is None:
        raise ValueError(response)
    return int(found.group())


def call(grader, work) -> None:
    with pytest.raises(AssertionError):
        grader(work)


def test_what_graders_say_in_the_workbook_is_kept(workbook: Path) -> None:
    call(tests.test_parse_score, lambda reply: 7)
    found = progress.progress(workbook.parent)
    card = found.cards["1"][0]
    assert found.sign(card) == progress.TRIED and found.points("1")[0] == 0
    assert "expected the int" in progress.explain("1.1", workbook.parent)
    kept.note("test_parse_score", "")
    kept.note("test_judge_role_response", "")
    found = progress.progress(workbook.parent)
    assert found.sign(card) == progress.PASSED and found.points("1")[0] == 2
    assert found.next() == found.cards["1"][1] and "2 of" in str(found) and "2 of" in found._repr_html_()


def test_a_stub_counts_as_not_tried(workbook: Path) -> None:
    def stub(reply):
        raise NotImplementedError

    call(tests.test_parse_score, stub)
    found = progress.progress(workbook.parent)
    assert found.sign(found.cards["1"][0]) == progress.OPEN


def test_nothing_is_kept_elsewhere(workbook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept.note("test_parse_score", "")
    assert kept.read(workbook) == {}
    (workbook / kept.FILE).write_text("not JSON")
    assert kept.read(workbook) == {}


def test_hints_are_the_cards(workbook: Path) -> None:
    text = progress.hint("parse_score", workbook.parent)
    assert text.startswith("1.1 ") and text.count("\n\nHint") == 2
    assert progress.hint("", workbook.parent) == text
    with pytest.raises(ValueError, match=r"No exercise '9\.9'"):
        progress.hint("9.9", workbook.parent)


def test_every_card_has_minutes_and_graders() -> None:
    found = progress.progress()
    every = [card for own in found.cards.values() for card in own]
    assert all(card.graders and card.minutes for card in every)
    assert {name for card in every for name in card.graders} <= set(tests.__all__)


def test_an_exercise_is_found_by_what_a_learner_calls_it(workbook: Path) -> None:
    found = progress.progress(workbook.parent)
    for name in ("2.9", "ActivationCapper", "activation_capper", "test_activation_capper", "the capper", "The Capper"):
        assert progress.chosen(name, found).number == "2.9", name
    assert progress.chosen("autorater", found).number == "2.4"
    with pytest.raises(ValueError, match=r"Do you mean .*1\.7 \(cosine similarity, plain and centred\)"):
        progress.chosen("cosine", found)
    with pytest.raises(ValueError, match=r"No exercise '\?!': name it by its number, as [^?]* shows it\.$"):
        progress.chosen("?!", found)  # no words to look for
    with pytest.raises(ValueError, match=r"No exercise '1\.99'"):
        progress.chosen("1.99", found)
    kept.note("test_parse_score", "no")
    text = progress.explain("1.1", workbook.parent)
    assert "T" not in text.partition("(")[2].partition(")")[0], "a local time, not a time stamp"


def test_the_panel_says_in_words_what_its_signs_mean(workbook: Path) -> None:
    kept.note("test_parse_score", "no")
    shown = progress.progress(workbook.parent)._repr_html_()
    assert 'aria-label="1.1 a judge prompt and its parser: does not pass yet">◐' in shown
    assert "○ not tried" in shown and "personalab hint 1.1" in shown
