"""MMLU through its real loader, on five rows of ours in the published layout."""

import json
import sys

import pytest

from personalab.records.items import load_mmlu
from personalab.records.schema import DataError

README = """---
configs:
- config_name: all
  data_files:
  - split: test
    path: all/test.jsonl
---
"""


def mmlu_of(folder, rows):
    (folder / "all").mkdir()
    (folder / "README.md").write_text(README)
    (folder / "all" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def five_rows():
    return [
        {"question": f" What is {i} + 1?", "subject": "sums", "choices": [str(i), str(i + 1), "7", "9"], "answer": 1}
        for i in range(5)
    ]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_rows_become_items_in_an_order_that_is_fixed(tmp_path):
    source = mmlu_of(tmp_path, five_rows())
    items = load_mmlu(source=source)
    assert len(items) == 5 and load_mmlu(source=source) == items
    for item in items:
        number = int(item.stem.removeprefix("What is ").removesuffix(" + 1?"))
        assert item.options[item.answer] == str(number + 1) and item.kind == "sums"
    assert load_mmlu(2, source=source) == items[:2]


def test_what_is_not_mmlu_is_named(tmp_path):
    rows = five_rows()
    rows[3]["answer"] = 4
    with pytest.raises(DataError, match="not as MMLU is published"):
        load_mmlu(source=mmlu_of(tmp_path, rows))
    with pytest.raises(DataError, match=r"MMLU cannot be loaded from .*nowhere"):
        load_mmlu(source=str(tmp_path / "nowhere"))


def test_without_the_package_the_way_to_get_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"requirements-gpu\.txt"):
        load_mmlu()
