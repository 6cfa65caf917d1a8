"""Steering, capping, ablation: exact where nothing should change, right where something should, gone afterwards."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from personalab.lm.generation import Request, generate
from personalab.lm.hooks import hooked
from personalab.lm.interventions import Ablate, Cap, Steer, applied
from personalab.lm.models import decoder_blocks
from personalab.lm.tiny import FAMILIES, load_tiny_model

BLOCK = 1
IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5], [3, 3, 4, 4, 5]])


def direction(seed: int = 0, d: int = 32) -> torch.Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def output_of(model, interventions, block=BLOCK, ids=IDS):
    """What the next block reads."""
    seen = []
    with applied(model, interventions), hooked(decoder_blocks(model)[block], seen.append):
        model(input_ids=ids)
    return seen[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
class TestEveryFamily:
    def test_steering_adds_the_vector_at_every_position_of_its_block_only(self, family, dtype):
        model, _ = load_tiny_model(family)
        model = model.to(dtype)
        v = direction()
        before, after = output_of(model, []), output_of(model, [Steer(BLOCK, v, 2.0)])
        torch.testing.assert_close(
            after.float(), before.float() + 2 * v, atol=1e-5 if dtype == torch.float32 else 0.05, rtol=0.01
        )
        assert after.dtype == dtype
        assert torch.equal(output_of(model, [], block=0), output_of(model, [Steer(BLOCK, v, 2.0)], block=0))

    def test_zero_steering_and_a_high_cap_change_no_bit(self, family, dtype):
        model, _ = load_tiny_model(family)
        model = model.to(dtype)
        idle = [Steer(BLOCK, direction(), 0.0), Cap(BLOCK, direction(1), 1e6)]
        assert torch.equal(output_of(model, idle), output_of(model, []))

    def test_capping_is_a_ceiling_that_leaves_the_rest_alone(self, family, dtype):
        model, _ = load_tiny_model(family)
        model = model.to(dtype)
        v = F.normalize(direction(), dim=0)
        before = output_of(model, [])
        projections = (before.float() @ v).flatten().sort().values
        gap = projections.diff()[3:-3].argmax() + 3  # rounding must not decide who is above
        threshold = projections[gap : gap + 2].mean().item()
        after = output_of(model, [Cap(BLOCK, 7 * v, threshold)])  # the vector's length plays no part
        tolerance = before.abs().max().item() * 8 * torch.finfo(dtype).eps
        below = before.float() @ v <= threshold
        assert below.any() and not below.all()
        assert torch.equal(after[below], before[below])
        torch.testing.assert_close(
            (after.float() @ v)[~below], torch.full(((~below).sum(),), threshold), atol=tolerance, rtol=0
        )
        other = after.float() - (after.float() @ v)[..., None] * v
        torch.testing.assert_close(other, before.float() - (before.float() @ v)[..., None] * v, atol=tolerance, rtol=0)


def test_capping_twice_is_capping_once():
    model, _ = load_tiny_model("llama")
    cap = Cap(BLOCK, direction(), -0.1)
    torch.testing.assert_close(output_of(model, [cap, cap]), output_of(model, [cap]), atol=1e-6, rtol=0)


def test_a_cap_from_above_is_the_papers_floor_along_the_opposite_direction():
    """Lu et al.: h <- h - v min(<h, v> - tau, 0)."""
    model, _ = load_tiny_model("llama")
    v, tau = F.normalize(direction(), dim=0), 0.05
    h = output_of(model, [])
    paper = h - (h @ v - tau).clamp_max(0)[..., None] * v
    torch.testing.assert_close(output_of(model, [Cap(BLOCK, -v, -tau)]), paper, atol=1e-6, rtol=0)


def test_ablation_leaves_nothing_along_the_direction():
    model, _ = load_tiny_model("qwen3")
    v = direction()
    assert (output_of(model, [Ablate(BLOCK, v)]) @ F.normalize(v, dim=0)).abs().max() < 1e-5


def test_rows_have_their_own_coefficients():
    model, _ = load_tiny_model("llama")
    v = direction()
    sweep = output_of(model, [Steer(BLOCK, v, torch.tensor([0.0, 1.5, -2.0]))])
    for row, coefficient in enumerate((0.0, 1.5, -2.0)):
        alone = output_of(model, [Steer(BLOCK, v, coefficient)])[row]
        torch.testing.assert_close(sweep[row], alone, atol=1e-6, rtol=0)


def test_nested_contexts_add_up_and_unwind():
    model, _ = load_tiny_model("llama")
    v, w = direction(), direction(1)
    with applied(model, [Steer(BLOCK, v)]):
        both = output_of(model, [Steer(BLOCK, w)])
        one = output_of(model, [])
    none = output_of(model, [])
    torch.testing.assert_close(both, none + v + w, atol=1e-5, rtol=0)
    torch.testing.assert_close(one, none + v, atol=1e-5, rtol=0)


@pytest.mark.parametrize("captured_first", [False, True])
def test_captured_hidden_states_are_the_steered_ones(captured_first):
    """transformers installs its capturing hooks for good at the first call that asks for hidden states."""
    model, _ = load_tiny_model("qwen2")
    if captured_first:
        model(input_ids=IDS, output_hidden_states=True)
    v = direction()
    plain = model(input_ids=IDS, output_hidden_states=True).hidden_states[BLOCK + 1]
    with applied(model, [Steer(BLOCK, v)]):
        steered = model(input_ids=IDS, output_hidden_states=True).hidden_states[BLOCK + 1]
    torch.testing.assert_close(steered, plain + v, atol=1e-5, rtol=0)


def test_tuples_of_older_transformers_keep_their_tail():
    model, _ = load_tiny_model("llama")
    layer, seen = decoder_blocks(model)[BLOCK], []
    expected = output_of(model, [Steer(BLOCK, direction())])
    # Outermost, so that it acts last: what the intervention made of the tuple, and the tensor that this version wants.
    unpack = layer.register_forward_hook(lambda _m, _a, out: (seen.append(out), out[0])[1])
    with applied(model, [Steer(BLOCK, direction())]):
        pack = layer.register_forward_hook(lambda _m, _a, out: (out, "cache"), prepend=True)
        model(input_ids=IDS)
    pack.remove()
    unpack.remove()
    assert seen[0][1] == "cache"
    torch.testing.assert_close(seen[0][0], expected)


def test_hooks_are_removed_also_after_an_error():
    model, _ = load_tiny_model("llama")
    before = [dict(layer._forward_hooks) for layer in decoder_blocks(model)]
    with (
        pytest.raises(RuntimeError, match="stop"),
        applied(model, [Steer(BLOCK, direction()), Cap(0, direction(), 0.0)]),
    ):
        raise RuntimeError("stop")
    assert [dict(layer._forward_hooks) for layer in decoder_blocks(model)] == before


def test_gradients_flow_through():
    model, _ = load_tiny_model("llama")
    with applied(model, [Steer(BLOCK, direction()), Cap(BLOCK, direction(1), 0.0)]):
        model(input_ids=IDS).logits.sum().backward()
    assert decoder_blocks(model)[0].mlp.down_proj.weight.grad.abs().sum() > 0


def test_under_device_map():
    from accelerate import dispatch_model

    model, _ = load_tiny_model("llama")
    expected = output_of(model, [Steer(BLOCK, direction())])
    spread = dispatch_model(model, device_map={"": "cpu"}, force_hooks=True)
    torch.testing.assert_close(output_of(spread, [Steer(BLOCK, direction())]), expected)


@pytest.mark.usefixtures("unchecked")
def test_errors_name_what_is_wrong():
    model, _ = load_tiny_model("llama")
    with pytest.raises(ValueError, match=r"blocks \[99\] do not exist"), applied(model, [Steer(99, direction())]):
        pass
    with pytest.raises(ValueError, match="does not fit"):
        output_of(model, [Steer(BLOCK, torch.ones(31))])
    with pytest.raises(ValueError, match="2 coefficients for a batch of 3 rows"):
        output_of(model, [Steer(BLOCK, direction(), torch.ones(2))])


MESSAGES = [
    [{"role": "user", "content": text}]
    for text in ("Tell me about the sea.", "Tell me about the moon and the city.", "What is a friend?", "Why?")
]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sweep_in_one_batch_says_what_single_runs_say(family):
    """Whatever the order of lengths, the batching and the shared prefixes, in cached decoding."""
    model, tokenizer = load_tiny_model(family)
    v = 3 * direction()
    coefficients = torch.tensor([0.0, 1.0, -1.0, 2.0])
    requests = [Request(m, max_tokens=8, temperature=0.0) for m in MESSAGES]
    together = generate(model, tokenizer, requests, interventions=[Steer(BLOCK, v, coefficients)], max_batch_rows=3)
    for request, coefficient, found in zip(requests, coefficients, together, strict=True):
        (alone,) = generate(model, tokenizer, [request], interventions=[Steer(BLOCK, v, float(coefficient))])
        assert found.text == alone.text


def test_a_shared_prefix_is_steered_too():
    model, tokenizer = load_tiny_model("llama")
    same = [[{"role": "user", "content": f"You are a pirate and the sea is wide. Question {i}?"}] for i in range(4)]
    requests = [Request(m, max_tokens=8, temperature=0.0) for m in same]
    steer = [Steer(0, 3 * direction(), 1.0)]
    together = [c.text for c in generate(model, tokenizer, requests, interventions=steer)]
    assert together == [generate(model, tokenizer, [r], interventions=steer)[0].text for r in requests]
