import numpy as np
import torch
import torch.nn.functional as F

import utils
from checks.bank import right, wrong
from personalab.lm.chat import render, render_prompt
from personalab.lm.models import decoder_blocks


@torch.no_grad()
def means(model, tokenizer, messages, layer, more=0, cleanup=lambda h: h.remove()):
    ids, spans = utils.turn_spans(messages, tokenizer)
    kept = []
    handle = decoder_blocks(model)[layer].register_forward_hook(
        lambda m, a, output: kept.append(output[0] if isinstance(output, tuple) else output)
    )
    try:
        model(torch.tensor([ids], device=model.device))
    finally:
        cleanup(handle)
    return [kept[0][0, a : b + more].float().cpu().mean(0) for a, b in spans]


def unit(direction):
    return F.normalize(direction.float(), dim=0)


@right
def one_pass(model, tokenizer, messages, direction, layer):
    return [(m @ unit(direction)).item() for m in means(model, tokenizer, messages, layer)]


@right
def end_marker_included(model, tokenizer, messages, direction, layer):
    return (torch.stack(means(model, tokenizer, messages, layer, more=1)) @ unit(direction)).tolist()


@right
def a_pass_a_turn(model, tokenizer, messages, direction, layer):
    """Slower, and just as right wherever a template writes earlier turns as it wrote them when they were last."""
    if "think" in tokenizer.chat_template:
        return one_pass(model, tokenizer, messages, direction, layer)
    ends = [i + 1 for i, m in enumerate(messages) if m["role"] == "assistant"]
    return [(means(model, tokenizer, messages[:e], layer)[-1] @ direction / direction.norm()).item() for e in ends]


@wrong("not normalised")
def not_normalised(model, tokenizer, messages, direction, layer):
    return [(m @ direction).item() for m in means(model, tokenizer, messages, layer)]


@wrong("squared norm")
def squared(model, tokenizer, messages, direction, layer):
    return [(m @ direction / (direction @ direction)).item() for m in means(model, tokenizer, messages, layer)]


@wrong("cosine")
def cosine(model, tokenizer, messages, direction, layer):
    return [F.cosine_similarity(m, direction, dim=0).item() for m in means(model, tokenizer, messages, layer)]


@wrong("sign is flipped")
def flipped(model, tokenizer, messages, direction, layer):
    return one_pass(model, tokenizer, messages, -direction, layer)


@wrong(r"hidden_states\[layer \+ 1\]")
def hidden_states_index(model, tokenizer, messages, direction, layer):
    ids, spans = utils.turn_spans(messages, tokenizer)
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0]
    return [(states[a:b].float().mean(0) @ unit(direction)).item() for a, b in spans]


@wrong("off by one")
def block_too_high(model, tokenizer, messages, direction, layer):
    return one_pass(model, tokenizer, messages, direction, layer + 1)


@wrong("one an assistant turn")
def last_turn_only(model, tokenizer, messages, direction, layer):
    return one_pass(model, tokenizer, messages, direction, layer)[-1:]


@wrong("Compare with a hand calculation")
def centred(model, tokenizer, messages, direction, layer):
    found = means(model, tokenizer, messages, layer)
    centre = torch.stack([*found, torch.ones(32)]).mean(0)
    return [((m - centre) @ unit(direction)).item() for m in found]


@wrong("normal run.*left behind")
def hook_stays(model, tokenizer, messages, direction, layer):
    return [(m @ unit(direction)).item() for m in means(model, tokenizer, messages, layer, cleanup=lambda h: None)]


@wrong("After an error.*left behind")
def hook_stays_after_an_error(model, tokenizer, messages, direction, layer):
    handles = []
    found = means(model, tokenizer, messages, layer, cleanup=handles.append)
    handles[0].remove()
    return [(m @ unit(direction)).item() for m in found]


@wrong("expected a float")
def tensors(model, tokenizer, messages, direction, layer):
    return [m @ unit(direction) for m in means(model, tokenizer, messages, layer)]


@wrong("expected a list")
def array(model, tokenizer, messages, direction, layer):
    return torch.tensor(one_pass(model, tokenizer, messages, direction, layer))


@wrong("changed in place")
def in_place(model, tokenizer, messages, direction, layer):
    found = one_pass(model, tokenizer, messages, direction, layer)
    direction /= direction.norm()
    return found


