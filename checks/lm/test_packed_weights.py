"""Packed weights: the same numbers up to rounding, nothing left behind, and where they don't apply."""

from __future__ import annotations

import platform

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from personalab.lm import packed_weights as module
from personalab.lm.packed_weights import packed_weights
from personalab.lm.tiny import FAMILIES, load_tiny_model

X86 = platform.machine().lower() in ("x86_64", "amd64") and torch.backends.mkldnn.is_available()
IDS = torch.arange(24).reshape(2, 12) % 7


@pytest.fixture(autouse=True)
def _any_layer(monkeypatch):
    """On any processor, with any number of threads."""
    monkeypatch.setattr(module, "FEWEST_WEIGHTS", 0)


def replaced(model: nn.Module) -> int:
    return sum("forward" in vars(m) for m in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_differ_by_rounding_only(family):
    model, _ = load_tiny_model(family)
    with torch.inference_mode():
        plain = model(input_ids=IDS).logits
        with packed_weights(model):
            assert (replaced(model) > 0) == X86
            packed = model(input_ids=IDS).logits
        assert replaced(model) == 0
        assert torch.equal(model(input_ids=IDS).logits, plain)
    torch.testing.assert_close(packed, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("shape", [(5,), (0, 5), (1, 5), (3, 5), (2, 0, 5), (2, 3, 5), (2, 2, 2, 5)])
def test_any_shape_with_and_without_bias(shape, dtype, tolerance, bias):
    layer = nn.Linear(5, 9, bias=bias, dtype=dtype)
    x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain = layer(x)
        with packed_weights(layer):
            torch.testing.assert_close(layer(x), plain, rtol=tolerance, atol=tolerance)


def test_a_slice_is_read_as_it_stands():
    layer, wide = nn.Linear(5, 9), torch.randn(4, 6, 10, generator=torch.Generator().manual_seed(0))
    for x in (wide[:, -1:, :5], wide[..., ::2], wide[:, :, :5].transpose(0, 1), wide[:1, :, :5].expand(7, -1, -1)):
        with torch.inference_mode():
            plain = layer(x)
            with packed_weights(layer):
                torch.testing.assert_close(layer(x), plain)


def test_after_the_block_new_weights_count():
    layer, x = nn.Linear(5, 9, bias=False), torch.ones(2, 5)
    with torch.inference_mode():
        with packed_weights(layer):
            before = layer(x)
        layer.weight.mul_(2)
        torch.testing.assert_close(layer(x), 2 * before)
        with packed_weights(layer):
            torch.testing.assert_close(layer(x), 2 * before)


def test_an_error_in_the_block_leaves_nothing_behind():
    layer = nn.Linear(5, 9)
    with pytest.raises(RuntimeError), packed_weights(layer):
        layer(torch.ones(2, 4))
    assert replaced(layer) == 0


def test_where_it_does_not_apply(monkeypatch):
    class Own(nn.Linear):
        """A layer of somebody's own, such as a quantized one."""

    offloaded = nn.Linear(5, 9)
    offloaded.forward = own = lambda x: x
    for layer in (Own(5, 9), nn.Linear(5, 9, dtype=torch.float16), nn.Linear(5, 9, device="meta"), offloaded):
        with packed_weights(layer):
            assert vars(layer).get("forward") is (own if layer is offloaded else None)
    assert offloaded.forward is own
    layer = nn.Linear(5, 9)
    with packed_weights(layer, worth=False):
        assert replaced(layer) == 0
    with torch.autocast("cpu", torch.bfloat16), packed_weights(layer):
        assert replaced(layer) == 0
    with FlopCounterMode(display=False) as counted, torch.inference_mode(), packed_weights(layer):
        layer(torch.ones(1, 5))
    assert counted.get_total_flops() == 2 * 5 * 9
    monkeypatch.setattr(module, "MOST_BYTES", layer.weight.nbytes - 1)
    with packed_weights(layer):
        assert replaced(layer) == 0


@pytest.mark.skipif(not X86, reason="nothing is packed here")
@pytest.mark.parametrize(("capability", "threads", "n"), [("AVX2", 1, 1), ("AVX2", 2, 2), ("AVX512", 1, 2)])
def test_one_thread_without_avx512_packs_wide_layers_only(monkeypatch, capability, threads, n):
    monkeypatch.setattr(module, "FEWEST_WEIGHTS", 9 * 5)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 9))
    with packed_weights(model):
        assert replaced(model) == n
