"""Generation: order, batch independence, sampling."""

from __future__ import annotations

import pytest
import torch

from personalab.lm import chat, generation, prefix_cache
from personalab.lm.content_guard import guarded
from personalab.lm.generation import Request, generate
from personalab.lm.interventions import Steer, Through
from personalab.lm.positions import may_share_with_gaps
from personalab.lm.tiny import FAMILIES, load_tiny_model

PROMPTS = [chat.as_messages("You are a pirate." * (i % 3), f"Question {i}" + " the sea" * i) for i in range(7)]


@pytest.fixture(params=FAMILIES)
def tiny(request):
    return load_tiny_model(request.param)


def test_greedy_equals_plain_generate_token_for_token(tiny):
    model, tokenizer = tiny
    found = generate(model, tokenizer, [Request(p, 10, 0.0) for p in PROMPTS])
    for prompt, completion in zip(PROMPTS, found, strict=True):
        text = chat.render(prompt, tokenizer, add_generation_prompt=True)
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=10, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert completion.text == tokenizer.decode(out, skip_special_tokens=True)
        assert completion.n_prompt == inputs["input_ids"].shape[1]


@pytest.mark.parametrize("limits", [{"max_batch_rows": 1}, {"max_batch_rows": 3}, {"max_batch_tokens": 120}])
def test_samples_depend_on_the_request_alone(tiny, limits):
    requests = [Request(p, 4 + i, 0.5 * (i % 3), seed=i) for i, p in enumerate(PROMPTS)]
    together = generate(*tiny, requests)
    assert generate(*tiny, requests, **limits) == together
    assert generate(*tiny, requests[::-1])[::-1] == together


def test_other_seeds_give_other_samples(tiny):
    a, b, again = generate(*tiny, [Request(PROMPTS[0], 12, 1.0, seed=s) for s in (1, 2, 1)])
    assert a == again != b


def test_each_row_stops_at_its_own_limit(tiny):
    for limit, completion in zip(
        [3, 9, 5], generate(*tiny, [Request(PROMPTS[0], n, 0.0) for n in (3, 9, 5)]), strict=True
    ):
        assert completion.n_tokens <= limit
        assert completion.finish == ("length" if completion.n_tokens == limit else "stop")


def test_stops_at_the_end_of_turn_and_leaves_it_out():
    model, tokenizer = load_tiny_model("llama")
    model.get_output_embeddings().weight.data.zero_()  # all logits equal: greedy decoding takes token 0
    model.generation_config.eos_token_id = [0, 5]
    (completion,) = generate(model, tokenizer, [Request(PROMPTS[0], 6, 0.0)])
    assert completion == generation.Completion("", completion.n_prompt, 0, "stop")


def test_the_models_own_sampling_defaults_do_not_leak_in(tiny):
    model, tokenizer = tiny
    before = generate(model, tokenizer, [Request(p, 8, 0.0) for p in PROMPTS[:3]])
    model.generation_config.update(repetition_penalty=5.0, top_k=1, temperature=0.1, do_sample=True)
    assert generate(model, tokenizer, [Request(p, 8, 0.0) for p in PROMPTS[:3]]) == before


def test_clear_errors():
    model, tokenizer = load_tiny_model("llama")
    with pytest.raises(ValueError, match="max_tokens"):
        Request(PROMPTS[0], 0)
    with pytest.raises(ValueError, match="temperature"):
        Request(PROMPTS[0], 1, -1.0)
    with pytest.raises(ValueError, match="Request 1 needs"):
        generate(model, tokenizer, [Request(PROMPTS[0], 1), Request(PROMPTS[0], 5000)])
    assert generate(model, tokenizer, []) == []


def test_shared_prefixes_change_nothing(tiny, monkeypatch):
    personas = ["You are a pirate who loves the sea.", "You are a judge, and speak of the law only."]
    prompts = [chat.as_messages(p, f"Question {i}?" + " Why?" * i) for p in personas for i in range(4)]
    requests = [Request(m, 8, 0.0) for m in [*prompts, chat.as_messages(None, "On its own.")]]
    shared = generate(*tiny, requests)
    monkeypatch.setattr(prefix_cache, "MIN_PREFIX", 10_000)
    assert generate(*tiny, requests) == shared


