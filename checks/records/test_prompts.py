"""Our own prompts and items: a file that is not what it should be is named, with its line and its field."""

from __future__ import annotations

import json

import pytest

from personalab.records.items import Item
from personalab.records.prompts import Jailbreak, OppositeAnswers, Scenarios, load_jailbreaks, load_scenarios
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


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path):
    with pytest.raises(DataError, match=r"scenarios\.json does not exist"):
        load_scenarios(tmp_path)
    (tmp_path / "jailbreaks").mkdir()
    (tmp_path / "jailbreaks" / "calibration.jsonl").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"calibration\.jsonl is not UTF-8 text"):
        load_jailbreaks("calibration", tmp_path)
