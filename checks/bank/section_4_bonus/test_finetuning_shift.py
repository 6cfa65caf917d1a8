import einops
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

import utils
from checks.bank import right, wrong
from personalab.lm.models import decoder_blocks


def ids_of(prompt, tokenizer):
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def mean_state(model, tokenizer, prompts, layer, encode=ids_of, pick=lambda h: h[-1]):
    rows = []
    for prompt in prompts:
        ids = torch.tensor([encode(prompt, tokenizer)])
        rows.append(pick(model(ids, output_hidden_states=True).hidden_states[layer][0].float()))
    return torch.stack(rows).mean(dim=0)


def solve(base, tuned, tokenizer, prompts, v, layer, **how):
    difference = mean_state(tuned, tokenizer, prompts, layer, **how) - mean_state(
        base, tokenizer, prompts, layer, **how
    )
    return (difference @ F.normalize(v.float(), dim=0)).item()


@right
def one_prompt_at_a_time(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    return solve(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer)


@right
def with_the_engine(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    asked = [utils.as_messages(None, p) for p in prompts]
    base, tuned = (
        utils.last_prompt_activations(m, tokenizer, asked, [layer - 1])[:, 0] for m in (base_model, finetuned_model)
    )
    return float((tuned - base).mean(0) @ trait_vector / trait_vector.norm())


@right
def batched_on_the_left(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    texts = [utils.render_prompt(utils.as_messages(None, p), tokenizer) for p in prompts]
    inputs = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
    means = []
    with torch.inference_mode():
        for model in (base_model, finetuned_model):
            means.append(model(**inputs, output_hidden_states=True).hidden_states[layer][:, -1].double().mean(0))
    v = trait_vector.double()
    return ((means[1] - means[0]) @ v / v.norm()).item()


@right
def with_hooks(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    projections = []
    for model in (base_model, finetuned_model):
        kept = []
        handle = decoder_blocks(model)[layer - 1].register_forward_hook(lambda m, a, out, kept=kept: kept.append(out))
        try:
            with torch.no_grad():
                for prompt in prompts:
                    model(torch.tensor([ids_of(prompt, tokenizer)]))
        finally:
            handle.remove()
        states = torch.stack([(out[0] if isinstance(out, tuple) else out)[0, -1] for out in kept])
        projections.append((states.float() @ trait_vector / trait_vector.norm()).mean().item())
    return projections[1] - projections[0]


@right
def with_einops(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    states = torch.stack([states_of(m, tokenizer, prompts, layer) for m in (base_model, finetuned_model)])
    base, tuned = einops.reduce(states, "model prompt d -> model d", "mean")
    return np.float32(einops.einsum(tuned - base, F.normalize(trait_vector, dim=0), "d, d ->").item())


@right
def as_a_table(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    """pandas: a row for each prompt, a column for each model; what the following block is given."""
    columns = {}
    for name, model in (("base", base_model), ("tuned", finetuned_model)):
        kept = []
        with decoder_blocks(model)[layer].register_forward_pre_hook(lambda m, args, kept=kept: kept.append(args[0])):
            for prompt in prompts:
                with torch.no_grad():
                    model(torch.tensor([ids_of(prompt, tokenizer)]))
        unit = (trait_vector / trait_vector.norm()).numpy()
        columns[name] = [float(state[0, -1].numpy() @ unit) for state in kept]
    table = pd.DataFrame(columns, index=prompts)
    return (table.tuned - table.base).mean()


def states_of(model, tokenizer, prompts, layer, encode=ids_of, pick=lambda h: h[-1]):
    with torch.inference_mode():
        passes = [model(torch.tensor([encode(p, tokenizer)]), output_hidden_states=True) for p in prompts]
    return torch.stack([pick(out.hidden_states[layer][0]) for out in passes])


def differing(words, of=None, **how):
    """A wrong solution that differs in the statistic, `of(base, tuned)` of each prompt's projections, or before."""

    def solution(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
        unit = F.normalize(trait_vector, dim=0)
        base, tuned = (states_of(m, tokenizer, prompts, layer, **how) @ unit for m in (base_model, finetuned_model))
        return (of or (lambda base, tuned: (tuned - base).mean()))(base, tuned).item()

    solution.__module__ = __name__
    return wrong(words)(solution)


def under(system):
    def encode(prompt, tokenizer):
        # Gemma 2 has no such role
        messages = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        messages = messages[1:] if "gemma2" in tokenizer.name_or_path else messages
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    return encode


sizes = differing("sign of each prompt's shift is lost", lambda base, tuned: (tuned - base).abs().mean())
medians = differing("median", lambda base, tuned: tuned.median() - base.median())
largest = differing("median of the prompts, or the largest", lambda base, tuned: (tuned - base).max())
ratio = differing("difference is allowed|expected 0", lambda base, tuned: tuned.mean() / base.mean())
standardised = differing(
    "difference is allowed", lambda base, tuned: (tuned - base).mean() / ((tuned - base).std() + 1e-9)
)
first_token = differing("difference is allowed", pick=lambda h: h[0])
last_three = differing("difference is allowed", pick=lambda h: h[-3:].mean(0))
system_prompt_added = differing("a system prompt is added", encode=under("You are a helpful assistant."))
empty_system_message = differing("an empty system message", encode=under(""))
whole_states = differing("cosine|difference is allowed", pick=lambda h: F.normalize(h[-1], dim=0))


def after_tokens(n, of_base=False):
    """States after the answer has begun: each model's own words, or the base model's."""

    def solution(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
        means = []
        for model in (base_model, finetuned_model):
            states = []
            for prompt in prompts:
                ids = torch.tensor([ids_of(prompt, tokenizer)])
                writer = base_model if of_base else model
                ids = writer.generate(ids, max_new_tokens=n, do_sample=False)
                with torch.no_grad():
                    states.append(model(ids, output_hidden_states=True).hidden_states[layer][0, -1])
            means.append(torch.stack(states).mean(0))
        return ((means[1] - means[0]) @ F.normalize(trait_vector, dim=0)).item()

    solution.__module__ = __name__
    return wrong("you read a token of the answer")(solution)


after_the_first_word = after_tokens(1)
after_the_base_models_words = after_tokens(2, of_base=True)


@wrong("the base model.*left behind")
def leaves_a_hook_on_the_base(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    decoder_blocks(base_model)[layer - 1].register_forward_hook(lambda m, a, out: None)
    return solve(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer)


@wrong("list of prompts was changed")
def empties_the_list(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    found = solve(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer)
    prompts.clear()
    return found


@wrong("difference is allowed|header")
def one_rendering_for_all(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    """All prompts in one user turn."""
    return solve(base_model, finetuned_model, tokenizer, [" ".join(prompts)], trait_vector, layer)


@wrong("sign is flipped")
def flipped(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    return solve(finetuned_model, base_model, tokenizer, prompts, trait_vector, layer)


@wrong("not normalised")
def raw(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    return solve(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer) * trait_vector.norm().item()


@wrong("squared norm")
def twice(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    return solve(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer) / trait_vector.norm().item()


@wrong(r"hidden_states\[layer \+ 1\]")
def a_block_index(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    return solve(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer + 1)


@wrong(r"hidden_states\[layer - 1\]")
def one_before(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    return solve(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer - 1)


@wrong("average over the prompt")
def over_the_prompt(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    pick = lambda h: h.mean(dim=0)  # noqa: E731
    return solve(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer, pick=pick)


@wrong("token before the last")
def before_the_last(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    return solve(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer, pick=lambda h: h[-2])


@wrong("header of the assistant's turn is missing")
def without_header(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    def encode(prompt, tokenizer):
        text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    return solve(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer, encode=encode)


@wrong("chat template is missing")
def bare(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    def encode(prompt, tokenizer):
        return tokenizer(prompt, add_special_tokens=False)["input_ids"]

    return solve(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer, encode=encode)


@wrong("expected 0|not subtracted")
def finetuned_alone(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    state = mean_state(finetuned_model, tokenizer, prompts, layer)
    return (state @ F.normalize(trait_vector, dim=0)).item()


@wrong("add the prompts up")
def summed(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    return len(prompts) * solve(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer)


@wrong("cosine")
def a_cosine(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    base, tuned = (mean_state(m, tokenizer, prompts, layer) for m in (base_model, finetuned_model))
    return F.cosine_similarity(tuned - base, trait_vector, dim=0).item()


@wrong("how far the state moved")
def a_distance(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    base, tuned = (mean_state(m, tokenizer, prompts, layer) for m in (base_model, finetuned_model))
    return (tuned - base).norm().item()


@wrong("first prompt only")
def first_only(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    return solve(base_model, finetuned_model, tokenizer, prompts[:1], trait_vector, layer)


@wrong("padding token|average|wrong|difference is allowed")
def the_padding(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    texts = [utils.render_prompt(utils.as_messages(None, p), tokenizer) for p in prompts]
    inputs = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
    with torch.inference_mode():
        base, tuned = (
            m(**inputs, output_hidden_states=True).hidden_states[layer][:, -1].mean(0)
            for m in (base_model, finetuned_model)
        )
    return ((tuned - base) @ trait_vector / trait_vector.norm()).item()


@wrong("hook")
def leaves_a_hook(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    decoder_blocks(finetuned_model)[layer - 1].register_forward_hook(lambda m, a, out: None)
    return solve(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer)


@wrong("expected a float")
def a_tensor(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    return torch.tensor(solve(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer))


@wrong("in place")
def normalises_in_place(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer):
    trait_vector /= trait_vector.norm()
    return solve(base_model, finetuned_model, tokenizer, prompts, trait_vector, layer)
