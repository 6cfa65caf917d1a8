"""The sampler's noise: a function of seed, step and token, exactly Gumbel, pruned only where nothing can be lost."""

from __future__ import annotations

import math

import pytest
import torch

from personalab.lm import sampling
from personalab.lm.generation import Request, generate, requests_for
from personalab.lm.interventions import Steer
from personalab.lm.sampling import GumbelSampler, gumbel_noise, step_keys
from personalab.lm.seeds import request_seed
from personalab.lm.tiny import FAMILIES, load_tiny_model

CPU = torch.device("cpu")


def noise(seeds, step, tokens):
    """(rows, tokens)"""
    keys = step_keys(seeds, step)
    rows, columns = torch.meshgrid(torch.arange(len(seeds)), torch.arange(tokens), indexing="ij")
    return gumbel_noise(keys[rows.flatten()], columns.flatten()).reshape(len(seeds), tokens)


def uniform(x):
    return torch.exp(-torch.exp(-x.double()))


@pytest.mark.parametrize("along", ["tokens", "steps", "seeds"])
def test_the_noise_is_gumbel_along_every_coordinate(along):
    n = 5_000 if along == "steps" else 50_000  # a call for every step
    found = {
        "tokens": lambda: noise([3], 5, n)[0],
        "steps": lambda: torch.cat([noise([3], step, 1)[0] for step in range(n)]),
        "seeds": lambda: noise(range(n), 5, 1)[:, 0],
    }[along]()
    u = uniform(found)
    counts = (u * 100).long().clamp(0, 99).bincount(minlength=100)
    chi2 = ((counts - n / 100) ** 2 / (n / 100)).sum().item()
    assert 50 < chi2 < 165  # 99 degrees of freedom: beyond 4.6 standard deviations either way is no accident
    neighbours = torch.corrcoef(torch.stack([u[:-1], u[1:]]))[0, 1].item()
    assert abs(neighbours) < 5 / math.sqrt(n)


def test_rows_steps_and_seeds_are_unrelated():
    rows = torch.cat([noise([0, 1, 2, 2**31 - 1], step, 20_000) for step in (0, 1, 2)])
    correlations = torch.corrcoef(uniform(rows)) - torch.eye(12)
    assert correlations.abs().max() < 5 / math.sqrt(20_000)


def test_the_noise_never_reaches_further_than_what_is_pruned():
    extremes = torch.tensor([2.0**-24, 1 - 2.0**-24]).log().neg().log().neg()
    assert extremes.isfinite().all() and extremes[1] < sampling.MOST
    found = noise(range(64), 0, 50_000)
    assert extremes[0] <= found.min() and found.max() <= extremes[1]


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.5])
def test_pruning_changes_no_choice(temperature, monkeypatch):
    logits = 4 * torch.randn(200, 3000, generator=torch.Generator().manual_seed(0))
    whole = logits / temperature + noise(range(200), 0, 3000)
    drawn = []
    monkeypatch.setattr(sampling, "gumbel_noise", lambda *args: drawn.append(len(args[1])) or gumbel_noise(*args))
    pruned = GumbelSampler(range(200), [temperature] * 200, CPU)(None, logits)
    assert torch.equal(pruned.argmax(1), whole.argmax(1))
    assert (pruned.isinf().sum(dim=1) == 1).all() and torch.equal(pruned.where(pruned.isfinite(), logits), logits)
    assert sum(drawn) < whole.numel()  # or nothing would be pruned


def test_choices_follow_the_softmax():
    logits, temperature, n = torch.tensor([1.0, 0.0, -1.0, 2.0]), 0.7, 20_000
    scores = GumbelSampler(range(n), [temperature] * n, CPU)(None, logits.expand(n, 4))
    observed = scores.argmax(-1).bincount(minlength=4) / n
    expected = (logits / temperature).softmax(-1)
    # five standard errors of a proportion
    assert ((observed - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_neighbours_order_and_dtype_do_not_touch_a_rows_noise(dtype):
    logits = torch.randn(6, 500, generator=torch.Generator().manual_seed(1)).to(dtype)
    seeds, temperatures = [4, 4, 9, 1, 0, 2], [0.7, 0.7, 1.0, 0.0, 0.5, 0.0]
    together = GumbelSampler(seeds, temperatures, CPU)
    steps = [together(None, logits) for _ in range(3)]
    assert not torch.equal(steps[0], steps[1])
    for row in range(6):
        alone = GumbelSampler(seeds[row : row + 1], temperatures[row : row + 1], CPU)
        for step in steps:
            assert torch.equal(alone(None, logits[row : row + 1])[0], step[row])
    assert torch.equal(steps[2][3], logits[3].float()) and torch.equal(steps[2][5], logits[5].float())


# Which seed a request gets


def asked(n):
    return [[{"role": "user", "content": f"Question {i}?"}] for i in range(n)]


def seeds(conversations, **settings):
    return [r.seed for r in requests_for(conversations, 8, 0.7, **settings)]


def test_a_seed_is_of_the_content_the_global_seed_and_the_occurrence_alone():
    everything = seeds(asked(6))
    assert seeds(asked(6)[::-1])[::-1] == everything
    assert seeds(asked(6)[2:4]) == everything[2:4]
    assert len({*everything, *seeds(asked(6), seed=1)}) == 12
    assert all(0 <= seed < 2**31 for seed in everything)
    repeated = seeds([*asked(2), *asked(2)])
    assert repeated[:2] == everything[:2] and len(set(repeated)) == 4
    settings = [(8, 0.7), (9, 0.7), (8, 0.6)]
    assert len({request_seed(asked(1)[0], *s) for s in settings}) == 3


def test_rows_of_a_sweep_share_their_luck_and_repeats_of_a_row_do_not():
    push = Steer(1, torch.ones(4), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    a, b, c, d = seeds(asked(1) * 4, interventions=[push])
    assert a == b and c == d and a != c
    with pytest.raises(ValueError, match="4 coefficients for 3 conversations"):
        seeds(asked(1) * 3, interventions=[push])


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_repeat_in_another_order_and_for_a_part(family):
    model, tokenizer = load_tiny_model(family)
    requests = requests_for([*asked(5), *asked(2)], 8, 1.0)
    texts = [c.text for c in generate(model, tokenizer, requests)]
    backwards = generate(model, tokenizer, requests_for([*asked(5), *asked(2)][::-1], 8, 1.0))
    assert [c.text for c in backwards][::-1][2:5] == texts[2:5]
    assert {c.text for c in backwards} == set(texts)  # of the repeats, first and second change places
    assert [c.text for c in generate(model, tokenizer, requests_for(asked(5)[3:], 8, 1.0))] == texts[3:5]
    assert len(set(texts)) > 4  # tiny models repeat themselves


def test_one_request_at_a_time_or_all_at_once():
    model, tokenizer = load_tiny_model("llama")
    requests = [Request(c, 8, 1.0, seed=i) for i, c in enumerate(asked(4))]
    assert generate(model, tokenizer, requests) == [generate(model, tokenizer, [r])[0] for r in requests]
