import einops
import numpy as np
import torch
import torch.nn.functional as F

import utils
from checks.bank import right, wrong
from personalab.lm.models import decoder_blocks


def encode(system, question, tokenizer):
    text = utils.render_prompt(utils.as_messages(system, question), tokenizer)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def last(states):
    return states[-1]


def unit(vector):
    return F.normalize(vector.float().cpu(), dim=0)


@torch.no_grad()
def solve(
    model, tokenizer, system_prompts, questions, trait_vector, layer, encode=encode, pool=last, project=None
):  # fmt: skip
    project = project or (lambda a, v: (a @ unit(v)).item())
    found = []
    for system, question in zip(system_prompts, questions, strict=True):
        ids = torch.tensor([encode(system, question, tokenizer)], device=model.device)
        states = model(ids, output_hidden_states=True).hidden_states[layer][0]
        found.append(project(pool(states).float().cpu(), trait_vector))
    return found


@right
def one_at_a_time(model, tokenizer, system_prompts, questions, trait_vector, layer):
    return solve(model, tokenizer, system_prompts, questions, trait_vector, layer)


@right
def batched_with_the_tokenizers_own_side(model, tokenizer, system_prompts, questions, trait_vector, layer):
    pairs = zip(system_prompts, questions, strict=True)
    texts = [utils.render_prompt(utils.as_messages(s, q), tokenizer) for s, q in pairs]
    inputs = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
    with torch.inference_mode():
        states = model(**inputs.to(model.device), output_hidden_states=True).hidden_states[layer].float().cpu()
    ends = inputs["attention_mask"].sum(1).cpu() - 1
    return (states[torch.arange(len(texts)), ends] @ unit(trait_vector)).tolist()


@right
def in_arena_style(model, tokenizer, system_prompts, questions, trait_vector, layer):
    """The template's own thinking switch left alone; the system prompt merged where there is no system role."""
    projections = []
    for system_prompt, question in zip(system_prompts, questions):  # noqa: B905
        messages = [{"role": "system", "content": system_prompt}, {"role": "user", "content": question}]
        if "gemma" in tokenizer.name_or_path:
            merged = f"{system_prompt}\n\n{question}" if system_prompt else question
            messages = [{"role": "user", "content": merged}]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).to(model.device)
        with torch.inference_mode():
            outputs = model(**inputs, output_hidden_states=True)
        activation = outputs.hidden_states[layer][0, -1, :].float().cpu()
        projections.append((activation @ trait_vector.float().cpu() / trait_vector.float().norm().cpu()).item())
    return projections


@right
def seen_while_generating(model, tokenizer, system_prompts, questions, trait_vector, layer):
    """A hook on a real generation that keeps the prefill's last position only."""
    found = []
    for system, question in zip(system_prompts, questions, strict=True):
        kept = []
        handle = decoder_blocks(model)[layer - 1].register_forward_hook(lambda m, a, o, kept=kept: kept.append(o))
        try:
            model.generate(torch.tensor([encode(system, question, tokenizer)]), max_new_tokens=2, do_sample=False)
        finally:
            handle.remove()
        found.append((kept[0][0, -1].float() @ unit(trait_vector)).item())
    return found


@right
def with_qwen_in_mind(model, tokenizer, system_prompts, questions, trait_vector, layer):
    """A system role whatever the template, and tokenised as it comes: Qwen's tokenizer adds no BOS."""

    def as_it_comes(system, question, tokenizer):
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return tokenizer(text)["input_ids"]

    return solve(model, tokenizer, system_prompts, questions, trait_vector, layer, encode=as_it_comes)


@right
def in_one_batch(model, tokenizer, system_prompts, questions, trait_vector, layer):
    """Padded on the left with its mask; einops, and an array of numpy's."""
    texts = [
        utils.render_prompt(utils.as_messages(s, q), tokenizer) for s, q in zip(system_prompts, questions, strict=True)
    ]
    inputs = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
    with torch.inference_mode():
        states = model(**inputs.to(model.device), output_hidden_states=True).hidden_states[layer][:, -1].float().cpu()
    return einops.einsum(states, unit(trait_vector), "n d, d -> n").numpy()


