"""Hooks on layers."""

from __future__ import annotations

import torch
from torch import nn

from personalab.lm.generation import generate, requests_for
from personalab.lm.hooks import contiguous_input
from personalab.lm.tiny import load_tiny_model


def test_an_lm_head_reads_contiguous_states_in_generation_and_no_hook_stays():
    model, tokenizer = load_tiny_model()
    model.requires_grad_(False)  # as a finetuned model's weights are
    head, seen = model.get_output_embeddings(), []
    handle = head.register_forward_hook(lambda _module, args, _output: seen.append(args[0].is_contiguous()))
    requests = requests_for([[{"role": "user", "content": f"{n} or more?"}] for n in ("One", "Two")], 2)
    generate(model, tokenizer, requests)
    assert seen and all(seen)
    handle.remove()
    assert not head._forward_pre_hooks and not head._forward_hooks


def test_a_layer_gets_the_same_values_in_another_layout():
    layer, states = nn.Linear(4, 3), torch.randn(2, 5, 4)[:, -1:]
    assert not states.is_contiguous()
    with contiguous_input(layer), contiguous_input(None):
        assert torch.allclose(layer(states), states @ layer.weight.T + layer.bias)
