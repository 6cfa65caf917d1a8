import torch
import torch.nn.functional as F

import utils
from checks.bank import right, wrong
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