@right
def stopped_by_a_hook(model, tokenizer, system_prompts, questions, trait_vector, layer):
    """What the next block is given, by a pre-hook, in double precision."""
    found, direction = [], trait_vector.double().cpu()
    for system, question in zip(system_prompts, questions, strict=True):
        kept = []
        following = decoder_blocks(model)[layer]
        with following.register_forward_pre_hook(lambda m, args, kept=kept: kept.append(args[0])), torch.no_grad():
            model(torch.tensor([encode(system, question, tokenizer)], device=model.device))
        found.append(np.float64(kept[0][0, -1].double().cpu() @ direction / direction.norm()))
    return found


def differing(words, **changes):
    """A wrong solution that differs in one step."""

    def solution(model, tokenizer, system_prompts, questions, trait_vector, layer):
        return solve(model, tokenizer, system_prompts, questions, trait_vector, layer, **changes)

    solution.__module__ = __name__
    return wrong(words)(solution)


def rendered(text, tokenizer):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def without_header(system, question, tokenizer):
    merged = [{"role": "user", "content": f"{system}\n\n{question}" if system else question}]
    messages = merged if "gemma2" in tokenizer.name_or_path else utils.as_messages(system, question)
    return rendered(tokenizer.apply_chat_template(messages, tokenize=False), tokenizer)


def with_an_empty_answer(system, question, tokenizer):
    return rendered(utils.render_prompt(utils.as_messages(system, question), tokenizer), tokenizer) + rendered(
        f"{tokenizer.eos_token}\n", tokenizer
    )


def with_two_bos(system, question, tokenizer):
    """A BOS of its own before the template's."""
    own = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    return own + encode(system, question, tokenizer)


def whole_exchange(system, question, tokenizer):
    return utils.turn_spans(utils.as_messages(system, question, "The moon."), tokenizer).ids


generation_prompt_missing = differing("add_generation_prompt=True", encode=without_header)
empty_answer = differing("Compare|token of the answer", encode=with_an_empty_answer)
answer_leaks_in = differing("Compare|token of the answer", encode=whole_exchange)
double_bos = differing("BOS token is there twice", encode=with_two_bos)
no_system_prompt = differing("system prompt is left out", encode=lambda s, q, tok: encode("", q, tok))
no_template = differing("Compare", encode=lambda s, q, tok: rendered(q, tok))


def after_a_cue(system, question, tokenizer):
    return encode(system, question, tokenizer) + rendered("The answer", tokenizer)


def header_twice(system, question, tokenizer):
    return encode(system, question, tokenizer) + encode(system, question, tokenizer)[-3:]


answer_begun = differing("Compare|token of the answer", encode=after_a_cue)
header_again = differing("Compare|token of the answer", encode=header_twice)
in_the_users_turn = differing("Compare|system prompt is left out", encode=lambda s, q, tok: encode("", f"{q} {s}", tok))
last_two_tokens = differing("Compare", pool=lambda s: s[-2:].mean(0))
first_token = differing("Compare", pool=lambda s: s[0])
unit_state = differing("cosine", pool=lambda s: F.normalize(s[-1].float(), dim=0))
root_of_the_width = differing("Compare", project=lambda a, v: (a @ v / len(v) ** 0.5).item())
rounded = differing("Compare|difference is allowed", project=lambda a, v: float(round((a @ unit(v)).item())))


@wrong("Compare")
def centred(model, tokenizer, system_prompts, questions, trait_vector, layer):
    found = solve(model, tokenizer, system_prompts, questions, trait_vector, layer)
    return [value - sum(found) / len(found) for value in found]