def test_a_sweep_reads_each_prompt_once(tiny, monkeypatch):
    prompts = [chat.as_messages("You are a pirate who loves the sea.", f"Question {i}?") for i in range(4)]
    coefficients = [0.0, 40.0, -40.0]
    requests = [Request(m, 8, 0.0) for m in prompts for _ in coefficients]
    sweep, read = steer(coefficients * len(prompts)), []
    run_prefix = prefix_cache.run_prefix
    monkeypatch.setattr(prefix_cache, "run_prefix", lambda *a: read.append(len(a[2])) or run_prefix(*a))
    swept = generate(*tiny, requests, interventions=[sweep])
    ids = [chat.prompt_ids(p, tiny[1]) for p in prompts]
    shared = prefix_cache.shared_length(ids, limit=len(ids[0]))
    assert shared > prefix_cache.MIN_PREFIX
    assert sum(read) == (shared + sum(len(i) - shared - 1 for i in ids) if may_share_with_gaps(tiny[0]) else 0)
    for i, request in enumerate(requests):
        alone = [Steer(sweep.block, sweep.vector, float(sweep.coefficient[i]))]
        assert generate(*tiny, [request], interventions=alone) == [swept[i]]
    assert len({c.text for c in swept[: len(coefficients)]}) > 1


def test_interventions_are_told_of_their_rows_once_a_batch(tiny):
    class Told(Through):
        def for_rows(self, rows):
            told.append(list(rows))
            return self

    prompts = [chat.as_messages("You are a pirate who loves the sea.", f"Question {i}?") for i in range(4)] * 2
    requests = [Request(m, 3, 0.0) for m in prompts]
    for others in ([], [steer([1.0] * 8)], [steer([0.0] * 4 + [9.0] * 4)]):
        told = []
        generate(*tiny, requests, interventions=[Told(0, lambda hidden: hidden), *others], max_batch_rows=4)
        assert sorted(i for rows in told for i in rows) == list(range(8))


def test_a_guarded_model_answers_again_where_its_text_fails_the_check(monkeypatch):
    model, tokenizer = load_tiny_model("llama")
    requests = [Request(p, 8, 1.0, seed=i) for i, p in enumerate(PROMPTS)]
    plain = [c.text for c in generate(model, tokenizer, requests)]
    bad = {plain[1], plain[4]}
    monkeypatch.setattr(generation, "violations", lambda text: ["w***"] if text in bad else [])
    assert [c.text for c in generate(model, tokenizer, requests)] == plain  # nobody asked for a guard
    guarded(model, tokenizer, ["no such word in it"])
    found = [c.text for c in generate(model, tokenizer, requests)]
    assert not bad & set(found)
    assert [t for i, t in enumerate(found) if i not in (1, 4)] == [t for i, t in enumerate(plain) if i not in (1, 4)]
    assert found == [c.text for c in generate(model, tokenizer, requests)]  # the second try is seeded, too


def test_answers_that_fail_again_and_again_are_withheld_each_under_its_own_steering(monkeypatch):
    model, tokenizer = load_tiny_model("llama")
    guarded(model, tokenizer, ["no such word in it"])
    asked, generate_all = [], generation._generate_all

    def watch(model, tokenizer, requests, interventions, *rest):
        asked.append((len(requests), interventions[0].coefficient.tolist()))
        return generate_all(model, tokenizer, requests, interventions, *rest)

    monkeypatch.setattr(generation, "_generate_all", watch)
    first = generate(model, tokenizer, [Request(PROMPTS[0], 4, 0.0)] * 3, interventions=[steer([0.0, 50.0, 100.0])])
    monkeypatch.setattr(generation, "violations", lambda text: [] if text == first[0].text else ["w***"])
    asked.clear()
    found = generate(model, tokenizer, [Request(PROMPTS[0], 4, 0.0)] * 3, interventions=[steer([0.0, 50.0, 100.0])])
    assert [c.text for c in found] == [first[0].text, generation.WITHHELD, generation.WITHHELD]
    assert asked == [(3, [0.0, 50.0, 100.0])] + [(2, [50.0, 100.0])] * generation.RESAMPLED


def steer(coefficients):
    return Steer(1, torch.arange(32.0) % 7 - 3, torch.tensor(coefficients))
