"""Batches against examples written out by hand: their order decides the last bits of what is computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from personalab.lm import generation
from personalab.lm.batching import by_length, packed, padded
from personalab.lm.finetuning import LoraSettings
from personalab.lm.generation import Request
from personalab.lm.lora_data import Example, training_steps
from personalab.measure import capability


def test_items_keep_their_order_and_one_always_fits():
    assert list(packed("abcde", lambda batch: len(batch) <= 2)) == [["a", "b"], ["c", "d"], ["e"]]
    assert list(packed([9, 1, 1], lambda batch: sum(batch) <= 2)) == [[9], [1, 1]]
    assert list(packed([], lambda batch: True)) == []


def test_the_longest_rows_come_first_and_equal_ones_in_their_order():
    assert by_length([3, 5, 3, 2, 5, 9], 10) == [[5], [1, 4], [0, 2, 3]]
    assert by_length([], 10) == []


def test_options_come_longest_batch_first_and_shortest_row_first():
    lengths = [3, 5, 3, 2, 5, 9]
    assert capability.option_batches(lengths, 10) == [[5], [1, 4], [3, 0, 2]]
    assert capability.option_batches([4, 4, 4], 8) == [[1, 2], [0]]


def test_rows_are_filled_up_on_the_right():
    assert padded([[1, 2], [3]], torch.device("cpu")).tolist() == [[1, 2], [3, 0]]


def test_answers_are_batched_by_limit_prefix_and_length():
    persona = list(range(100, 112))
    prompts = [[*persona, 1], [1, 2, 3], [*persona, 2, 3], [4, 5], [6] * 20]
    requests = [Request([], max_tokens=n) for n in (4, 4, 4, 8, 4)]
    found = list(generation.batches_of(prompts, requests, max_tokens=40, max_rows=2))
    assert found == [[3], [4], [2, 0], [1]]
    assert list(generation.batches_of(prompts, requests, max_tokens=400, max_rows=2)) == [[3, 4], [2, 0], [1]]


@dataclass
class Rows:
    lengths: tuple[int, ...]
    groups: tuple[str | None, ...]

    def examples(self) -> list[Example]:
        return [
            Example(torch.zeros(n, dtype=torch.long), torch.ones(n, dtype=torch.bool), group=g)
            for n, g in zip(self.lengths, self.groups, strict=True)
        ]


def test_training_steps_hold_whole_groups_within_the_limit():
    rows = Rows((100, 100, 10, 10, 40), ("a", "a", "b", "b", None))
    found = training_steps(rows.examples(), LoraSettings(batch_tokens=200, epochs=1))
    assert sorted(map(sorted, found)) == [[0, 1], [2, 3, 4]]
    assert [len(step) for step in training_steps(rows.examples(), LoraSettings(batch_tokens=1))] != [5]
