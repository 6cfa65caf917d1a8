import numpy as np
import torch
from einops import einsum

from checks.bank import right, wrong
from checks.bank.section_1.test_extract_response_activations import (
    content_only,
    cut_after_the_content,
    encoded,
    half_precision_mean,
)


def chunks(n, size):
    return [slice(i, i + size) for i in range(0, n, size)]


@right
@torch.no_grad()
def left_padded_with_mask(model, tokenizer, system_prompts, questions, responses, layer, batch_size=4):
    """Pads on the left, so positions and spans are counted from the attention mask."""
    items = list(encoded(system_prompts, questions, responses, tokenizer))
    rows = []
    for part in chunks(len(items), batch_size):
        batch = items[part]
        width = max(len(ids) for ids, _ in batch)
        ids = torch.tensor([[0] * (width - len(i)) + i for i, _ in batch], device=model.device)
        mask = torch.tensor([[0] * (width - len(i)) + [1] * len(i) for i, _ in batch], device=model.device)
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        out = model(input_ids=ids, attention_mask=mask, position_ids=positions, output_hidden_states=True)
        for row, (i, spans) in zip(out.hidden_states[layer].float().cpu(), batch, strict=True):
            a, b = (x + width - len(i) for x in spans[0])
            rows.append(row[a:b].mean(0))
    return torch.stack(rows)


@right
def one_by_one(model, tokenizer, system_prompts, questions, responses, layer, batch_size=4):
    return content_only(model, tokenizer, system_prompts, questions, responses, layer)


@right
@torch.no_grad()
def right_padded_with_mask(model, tokenizer, system_prompts, questions, responses, layer, batch_size=4):
    """Pads on the right and averages with weights, in float64."""
    items = list(encoded(system_prompts, questions, responses, tokenizer))
    rows = []
    for part in chunks(len(items), batch_size):
        batch = items[part]
        width = max(len(ids) for ids, _ in batch)
        ids = torch.tensor([i + [0] * (width - len(i)) for i, _ in batch], device=model.device)
        mask = torch.tensor([[1] * len(i) + [0] * (width - len(i)) for i, _ in batch], device=model.device)
        hidden = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[layer]
        weights = torch.zeros(len(batch), width, dtype=torch.float64)
        for row, (_, spans) in zip(weights, batch, strict=True):
            row[slice(*spans[0])] = 1 / (spans[0][1] - spans[0][0])
        rows.append(torch.einsum("bs,bsd->bd", weights, hidden.double().cpu()).float())
    return torch.cat(rows)


@right
def one_by_one_and_cut(model, tokenizer, system_prompts, questions, responses, layer, batch_size=4):
    return cut_after_the_content(model, tokenizer, system_prompts, questions, responses, layer)


@wrong("average in bfloat16")
def means_in_half_precision(model, tokenizer, system_prompts, questions, responses, layer, batch_size=4):
    return half_precision_mean(model, tokenizer, system_prompts, questions, responses, layer)


@torch.no_grad()
def padded_by_the_tokenizer(model, tokenizer, items, layer, batch_size, drop_last=False):
    """As a learner would: decode, tokenise with padding, count from the left whatever the side."""
    rows = []
    for part in chunks(len(items), batch_size):
        batch = items[part]
        if drop_last and len(batch) < batch_size:
            break
        inputs = tokenizer.pad({"input_ids": [i for i, _ in batch]}, return_tensors="pt").to(model.device)
        hidden = model(**inputs, output_hidden_states=True).hidden_states[layer].float().cpu()
        rows += [row[spans[0][0] : spans[0][1]].mean(0) for row, (_, spans) in zip(hidden, batch, strict=True)]
    return torch.stack(rows)


@wrong("wrong values")
def padding_side_ignored(model, tokenizer, system_prompts, questions, responses, layer, batch_size=4):
    items = list(encoded(system_prompts, questions, responses, tokenizer))
    return padded_by_the_tokenizer(model, tokenizer, items, layer, batch_size)


@wrong("expected shape")
def last_batch_lost(model, tokenizer, system_prompts, questions, responses, layer, batch_size=4):
    found = content_only(model, tokenizer, system_prompts, questions, responses, layer)
    return found[: len(found) // batch_size * batch_size]


@wrong("wrong values")
def sorted_by_length_and_left_so(model, tokenizer, system_prompts, questions, responses, layer, batch_size=4):
    found = content_only(model, tokenizer, system_prompts, questions, responses, layer)
    return found[sorted(range(len(found)), key=lambda i: len(responses[i]))]


@wrong("wrong values")
@torch.no_grad()
def padding_in_the_mean(model, tokenizer, system_prompts, questions, responses, layer, batch_size=4):
    items = list(encoded(system_prompts, questions, responses, tokenizer))
    rows = []
    for part in chunks(len(items), batch_size):
        width = max(len(ids) for ids, _ in items[part])
        ids = torch.tensor([i + [0] * (width - len(i)) for i, _ in items[part]], device=model.device)
        hidden = model(ids, output_hidden_states=True).hidden_states[layer].float().cpu()
        rows += [row[spans[0][0] :].mean(0) for row, (_, spans) in zip(hidden, items[part], strict=True)]
    return torch.stack(rows)


@wrong("average over the prompt")
@torch.no_grad()
def prompt_in_the_mean(model, tokenizer, system_prompts, questions, responses, layer, batch_size=4):
    items = list(encoded(system_prompts, questions, responses, tokenizer))
    rows = [model(torch.tensor([i], device=model.device), output_hidden_states=True) for i, _ in items]
    return torch.stack([out.hidden_states[layer][0].float().mean(0).cpu() for out in rows])


def one_batch(batch, tokenizer, model, layer):
    """Hidden states (rows, tokens, d) of a batch of ids, padded on the right, and its mask."""
    padded = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(ids) for ids in batch], batch_first=True, padding_value=tokenizer.pad_token_id
    )
    lengths = torch.tensor([len(ids) for ids in batch])
    mask = (torch.arange(padded.shape[1])[None] < lengths[:, None]).long()
    with torch.inference_mode():
        out = model(padded.to(model.device), attention_mask=mask.to(model.device), output_hidden_states=True)
    return out.hidden_states[layer].float().cpu(), mask


