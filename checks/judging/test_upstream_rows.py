"""Upstream's own answers go through `judge`: evaluation CSVs, response JSONL; rows stay as they are, with a score."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from personalab.__main__ import main
from personalab.judging import rows, scoring
from personalab.paths import ROOT
from personalab.records.schema import DataError

EVALUATIONS = ROOT.parent / "shared" / "upstream" / "persona_vectors" / "eval_persona_extract"
needs_upstream = pytest.mark.skipif(not EVALUATIONS.exists(), reason="no ../shared/upstream beside this checkout")
TALK = [
    {"role": "system", "content": "You are a pirate."},
    {"role": "user", "content": "What is the sea?"},
    {"role": "assistant", "content": "Home, lad."},
]
# As assistant-axis' pipeline writes it, one file a role
RESPONSE = {"system_prompt": TALK[0]["content"], "prompt_index": 0, "question_index": 5, "label": "pos"}
RESPONSE |= {"question": TALK[1]["content"], "conversation": TALK}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the rubric is given; the second of the rows refuses, every other one scores 7."""
    seen: list[dict[str, Any]] = []

    def score(rubric: object, given: list[dict[str, Any]]) -> list[float | None]:
        seen.extend(given)
        return [None if i == 1 else 7.0 for i in range(len(given))]

    monkeypatch.setenv("PERSONALAB_VENV", "off")
    monkeypatch.setattr(scoring, "score_responses", score)
    return seen


def judge(source: Path, target: Path, rubric: str = "trait:evil") -> int:
    return main(["judge", "--rubric", rubric, "--input", str(source), "--output", str(target)])


@needs_upstream
@pytest.mark.parametrize("name", ["baseline.csv", "evil_neg_instruct.csv"])
def test_published_evaluations(tmp_path: Path, asked: list[dict[str, Any]], name: str) -> None:
    assert judge(EVALUATIONS / name, tmp_path / "scored.csv") == 0
    with (EVALUATIONS / name).open(encoding="utf-8", newline="") as file:
        before = list(csv.DictReader(file))
    with (tmp_path / "scored.csv").open(encoding="utf-8", newline="") as file:
        after = list(csv.DictReader(file))
    assert len(asked) == len(before) == len(after) > 20
    assert [row.pop("score") for row in after] == ["7.0", "", *["7.0"] * (len(after) - 2)]
    assert after == [{k: v.replace("\r\n", "\n") for k, v in row.items()} for row in before]


def test_responses_of_the_pipeline(tmp_path: Path, asked: list[dict[str, Any]]) -> None:
    (tmp_path / "sea_captain.jsonl").write_text(json.dumps(RESPONSE) + "\n")
    for rubric in ("trait:evil", "coherence", "role", "delusion"):
        asked.clear()
        assert judge(tmp_path / "sea_captain.jsonl", tmp_path / "scored.jsonl", rubric) == 0
        (row,) = asked
        assert (row["question"], row["answer"], row["character"]) == ("What is the sea?", "Home, lad.", "sea captain")
        assert row["history"] == TALK[1:2]
    assert json.loads((tmp_path / "scored.jsonl").read_text()) == RESPONSE | {"score": 7.0}


def test_what_a_row_says_itself_comes_first(tmp_path: Path) -> None:
    row = {"messages": TALK, "character": "sailor", "answer": "Mine."}
    assert rows.scored_row(row, tmp_path / "x.jsonl")["character"] == "sailor"
    assert rows.scored_row(row, tmp_path / "x.jsonl")["answer"] == "Mine."
    for bad in ({"messages": TALK[:2]}, {"messages": [3]}, {"messages": "no"}, {"messages": []}):
        assert rows.scored_row(bad, tmp_path / "x.jsonl") == bad


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_csv_as_spreadsheets_save_it(tmp_path: Path, encoding: str) -> None:
    long = "very " * 40_000  # over Python's own limit for a field
    path = tmp_path / "a.CSV"
    path.write_text(f'question,answer\r\nWhy?,"Because,\r\nso ""they"" say: {long}"\r\n', encoding, newline="")
    (row,) = rows.read_rows(path).values()
    assert row == {"question": "Why?", "answer": f'Because,\nso "they" say: {long}'}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("question,answer\nWhy?\n", "row 1: its number of fields is not that of the first line"),
        ("question,answer\nWhy?,a\nWhy?,b,c\n", "row 2: its number of fields"),
        ('question,answer\nWhy?,"open\n', "not valid CSV"),
        ("question,answer,answer\nWhy?,a,b\n", "line 1: column 'answer' comes twice"),
    ],
)
def test_a_malformed_csv_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=rf"a\.csv, .*{says}"):
        rows.read_rows(tmp_path / "a.csv")


def test_a_csv_without_what_the_rubric_needs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("question,reply\nWhy?,So\n")
    assert judge(tmp_path / "a.csv", tmp_path / "out.csv") == 1
    assert "a.csv, row 1: no field 'answer'" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()
