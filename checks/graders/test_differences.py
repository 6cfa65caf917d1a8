"""Where two things differ, in few words."""

from __future__ import annotations

import pytest
import torch

from graders.harness.differences import difference, same

LONG = [f"entry number {i}" for i in range(20)]
TEXT = "It was a dark and stormy night; the rain fell in torrents, except at occasional intervals."


@pytest.mark.parametrize(
    ("expected", "found", "words"),
    [
        (1.5, 1, "expected 1.5, found 1"),
        ([1, 2], [1, 3], "expected [1, 2], found [1, 3]"),
        ([], LONG, "expected [], found ['entry number 0'"),
        (LONG, LONG[:-1], "expected 20 entries, found 19"),
        (LONG, [*LONG[:3], "other", *LONG[4:]], "expected 'entry number 3', found 'other' at [3]"),
        ({"a": LONG, "b": 2.0}, {"a": LONG, "b": 2.5}, "expected 2.0, found 2.5 at ['b']"),
        ({"a": LONG}, {"b": LONG}, "expected ['a'], found ['b'] at keys"),
        (TEXT, TEXT.replace("rain", "snow"), "at character 36"),
        (TEXT, TEXT[:40], "at character 40"),
        ([LONG, TEXT], [LONG, TEXT + "."], f"at [1] character {len(TEXT)}"),
        (0.1 + 0.2, 0.3, "expected 0.30000000000000004, found 0.3"),
    ],
)
def test_the_first_difference_and_its_place(expected, found, words):
    text = difference(expected, found)
    assert words in text and len(text) < 300
    before, _, after = text.partition(", found ")
    assert before.removeprefix("expected ") != after.partition(" at ")[0]


def test_equal_things_have_no_difference():
    for thing in (LONG, TEXT, {"a": TEXT}, 1.0, [], torch.ones(2)):
        assert difference(thing, thing) == ""


def test_same_looks_into_tensors_and_at_the_order_of_dicts():
    assert same({"a": [torch.ones(2)]}, {"a": [torch.ones(2)]})
    assert not same([torch.ones(2)], [torch.ones(2).double()])
    assert not same(torch.ones(2), [1, 1])
    assert not same({"a": 1, "b": 2}, {"b": 2, "a": 1})
