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
