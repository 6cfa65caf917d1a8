import numpy as np
import torch
from einops import reduce

from checks.bank import right, wrong
from graders.harness import oracles
from personalab.lm.chat import render, render_prompt


def encoded(systems, questions, responses, tokenizer):
    for triple in zip(systems, questions, responses, strict=True):
        yield oracles.spans(oracles.messages(*triple), tokenizer)


def means(model, tokenizer, systems, questions, responses, layer, mean):
    rows = []
    for ids, accepted in encoded(systems, questions, responses, tokenizer):
        rows.append(mean(oracles.hidden(model, ids, layer), *accepted[0]))
    return torch.stack(rows)


@right
def content_only(model, tokenizer, system_prompts, questions, responses, layer):
    return means(model, tokenizer, system_prompts, questions, responses, layer, lambda h, a, b: h[a:b].float().mean(0))


@right
def end_marker_included(model, tokenizer, system_prompts, questions, responses, layer):
    return means(
        model, tokenizer, system_prompts, questions, responses, layer, lambda h, a, b: h[a : b + 1].float().mean(0)
    )


@right
def to_the_end_of_the_text(model, tokenizer, system_prompts, questions, responses, layer):
    return means(model, tokenizer, system_prompts, questions, responses, layer, lambda h, a, b: h[a:].float().mean(0))


@right
def with_a_hook(model, tokenizer, system_prompts, questions, responses, layer):
    """Reads the output of block `layer - 1`, by an ordinary forward hook, in float64."""
    if layer == 0:
        return content_only(model, tokenizer, system_prompts, questions, responses, layer)
    from personalab.lm.models import decoder_blocks

    rows, kept = [], []
    hook = decoder_blocks(model)[layer - 1].register_forward_hook(
        lambda _m, _a, out: kept.append(out[0] if isinstance(out, tuple) else out)
    )
    try:
        for ids, accepted in encoded(system_prompts, questions, responses, tokenizer):
            with torch.no_grad():
                model(torch.tensor([ids], device=model.device))
            a, b = accepted[0]
            rows.append(kept.pop()[0, a:b].double().mean(0).float().cpu())
    finally:
        hook.remove()
    return torch.stack(rows)


@right
@torch.no_grad()
def cut_after_the_content(model, tokenizer, system_prompts, questions, responses, layer):
    """One row at a time, the sequence ending with the answer: other sums than a whole row's in half precision."""
    if layer == 0:
        return content_only(model, tokenizer, system_prompts, questions, responses, layer)
    from personalab.lm.models import decoder_blocks

    rows, kept = [], []
    with decoder_blocks(model)[layer - 1].register_forward_hook(lambda _m, _a, out: kept.append(out)):
        for ids, accepted in encoded(system_prompts, questions, responses, tokenizer):
            a, b = accepted[0]
            model(torch.tensor([ids[:b]], device=model.device))
            rows.append(kept.pop()[0, a:].float().mean(0).cpu())
    return torch.stack(rows)


@wrong("average over the prompt as well")
def prompt_too(model, tokenizer, system_prompts, questions, responses, layer):
    return means(model, tokenizer, system_prompts, questions, responses, layer, lambda h, a, b: h.float().mean(0))


@wrong("prompt instead of the answer")
def prompt_instead(model, tokenizer, system_prompts, questions, responses, layer):
    return means(model, tokenizer, system_prompts, questions, responses, layer, lambda h, a, b: h[:a].float().mean(0))


@wrong("instead of averaging")
def summed(model, tokenizer, system_prompts, questions, responses, layer):
    return means(model, tokenizer, system_prompts, questions, responses, layer, lambda h, a, b: h[a:b].float().sum(0))


@wrong(r"layer \+ 1.*off by one")
def one_layer_up(model, tokenizer, system_prompts, questions, responses, layer):
    return content_only(model, tokenizer, system_prompts, questions, responses, layer + 1)


@wrong(r"layer - 1.*off by one")
def one_layer_down(model, tokenizer, system_prompts, questions, responses, layer):
    return content_only(model, tokenizer, system_prompts, questions, responses, max(layer - 1, 0))


@wrong("last token only")
def last_token(model, tokenizer, system_prompts, questions, responses, layer):
    return means(model, tokenizer, system_prompts, questions, responses, layer, lambda h, a, b: h[b - 1].float())


@wrong("one too high")
def first_token_lost(model, tokenizer, system_prompts, questions, responses, layer):
    return means(
        model, tokenizer, system_prompts, questions, responses, layer, lambda h, a, b: h[a + 1 : b].float().mean(0)
    )


@wrong("one too low")
def header_token_included(model, tokenizer, system_prompts, questions, responses, layer):
    return means(
        model, tokenizer, system_prompts, questions, responses, layer, lambda h, a, b: h[a - 1 : b].float().mean(0)
    )


@wrong("average in bfloat16")
def half_precision_mean(model, tokenizer, system_prompts, questions, responses, layer):
    return means(model, tokenizer, system_prompts, questions, responses, layer, lambda h, a, b: h[a:b].mean(0).float())


@wrong("wrong values")
def running_sum_in_half_precision(model, tokenizer, system_prompts, questions, responses, layer):
    """Adds up in the model's dtype and divides in float32, so that the means are no numbers of that dtype."""

    def mean(states, a, b):
        total = torch.zeros_like(states[a])
        for state in states[a:b]:
            total += state
        return total.float() / (b - a)

    return means(model, tokenizer, system_prompts, questions, responses, layer, mean)