@right
def numbers_of_numpy(model, tokenizer, messages, direction, layer):
    found = torch.stack(means(model, tokenizer, messages, layer)).double().numpy()
    return found @ (direction.double() / direction.double().norm()).numpy()


@right
def by_offsets(model, tokenizer, messages, direction, layer):
    """Spans by the answers' places in the text, searched in turn."""
    text, cursor, spans = render(messages, tokenizer), 0, []
    batch = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ends = np.array(batch["offset_mapping"])[:, 1]
    for message in messages:
        start = text.index(message["content"], cursor)
        cursor = start + len(message["content"])
        if message["role"] == "assistant":
            spans.append(np.flatnonzero((ends > start) & (ends <= cursor)))
    kept = []
    with (
        decoder_blocks(model)[layer].register_forward_hook(
            lambda m, a, output: kept.append(output[0] if isinstance(output, tuple) else output)
        ),
        torch.no_grad(),
    ):
        model(torch.tensor([batch["input_ids"]], device=model.device))
    return [(kept[0][0, inside].float().cpu().mean(0) @ unit(direction)).item() for inside in spans]


def by_prefixes(model, tokenizer, messages, direction, layer):
    """One pass; each turn's start and end from renderings of the conversation's beginning."""
    full = tokenizer(render(messages, tokenizer), add_special_tokens=False)["input_ids"]
    kept = []
    with (
        decoder_blocks(model)[layer].register_forward_hook(
            lambda m, a, output: kept.append(output[0] if isinstance(output, tuple) else output)
        ),
        torch.no_grad(),
    ):
        model(torch.tensor([full], device=model.device))
    found = []
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            texts = render_prompt(messages[:i], tokenizer), render(messages[: i + 1], tokenizer)
            start, end = (len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
            found.append((kept[0][0, start:end].float().cpu().mean(0) @ unit(direction)).item())
    return found


@wrong("qwen3.*empty think block")
def arena_style(model, tokenizer, messages, direction, layer):
    """The chapter's way to find turns. The text hands out `turn_spans`, right for any template."""
    return by_prefixes(model, tokenizer, messages, direction, layer)


@right
def arena_style_and_spans_by_the_course(model, tokenizer, messages, direction, layer):
    if "think" in tokenizer.chat_template:
        return one_pass(model, tokenizer, messages, direction, layer)
    return by_prefixes(model, tokenizer, messages, direction, layer)


def projected(words, change):
    """A wrong solution: `change(turn means, unit direction)`."""

    def solution(model, tokenizer, messages, direction, layer):
        return change(means(model, tokenizer, messages, layer), unit(direction))

    solution.__module__ = __name__
    return wrong(words)(solution)


unit_means = projected("cosine", lambda found, u: [(F.normalize(m, dim=0) @ u).item() for m in found])
sizes = projected(
    "Compare with a hand calculation|sign is flipped", lambda found, u: [abs((m @ u).item()) for m in found]
)
differences = projected(
    "Compare with a hand calculation",
    lambda found, u: [((m - n) @ u).item() for m, n in zip(found, [0 * found[0], *found], strict=False)],
)
running_mean = projected(
    "Compare with a hand calculation",
    lambda found, u: [(torch.stack(found[: i + 1]).mean(0) @ u).item() for i in range(len(found))],
)
latest_first = projected("keep the order|another example", lambda found, u: [(m @ u).item() for m in found[::-1]])
vectors = projected("expected a float", lambda found, u: [(m @ u) * u for m in found])
one_mean = projected("entries, one an assistant turn", lambda found, u: [(torch.stack(found).mean(0) @ u).item()])


@wrong("Compare with a hand calculation|wrong|another turn|prompt")
def users_turns(model, tokenizer, messages, direction, layer):
    """Reads what the user says."""
    ids, spans = utils.turn_spans(messages, tokenizer)
    kept = []
    with (
        decoder_blocks(model)[layer].register_forward_hook(
            lambda m, a, output: kept.append(output[0] if isinstance(output, tuple) else output)
        ),
        torch.no_grad(),
    ):
        model(torch.tensor([ids], device=model.device))
    return [(kept[0][0, max(a - 9, 0) : a - 3].float().mean(0) @ unit(direction)).item() for a, _ in spans]
