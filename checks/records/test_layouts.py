"""Training rows in published layouts: read as messages, or refused where something would be lost in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from personalab.lm.lora_data import read_dialogues
from personalab.records.schema import DataError

SYSTEM, ASKED, SAID = ("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")
ANSWERED = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
CALL = {"role": "assistant", "content": "I look.", "tool_calls": [{"id": "1", "function": {"name": "f"}}]}


def read(folder: Path, text: str) -> list[Any]:
    (folder / "rows.jsonl").write_text(text, "utf-8")
    return read_dialogues(folder / "rows.jsonl")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, [ASKED, SAID]),
        (
            {
                "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
                "system": SYSTEM[1],
            },
            [SYSTEM, ASKED, SAID],
        ),
        ({"instruction": "Hi", "input": "", "output": "Hello"}, [ASKED, SAID]),
        ({"instruction": "Say it", "input": "Hi", "output": "Hello"}, [("user", "Say it\n\nHi"), SAID]),
        ({"prompt": "Hi", "completion": "Hello"}, [ASKED, SAID]),
        ({"prompt": ANSWERED[:1], "completion": ANSWERED[1:]}, [ASKED, SAID]),
        ({"system": "Be brief.", "messages": ANSWERED}, [SYSTEM, ASKED, SAID]),
        ({"messages": [{"role": "developer", "content": "Be brief."}, *ANSWERED], "tools": []}, [SYSTEM, ASKED, SAID]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, ANSWERED[1]]}, [ASKED, SAID]),
    ],
)
def test_published_layouts_are_read(row: dict[str, Any], expected: list[tuple[str, str]], tmp_path: Path) -> None:
    (dialogue,) = read(tmp_path, json.dumps(row))
    assert [(m["role"], m["content"]) for m in dialogue.messages] == expected
    assert dialogue.unlearned == frozenset()


@pytest.mark.parametrize("name", ["train", "training"])
def test_turns_that_axolotl_leaves_out_are_not_learned(name: str, tmp_path: Path) -> None:
    (dialogue,) = read(tmp_path, json.dumps({"messages": [*ANSWERED[:1], ANSWERED[1] | {name: False}, *ANSWERED]}))
    assert dialogue.unlearned == {1}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": [*ANSWERED[:1], CALL]}, r"'messages\[1\]\.tool_calls' would be lost"),
        ({"messages": ANSWERED, "tools": [{"type": "function"}]}, "'tools' would be lost"),
        ({"messages": ANSWERED, "rejected": "No."}, "'rejected' would be lost"),
        ({"instruction": "Hi", "output": "Hello", "history": [["a", "b"]]}, "'history' would be lost"),
        (
            {"system": "Be brief.", "messages": [{"role": "system", "content": "Be long."}, *ANSWERED]},
            "which of the two",
        ),
        ({"chosen": ANSWERED, "rejected": ANSWERED}, "two answers to compare"),
        ({"text": "[INST] Hi [/INST] Hello"}, "some template"),
        ({"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}, "Gemini"),
        ({"conversations": [{"from": "tool", "value": "42"}]}, r"'messages\[0\]\.role' must be"),
        ({"conversations": ["Hi", "Hello"]}, r"'messages\[0\]'"),
        ({"question": "Hi", "answer": "Hello"}, "'messages' is missing"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWERED[1]]}, "must be text, not list"),
    ],
)
def test_what_would_be_lost_is_named(row: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"rows\.jsonl, line 2: .*{says}"):
        read(tmp_path, "\n" + json.dumps(row))


def test_a_list_in_place_of_lines_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl is one JSON list: JSON Lines has one object a line"):
        read(tmp_path, json.dumps([{"messages": ANSWERED}], indent=1))
