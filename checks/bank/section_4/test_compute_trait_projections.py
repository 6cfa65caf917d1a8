import einops
import numpy as np
import torch
import torch.nn.functional as F

import utils
from checks.bank import right, wrong
from personalab.lm.models import decoder_blocks


@torch.no_grad()
def hidden(model, tokenizer, system, question, response, layer):
    """States of the whole exchange, and the answer's first token and the one after its last."""
    ids, ((start, end),) = utils.turn_spans(utils.as_messages(system, question, response), tokenizer)
    output = model(torch.tensor([ids], device=model.device), output_hidden_states=True)
    return output.hidden_states[layer][0].float().cpu(), start, end


def answer_mean(states, start, end):
    return states[start:end].mean(0)


def unit(vector):
    return F.normalize(vector.float().cpu(), dim=0)


def solve(
    model, tokenizer, system_prompts, questions, responses, trait_vector, layer, pool=answer_mean, project=None
):  # fmt: skip
    project = project or (lambda a, v: (a @ unit(v)).item())
    exchanges = zip(system_prompts, questions, responses, strict=True)
    return [project(pool(*hidden(model, tokenizer, *e, layer)), trait_vector) for e in exchanges]


@right
def one_at_a_time(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    return solve(model, tokenizer, system_prompts, questions, responses, trait_vector, layer)


@right
def with_the_engine(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    conversations = [utils.as_messages(*e) for e in zip(system_prompts, questions, responses, strict=True)]
    means = utils.mean_response_activations(model, tokenizer, conversations, blocks=[layer - 1])[:, 0]
    return (means @ trait_vector / trait_vector.norm()).tolist()


def extract_response_activations(model, tokenizer, system_prompts, questions, responses, layer):
    """As in ARENA 4.4: everything from the end of the prompt on, end marker included, in one list."""
    found = []
    for system, question, response in zip(system_prompts, questions, responses, strict=True):
        messages = utils.as_messages(system, question, response)
        prompt = utils.render_prompt(messages[:-1], tokenizer)
        ids = utils.turn_spans(messages, tokenizer).ids
        n_prompt = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        with torch.inference_mode():
            outputs = model(torch.tensor([ids], device=model.device), output_hidden_states=True)
        found.append(outputs.hidden_states[layer][0, n_prompt:].mean(dim=0, dtype=torch.float32).cpu())
    return torch.stack(found)


@right
def in_arena_style(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    activations = extract_response_activations(
        model=model,
        tokenizer=tokenizer,
        system_prompts=system_prompts,
        questions=questions,
        responses=responses,
        layer=layer,
    )
    trait_vector = trait_vector.float().cpu()
    trait_norm = trait_vector.norm()
    projections = []
    for i in range(activations.shape[0]):
        proj = (activations[i] @ trait_vector) / trait_norm
        projections.append(proj.item())
    return projections


@right
def with_a_hook(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    """Token by token: the mean of the projections is the projection of the mean."""
    found = []
    for exchange in zip(system_prompts, questions, responses, strict=True):
        ids, ((start, end),) = utils.turn_spans(utils.as_messages(*exchange), tokenizer)
        kept = []
        handle = decoder_blocks(model)[layer - 1].register_forward_hook(lambda m, a, o, kept=kept: kept.append(o))
        try:
            with torch.no_grad():
                model(torch.tensor([ids], device=model.device))
        finally:
            handle.remove()
        states = kept[0][0, start : end + 1].float().cpu()
        found.append(float((states @ unit(trait_vector)).mean()))
    return found


@right
@torch.no_grad()
def cut_after_the_content(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    """The sequence ends with the answer; in float64."""
    found = []
    for exchange in zip(system_prompts, questions, responses, strict=True):
        ids, ((start, end),) = utils.turn_spans(utils.as_messages(*exchange), tokenizer)
        states = model(torch.tensor([ids[:end]], device=model.device), output_hidden_states=True).hidden_states[layer]
        found.append(float(states[0, start:].double().mean(0).cpu() @ unit(trait_vector).double()))
    return found


@right
def with_qwen_in_mind(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    """A system role whatever the template, and tokenised as it comes: Qwen's tokenizer adds no BOS."""
    found = []
    for system, question, response in zip(system_prompts, questions, responses, strict=True):
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        messages.append({"role": "assistant", "content": response})
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        start = len(tokenizer(prompt).input_ids)
        inputs = tokenizer(text, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            states = model(**inputs, output_hidden_states=True).hidden_states[layer][0]
        found.append((states[start:].float().mean(0).cpu() @ unit(trait_vector)).item())
    return found


@right
def by_offsets(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    """Characters after the prompt, by the tokenizer's offsets; einops, and an array of numpy's."""
    found = np.zeros(len(responses))
    for i, (system, question, response) in enumerate(zip(system_prompts, questions, responses, strict=True)):
        prompt = utils.render_prompt(utils.as_messages(system, question), tokenizer)
        encoded = tokenizer(prompt + response.strip(), add_special_tokens=False, return_offsets_mapping=True)
        mine = torch.tensor([a >= len(prompt) for a, _ in encoded["offset_mapping"]])
        with torch.inference_mode():
            ids = torch.tensor([encoded["input_ids"]], device=model.device)
            states = model(ids, output_hidden_states=True).hidden_states[layer][0].float().cpu()
        mean = einops.reduce(states[mine], "s d -> d", "mean")
        found[i] = einops.einsum(mean, unit(trait_vector), "d, d ->")
    return found


@right
def padded_on_the_left(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    """All in one batch; a mask over tokens, counted from the row's end."""
    exchanges = [utils.as_messages(*e) for e in zip(system_prompts, questions, responses, strict=True)]
    spans = [utils.turn_spans(e, tokenizer) for e in exchanges]
    batch = tokenizer.pad({"input_ids": [ids for ids, _ in spans]}, padding_side="left", return_tensors="pt")
    with torch.no_grad():
        states = model(**batch.to(model.device), output_hidden_states=True).hidden_states[layer].float().cpu()
    width = states.shape[1]
    mask = torch.zeros(states.shape[:2])
    for row, (ids, ((start, end),)) in enumerate(spans):
        mask[row, width - len(ids) + start : width - len(ids) + end] = 1
    return ((states @ unit(trait_vector) * mask).sum(1) / mask.sum(1)).tolist()


def differing(words, **changes):
    """A wrong solution that differs in one step."""

    def solution(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
        return solve(model, tokenizer, system_prompts, questions, responses, trait_vector, layer, **changes)

    solution.__module__ = __name__
    return wrong(words)(solution)


not_divided = differing("do not divide by the norm", project=lambda a, v: (a @ v).item())
squared_norm = differing("squared norm", project=lambda a, v: (a @ v / (v @ v)).item())
cosine = differing("cosine", project=lambda a, v: F.cosine_similarity(a, v, dim=0).item())
flipped = differing("sign is flipped", project=lambda a, v: -(a @ unit(v)).item())
tensors = differing("expected a float, found Tensor", project=lambda a, v: a @ unit(v))
in_place = differing("changed in place", project=lambda a, v: (a @ v.div_(v.norm())).item())
prompt_too = differing("over the prompt as well", pool=lambda s, a, b: s.mean(0))
prompt_only = differing("over the prompt instead", pool=lambda s, a, b: s[:a].mean(0))
summed = differing("add the activations up", pool=lambda s, a, b: s[a:b].sum(0))
last_token = differing("last token only", pool=lambda s, a, b: s[b - 1])
last_prompt_token = differing("last prompt token", pool=lambda s, a, b: s[a - 1])
first_lost = differing("first token is lost|Compare", pool=lambda s, a, b: s[a + 1 :].mean(0))
header_included = differing("token of the header", pool=lambda s, a, b: s[a - 1 : b].mean(0))


root_of_the_width = differing("Compare", project=lambda a, v: (a @ v / len(v) ** 0.5).item())
never_negative = differing("cut off", project=lambda a, v: (a @ unit(v)).clamp(min=0).item())
mean_of_unit_states = differing("Compare", pool=lambda s, a, b: F.normalize(s[a:b], dim=1).mean(0))
medians = differing("Compare", pool=lambda s, a, b: s[a:b].median(0).values)
three_tokens = differing("Compare", pool=lambda s, a, b: s[a : min(a + 3, b)].mean(0))
over_the_whole_length = differing("Compare", pool=lambda s, a, b: s[a:b].sum(0) / len(s))
minus_the_prompt = differing("Compare", pool=lambda s, a, b: s[a:b].mean(0) - s[:a].mean(0))
highest_token = differing("Compare", pool=lambda s, a, b: s[a:b], project=lambda h, v: (h @ unit(v)).max().item())


@wrong("system prompt is left out")
def no_system_prompt(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    return solve(model, tokenizer, [""] * len(questions), questions, responses, trait_vector, layer)


@wrong("Compare")
def centred(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    found = solve(model, tokenizer, system_prompts, questions, responses, trait_vector, layer)
    return [value - sum(found) / len(found) for value in found]


@wrong("Compare|another example")
def the_first_system_prompt_for_all(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    first = [system_prompts[0]] * len(questions)
    return solve(model, tokenizer, first, questions, responses, trait_vector, layer)


@wrong(r"hidden_states\[layer \+ 1\]")
def output_of_block_layer(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    return solve(model, tokenizer, system_prompts, questions, responses, trait_vector, layer + 1)


@wrong(r"hidden_states\[layer - 1\]")
def one_too_low(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    return solve(model, tokenizer, system_prompts, questions, responses, trait_vector, layer - 1)


@wrong("expected a list")
def an_array(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    return torch.tensor(solve(model, tokenizer, system_prompts, questions, responses, trait_vector, layer))


@wrong("expected 5 values")
def one_number(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    found = solve(model, tokenizer, system_prompts, questions, responses, trait_vector, layer)
    return [sum(found) / len(found)]


@wrong("another example's value")
def longest_first(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    order = sorted(range(len(responses)), key=lambda i: -len(responses[i]))
    lists = [[each[i] for i in order] for each in (system_prompts, questions, responses)]
    return solve(model, tokenizer, *lists, trait_vector, layer)


@wrong("Compare with a hand calculation")
def padding_averaged(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    exchanges = list(zip(system_prompts, questions, responses, strict=True))
    longest = max(len(utils.turn_spans(utils.as_messages(*e), tokenizer).ids) for e in exchanges)
    found = []
    for exchange in exchanges:
        ids, ((start, _),) = utils.turn_spans(utils.as_messages(*exchange), tokenizer)
        ids = ids + [tokenizer.pad_token_id] * (longest - len(ids))
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0]
        found.append((states[start:].float().mean(0) @ unit(trait_vector)).item())
    return found


@wrong("bfloat16.*RuntimeError")
def dtype_forgotten(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    def project(a, v):
        return (a.to(model.dtype) @ v / v.norm()).item()

    return solve(model, tokenizer, system_prompts, questions, responses, trait_vector, layer, project=project)


@wrong("normal run.*left behind")
def hook_stays(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    decoder_blocks(model)[layer - 1].register_forward_hook(lambda m, a, o: None)
    return solve(model, tokenizer, system_prompts, questions, responses, trait_vector, layer)


@wrong("After an error.*left behind")
def hook_stays_after_an_error(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    handle = decoder_blocks(model)[layer - 1].register_forward_hook(lambda m, a, o: None)
    found = solve(model, tokenizer, system_prompts, questions, responses, trait_vector, layer)
    handle.remove()
    return found


@wrong("lists you were given were changed")
def strips_in_place(model, tokenizer, system_prompts, questions, responses, trait_vector, layer):
    found = solve(model, tokenizer, system_prompts, questions, responses, trait_vector, layer)
    responses[:] = [r.strip().upper() for r in responses]
    return found