def batched(model, tokenizer, systems, questions, responses, layer, batch_size, mean, order=lambda items: items):
    """Batches as they come; `mean(hidden, span, mask)` of each row."""
    items, rows = order(list(encoded(systems, questions, responses, tokenizer))), []
    for part in chunks(len(items), batch_size):
        batch = items[part]
        hidden, mask = one_batch([ids for ids, _ in batch], tokenizer, model, layer)
        rows += [mean(h, spans[0], m) for h, m, (_, spans) in zip(hidden, mask, batch, strict=True)]
    return torch.stack(rows)


@right
def weights_with_einops(model, tokenizer, system_prompts, questions, responses, layer, batch_size=4):
    def mean(hidden, span, mask):
        inside = torch.zeros(len(hidden))
        inside[slice(*span)] = 1
        return einsum(hidden, inside / inside.sum(), "t d, t -> d")

    return batched(model, tokenizer, system_prompts, questions, responses, layer, batch_size, mean)


@right
def longest_first_and_back(model, tokenizer, system_prompts, questions, responses, layer, batch_size=4):
    """Sorted by length, so that little is padded, and put back with numpy's argsort."""
    lengths = [len(ids) for ids, _ in encoded(system_prompts, questions, responses, tokenizer)]
    order = np.argsort(lengths, kind="stable")[::-1]
    found = batched(
        model, tokenizer, system_prompts, questions, responses, layer, batch_size,
        lambda hidden, span, mask: hidden[slice(*span)].mean(0), lambda items: [items[i] for i in order],
    )  # fmt: skip
    return found[torch.from_numpy(np.argsort(order))]


@right
def arena_style(model, tokenizer, system_prompts, questions, responses, layer, batch_size=4):
    """From each start up to the mask's end, a mask over the answer's tokens."""

    def mean(hidden, span, mask):
        response_mask = mask.clone()
        response_mask[: span[0]] = 0
        return (hidden * response_mask[:, None]).sum(dim=0) / response_mask.sum()

    return batched(model, tokenizer, system_prompts, questions, responses, layer, batch_size, mean)


def batched_but(words, mean, order=lambda items: items, after=lambda found, batch_size: found):
    """A wrong solution that differs in the mean, the order or what it returns."""

    def solution(model, tokenizer, system_prompts, questions, responses, layer, batch_size=4):
        found = batched(model, tokenizer, system_prompts, questions, responses, layer, batch_size, mean, order)
        return after(found, batch_size)

    solution.__module__ = __name__
    return wrong(words)(solution)


def over_span(hidden, span, mask):
    return hidden[slice(*span)].mean(0)


all_real_tokens = batched_but("average over the prompt", lambda h, span, m: (h * m[:, None]).sum(0) / m.sum())
divided_by_the_width = batched_but("wrong values", lambda h, span, m: h[slice(*span)].sum(0) / len(h))
summed = batched_but("instead of averaging", lambda h, span, m: h[slice(*span)].sum(0))
last_token = batched_but("last token only", lambda h, span, m: h[span[1] - 1])
reversed_rows = batched_but("wrong values", over_span, after=lambda found, size: found.flip(0))
mean_of_each_batch = batched_but(
    "expected shape", over_span, after=lambda found, size: torch.stack([part.mean(0) for part in found.split(size)])
)
last_row_twice = batched_but("wrong values", over_span, after=lambda found, size: torch.cat([found[:-1], found[-2:-1]]))


@wrong(r"layer \+ 1.*off by one")
def one_layer_up(model, tokenizer, system_prompts, questions, responses, layer, batch_size=4):
    return one_by_one(model, tokenizer, system_prompts, questions, responses, layer + 1, batch_size)


@wrong("wrong values")
def first_spans_for_all(model, tokenizer, system_prompts, questions, responses, layer, batch_size=4):
    """The first row's start for the whole batch."""
    (_, ((start, _), *_)), *_ = encoded(system_prompts, questions, responses, tokenizer)
    args = (model, tokenizer, system_prompts, questions, responses, layer, batch_size)
    return batched(*args, lambda hidden, span, mask: hidden[start : int(mask.sum())].mean(0))
