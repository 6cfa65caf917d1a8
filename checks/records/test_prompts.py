"""Our own prompts and items: a file that is not what it should be is named, with its line and its field."""

from __future__ import annotations

import json

import pytest

from personalab.records.items import Item
from personalab.records.prompts import Jailbreak, OppositeAnswers, Scenarios, load_jailbreaks
from personalab.records.schema import DataError, read_as, read_jsonl

USER = {"role": "user", "content": "Hello."}
JAILBREAK = {"id": "a", "kind": "drift", "character": "a pirate", "messages": [USER]}
ITEM = {"kind": "facts", "stem": "One is", "options": ["one", "two"], "answer": 0}


@pytest.mark.parametrize(
    ("kind", "content", "says"),
    [
        (Jailbreak, JAILBREAK | {"messages": []}, "field 'messages' must end with a user turn"),
        (Jailbreak, JAILBREAK | {"messages": [USER, {"role": "assistant"}]}, "field 'messages[1].content' is missing"),
        (Jailbreak, JAILBREAK | {"character": 3}, "field 'character' must be text, not int"),
        (Item, ITEM | {"answer": 2}, "field 'answer' must index one of the 2 options"),
        (Item, ITEM | {"answer": 0.5}, "field 'answer' must be a whole number, not float"),
        (OppositeAnswers, {"question": "a", "positive": " ", "negative": "c"}, "field 'positive' must not be blank"),
        (Scenarios, {"persona_drift": {}}, "field 'case_studies' is missing"),
        (dict[str, str], ["a"], "expected an object, found list"),
    ],
)
def test_the_file_the_field_and_what_is_wrong(tmp_path, kind, content, says):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as error:
        read_as(path, kind)
    assert str(error.value) == f"{path}: {says}."
    path.write_text("\n" + json.dumps(content) + "\n")
    with pytest.raises(DataError) as error:
        read_jsonl(path, kind)
    assert str(error.value) == f"{path}, line 2: {says}."


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_that_editors_put_in_front_are_passed_over(tmp_path, encoding):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(ITEM), encoding)
    assert read_as(path, Item) == Item("facts", "One is", ("one", "two"), 0)
    path.write_text(f"{json.dumps(ITEM)}\r\n{json.dumps(ITEM)}\r\n", encoding, newline="")
    assert list(read_jsonl(path, Item)) == ["line 1", "line 2"]


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path):
    with pytest.raises(DataError, match=r"scenarios\.json does not exist"):
        read_as(tmp_path / "scenarios.json", Scenarios)
    (tmp_path / "jailbreaks").mkdir()
    (tmp_path / "jailbreaks" / "calibration.jsonl").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"calibration\.jsonl is not UTF-8 text"):
        load_jailbreaks("calibration", tmp_path)