@wrong("difference is allowed")
def padding_seen(model, tokenizer, system_prompts, questions, trait_vector, layer):
    """Padded on the left, without the mask."""
    texts = [
        utils.render_prompt(utils.as_messages(s, q), tokenizer) for s, q in zip(system_prompts, questions, strict=True)
    ]
    inputs = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
    with torch.no_grad():
        states = model(inputs["input_ids"], output_hidden_states=True).hidden_states[layer].float()
    return (states[:, -1] @ unit(trait_vector)).tolist()


mean_of_the_prompt = differing("average over the prompt", pool=lambda s: s.mean(0))
token_before = differing("token before the last", pool=lambda s: s[-2])
not_divided = differing("do not divide by the norm", project=lambda a, v: (a @ v).item())
squared_norm = differing("squared norm", project=lambda a, v: (a @ v / v.norm() ** 2).item())
cosine = differing("cosine", project=lambda a, v: F.cosine_similarity(a, v, dim=0).item())
flipped = differing("sign is flipped", project=lambda a, v: -(a @ unit(v)).item())
tensors = differing("expected a float, found Tensor", project=lambda a, v: a @ unit(v))
in_place = differing("changed in place", project=lambda a, v: (a @ v.div_(v.norm())).item())
dtype_kept = differing("found RuntimeError", project=lambda a, v: (a.bfloat16() @ v).item())


@wrong("token of the answer")
def after_the_answer(model, tokenizer, system_prompts, questions, trait_vector, layer):
    """Reads the last pass of a generation instead of the first."""
    found = []
    for system, question in zip(system_prompts, questions, strict=True):
        ids = torch.tensor([encode(system, question, tokenizer)])
        output = model.generate(
            ids, max_new_tokens=2, do_sample=False, output_hidden_states=True, return_dict_in_generate=True
        )
        found.append((output.hidden_states[-1][layer][0, -1].float() @ unit(trait_vector)).item())
    return found


@wrong("padding token")
def last_index_with_padding(model, tokenizer, system_prompts, questions, trait_vector, layer):
    pairs = zip(system_prompts, questions, strict=True)
    texts = [utils.render_prompt(utils.as_messages(s, q), tokenizer) for s, q in pairs]
    inputs = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states[layer].float()
    return (states[:, -1] @ unit(trait_vector)).tolist()


@wrong(r"hidden_states\[layer \+ 1\]")
def output_of_block_layer(model, tokenizer, system_prompts, questions, trait_vector, layer):
    return solve(model, tokenizer, system_prompts, questions, trait_vector, layer + 1)


@wrong(r"hidden_states\[layer - 1\]")
def one_too_low(model, tokenizer, system_prompts, questions, trait_vector, layer):
    return solve(model, tokenizer, system_prompts, questions, trait_vector, layer - 1)


@wrong("expected a list")
def an_array(model, tokenizer, system_prompts, questions, trait_vector, layer):
    return torch.tensor(solve(model, tokenizer, system_prompts, questions, trait_vector, layer))


@wrong("expected 5 values")
def first_only(model, tokenizer, system_prompts, questions, trait_vector, layer):
    return solve(model, tokenizer, system_prompts[:1], questions[:1], trait_vector, layer)


@wrong("another example's value")
def sorted_by_length(model, tokenizer, system_prompts, questions, trait_vector, layer):
    order = sorted(range(len(questions)), key=lambda i: (len(system_prompts[i]), len(questions[i])))
    lists = [[each[i] for i in order] for each in (system_prompts, questions)]
    return solve(model, tokenizer, *lists, trait_vector, layer)


@wrong("normal run.*left behind")
def hook_stays(model, tokenizer, system_prompts, questions, trait_vector, layer):
    decoder_blocks(model)[layer - 1].register_forward_hook(lambda m, a, o: None)
    return solve(model, tokenizer, system_prompts, questions, trait_vector, layer)


@wrong("After an error.*left behind")
def hook_stays_after_an_error(model, tokenizer, system_prompts, questions, trait_vector, layer):
    handle = decoder_blocks(model)[layer - 1].register_forward_hook(lambda m, a, o: None)
    found = solve(model, tokenizer, system_prompts, questions, trait_vector, layer)
    handle.remove()
    return found
