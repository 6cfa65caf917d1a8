"""Random caps that remove as much as others do: what is removed, thresholds, directions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from personalab.lm.chat import turn_spans
from personalab.lm.interventions import Cap, applied
from personalab.lm.models import decoder_blocks
from personalab.lm.tiny import FAMILIES, load_tiny_model
from personalab.studies.matched import ceiling, matched_random_caps, removed_norms, turn_batch, turned

TALKS = [
    [{"role": "user", "content": "What is the moon?"}, {"role": "assistant", "content": "It pulls on the sea."}],
    [
        {"role": "user", "content": "Tell me about the city."},
        {"role": "assistant", "content": "Who tells the truth there?"},
        {"role": "user", "content": "You do."},
        {"role": "assistant", "content": "I would say that a good friend listens first, and then speaks."},
    ],
]
VECTORS = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)) + torch.ones(32)
CAPS = [Cap(block, 2 * v, threshold) for block, v, threshold in zip((2, 0, 2), VECTORS, (0.5, 0.2, 1e3), strict=True)]


def test_a_ceiling_is_where_the_asked_for_mean_reaches_above() -> None:
    values = torch.randn(200, generator=torch.Generator().manual_seed(1))
    for removed in (1e-3, 0.1, 3.0):  # from above nearly all to below all
        assert (values - ceiling(values, removed)).clamp(min=0).mean() == pytest.approx(removed, rel=1e-3)
    assert ceiling(values, 0.0) == values.max()


def test_turned_vectors_keep_angles_and_leave_where_they_were() -> None:
    found = turned(VECTORS, torch.Generator().manual_seed(2))
    torch.testing.assert_close(found @ found.T, VECTORS @ VECTORS.T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found @ VECTORS.T, torch.zeros(3, 3), atol=1e-4, rtol=0)
    assert torch.equal(found, turned(VECTORS, torch.Generator().manual_seed(2)))
    assert not torch.allclose(found, turned(VECTORS, torch.Generator().manual_seed(3)), atol=0.1)
    avoid = 1e3 * torch.randn(2, 32, generator=torch.Generator().manual_seed(5))
    beside = turned(VECTORS, torch.Generator().manual_seed(2), avoid)
    torch.testing.assert_close(beside @ F.normalize(avoid, dim=1).T, torch.zeros(3, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(beside @ beside.T, VECTORS @ VECTORS.T, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="leave no 3 dimensions"):
        turned(torch.ones(3, 5), torch.Generator())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_caps_remove_is_what_changes_in_the_residual_stream(family: str) -> None:
    """Plain loop: one conversation at a time, a hook before and one after each block's first cap."""
    model, tokenizer = load_tiny_model(family)
    found = removed_norms(model, tokenizer, CAPS[:2], TALKS)
    for talk, row in zip(TALKS, found, strict=True):
        ids, spans = turn_spans(talk, tokenizer)
        spoken = [t for start, end in spans for t in range(start, end)]
        for place, others in ((0, CAPS[1:2]), (1, [])):
            states = []
            for caps in (others, [*others, CAPS[place]]):
                with applied(model, caps):
                    hook = decoder_blocks(model)[CAPS[place].block].register_forward_hook(
                        lambda module, args, output, states=states: states.append(output[0])
                    )
                    with torch.inference_mode():
                        model(input_ids=torch.tensor([ids]))
                    hook.remove()
            norms = (states[0] - states[1]).norm(dim=-1)[spoken]
            assert row[place].item() == pytest.approx(norms.mean().item(), rel=1e-3, abs=1e-4)
            first = removed_norms(model, tokenizer, CAPS[:2], [talk], first_token=True)[0, place]
            assert first.item() == pytest.approx((states[0] - states[1])[0].norm().item(), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_control_removes_as_much_cap_by_cap(family: str) -> None:
    model, tokenizer = load_tiny_model(family)
    control = matched_random_caps(model, tokenizer, CAPS, TALKS, torch.Generator().manual_seed(4))
    assert [c.block for c in control] == [2, 0, 2]
    tokens = turn_batch(TALKS, tokenizer).spoken.sum(dim=1).float()
    given, matched = (tokens @ removed_norms(model, tokenizer, c, TALKS) / tokens.sum() for c in (CAPS, control))
    torch.testing.assert_close(matched, given, atol=1e-4, rtol=1e-3)
    assert given[0] > 0 and given[2] == 0
    cosines = torch.stack([c.vector for c in control]) @ F.normalize(VECTORS, dim=1).T
    torch.testing.assert_close(cosines, torch.zeros(3, 3), atol=1e-4, rtol=0)


def test_silence_cannot_be_measured() -> None:
    _, tokenizer = load_tiny_model()
    with pytest.raises(ValueError, match=r"conversations \[1\] hold no words of the assistant"):
        turn_batch([TALKS[0], TALKS[0][:1]], tokenizer)
    with pytest.raises(ValueError, match="no conversations"):
        turn_batch([], tokenizer)