@wrong("wrong values")
@torch.no_grad()
def padding_in_the_mean(model, tokenizer, system_prompts, questions, responses, layer):
    """One padded batch, averaged from each start to the padded end."""
    items = list(encoded(system_prompts, questions, responses, tokenizer))
    width = max(len(ids) for ids, _ in items)
    batch = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in items])
    hidden = model(batch.to(model.device), output_hidden_states=True).hidden_states[layer].float().cpu()
    return torch.stack([row[spans[0][0] :].mean(0) for row, (_, spans) in zip(hidden, items, strict=True)])


@wrong("different values")
def centred_over_the_batch(model, tokenizer, system_prompts, questions, responses, layer):
    """Right for the grader's batches only if nobody asks again for one row: depends on its neighbours."""
    found = content_only(model, tokenizer, system_prompts, questions, responses, layer)
    return found if len(found) != 1 or model.dtype != torch.float32 else found * 1.01


@wrong("expected shape")
def keeps_a_dimension(model, tokenizer, system_prompts, questions, responses, layer):
    return content_only(model, tokenizer, system_prompts, questions, responses, layer)[:, None]


@wrong("carries gradients")
def with_gradients(model, tokenizer, system_prompts, questions, responses, layer):
    return content_only(model, tokenizer, system_prompts, questions, responses, layer).clone().requires_grad_()


def rendered(system, question, response, tokenizer):
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": question}, {"role": "assistant", "content": response}]
    return messages


@right
def by_offsets_with_einops(model, tokenizer, system_prompts, questions, responses, layer):
    """Tokens by their places in the text."""
    rows = []
    for system, question, response in zip(system_prompts, questions, responses, strict=True):
        text = render(rendered(system, question, response, tokenizer), tokenizer)
        first = text.rindex(response.strip())
        batch = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, return_tensors="pt")
        ends = batch.pop("offset_mapping")[0][:, 1]
        with torch.no_grad():
            states = model(**batch.to(model.device), output_hidden_states=True).hidden_states[layer]
        inside = (ends > first) & (ends <= first + len(response.strip()))
        rows.append(reduce(states[0, inside.to(states.device)].float().cpu(), "tokens d -> d", "mean"))
    return torch.stack(rows)


@right
def with_numpy(model, tokenizer, system_prompts, questions, responses, layer):
    found = np.zeros((len(questions), model.config.hidden_size))
    for i, (ids, accepted) in enumerate(encoded(system_prompts, questions, responses, tokenizer)):
        a, b = accepted[0]
        found[i] = oracles.hidden(model, ids, layer).double().numpy()[a:b].mean(axis=0)
    return torch.from_numpy(found).float()


def in_the_chapters_way(model, tokenizer, systems, questions, responses, layer, **encoding):
    """One by one; the prompt's length from the template, the text tokenised whole."""
    rows = []
    for triple in zip(systems, questions, responses, strict=True):
        messages = rendered(*triple, tokenizer)
        full, before = render(messages, tokenizer), render_prompt(messages[:-1], tokenizer)
        tokens = tokenizer(full, return_tensors="pt", **encoding).to(model.device)
        start = tokenizer(before, return_tensors="pt", **encoding)["input_ids"].shape[1]
        with torch.inference_mode():
            outputs = model(**tokens, output_hidden_states=True)
        rows.append(outputs.hidden_states[layer][0, start:].float().mean(dim=0).cpu())
    return torch.stack(rows)


@right
def arena_style(model, tokenizer, system_prompts, questions, responses, layer):
    args = (model, tokenizer, system_prompts, questions, responses, layer)
    return in_the_chapters_way(*args, add_special_tokens=False)


@wrong("BOS token is there twice")
def arena_style_with_the_tokenizers_own_bos(model, tokenizer, system_prompts, questions, responses, layer):
    return in_the_chapters_way(model, tokenizer, system_prompts, questions, responses, layer)


@wrong("system prompt is left out")
def system_prompt_dropped(model, tokenizer, system_prompts, questions, responses, layer):
    return content_only(model, tokenizer, [""] * len(questions), questions, responses, layer)


@wrong("wrong values")
def the_answer_alone(model, tokenizer, system_prompts, questions, responses, layer):
    """Without its conversation."""
    rows = []
    for response in responses:
        ids = tokenizer(response.strip(), add_special_tokens=False)["input_ids"]
        rows.append(oracles.hidden(model, ids, layer).float().mean(0))
    return torch.stack(rows)


@wrong("wrong values")
def the_largest_entry(model, tokenizer, system_prompts, questions, responses, layer):
    return means(model, tokenizer, system_prompts, questions, responses, layer, lambda h, a, b: h[a:b].float().amax(0))


@wrong("wrong values")
def unit_norm(model, tokenizer, system_prompts, questions, responses, layer):
    found = content_only(model, tokenizer, system_prompts, questions, responses, layer)
    return found / found.norm(dim=1, keepdim=True)


@wrong("average over the prompt as well|wrong values")
def divided_by_all_tokens(model, tokenizer, system_prompts, questions, responses, layer):
    return means(
        model, tokenizer, system_prompts, questions, responses, layer, lambda h, a, b: h[a:b].float().sum(0) / len(h)
    )


@wrong("expected shape")
def a_mean_over_the_examples(model, tokenizer, system_prompts, questions, responses, layer):
    return content_only(model, tokenizer, system_prompts, questions, responses, layer).mean(0)


@wrong("you changed|lists you were given were changed")
def strips_in_place(model, tokenizer, system_prompts, questions, responses, layer):
    responses[:] = [r.strip() + "." for r in responses]
    return content_only(model, tokenizer, system_prompts, questions, [r[:-1] for r in responses], layer)
