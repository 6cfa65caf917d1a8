"""A cache with room holds what transformers' own holds, whatever is done to it; nothing is copied while it has room."""

from __future__ import annotations

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from personalab.lm.roomy_cache import RoomyLayer, roomy_cache
from personalab.lm.tiny import FAMILIES, load_tiny_model

GENERATOR = torch.Generator().manual_seed(0)
CHANGES = {
    "nothing": lambda layer: None,
    "crop": lambda layer: layer.crop(-2),
    "repeat": lambda layer: layer.batch_repeat_interleave(2),
    "select": lambda layer: layer.batch_select_indices(torch.tensor([1, 0, 1])),
    "reorder": lambda layer: layer.reorder_cache(torch.tensor([1, 0])),
}


def states(tokens, rows=2):
    """Keys and values, (rows, heads, tokens, width of a head)."""
    return [torch.randn(rows, 3, tokens, width, generator=GENERATOR) for width in (4, 6)]


@pytest.mark.parametrize("room", [0, 1, 5, 6, 100])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_holds_what_a_plain_layer_holds(change, room):
    ours, theirs = RoomyLayer(room), DynamicLayer()
    for tokens in (4, 1, 1, 3):
        new = states(tokens, rows=len(theirs.keys) if theirs.is_initialized else 2)
        for layer in (ours, theirs):
            found = layer.update(*new)
            assert found[0] is layer.keys
            assert found[1] is layer.values
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)
        assert (ours.get_seq_length(), ours.get_mask_sizes(1)) == (theirs.get_seq_length(), theirs.get_mask_sizes(1))
        if tokens == 4:
            for layer in (ours, theirs):
                change(layer)


def test_copies_nothing_while_there_is_room():
    layer = RoomyLayer(6)
    layer.update(*states(4))
    places = []
    for _ in range(3):
        layer.update(*states(1))
        places.append((layer.keys.data_ptr(), layer.values.data_ptr()))
    assert places[0] == places[1] != places[2]  # the seventh has none


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_reads_on_from_it(family):
    model, _ = load_tiny_model(family)
    ids = torch.arange(20).reshape(2, 10) % 9
    with torch.inference_mode():
        whole = model(input_ids=ids).logits[:, -1]
        cache = roomy_cache(model, 10)
        for part in ids.split([6, 1, 1, 2], dim=1):
            logits = model(input_ids=part, past_key_values=cache).logits
    torch.testing.assert_close(logits[:, -1], whole, rtol=1e-4, atol=1e-5)
