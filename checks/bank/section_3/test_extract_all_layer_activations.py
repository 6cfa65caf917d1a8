# Over 300 lines on purpose: one file an exercise, and its table of solutions is the content.
import torch
from einops import rearrange, reduce

import utils
from checks.bank import right, wrong
from graders.harness import oracles
from personalab.lm.models import decoder_blocks


def encoded(systems, questions, responses, tokenizer):
    for triple in zip(systems, questions, responses, strict=True):
        yield oracles.spans(oracles.messages(*triple), tokenizer)


@torch.no_grad()
def solve(
    model, tokenizer, systems, questions, responses,
    layers=lambda states: states[1:],
    mean=lambda h, a, b: h[:, a:b].float().mean(1),
):  # fmt: skip
    """hidden_states of one conversation at a time."""
    rows = []
    for ids, spans in encoded(systems, questions, responses, tokenizer):
        a, b = spans[0]
        ids = torch.tensor([ids], device=model.device)
        states = torch.stack(layers(model(ids, output_hidden_states=True).hidden_states))[:, 0]
        rows.append(mean(states, a, b).cpu())
    return torch.stack(rows)


@right
def with_the_course_library(model, tokenizer, system_prompts, questions, responses):
    conversations = [utils.as_messages(*e) for e in zip(system_prompts, questions, responses, strict=True)]
    return utils.mean_response_activations(model, tokenizer, conversations)


@wrong("An empty answer: expected an error.*The end marker is none")
def arena_style(model, tokenizer, system_prompts, questions, responses):
    """To the end of the text, so that the end marker of an empty answer counts as one."""
    return one_layer_at_a_time(model, tokenizer, system_prompts, questions, responses, empty=True)


@right
def one_layer_at_a_time(model, tokenizer, system_prompts, questions, responses, empty=False):
    """A list of layers for each example, to the end of the text; an eye on empty answers."""
    found = []
    if "" in responses and not empty:
        raise ValueError("an answer is empty")
    for system, question, response in zip(system_prompts, questions, responses, strict=True):
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": question},
            {"role": "assistant", "content": response},
        ]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        prompt = tokenizer.apply_chat_template(
            messages[:-1], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        start = len(tokenizer(prompt).input_ids)
        tokens = tokenizer(text, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            output = model(**tokens, output_hidden_states=True)
        layers = []
        for layer in range(1, model.config.num_hidden_layers + 1):
            layers.append(output.hidden_states[layer][0, start:].float().mean(dim=0).cpu())
        found.append(torch.stack(layers))
    return torch.stack(found)


@right
def end_marker_included(model, tokenizer, system_prompts, questions, responses):
    return solve(
        model, tokenizer, system_prompts, questions, responses, mean=lambda h, a, b: h[:, a : b + 1].float().mean(1)
    )


@right
@torch.no_grad()
def cut_after_the_content(model, tokenizer, system_prompts, questions, responses):
    """The sequence ends with the answer: other sums than a whole row's in half precision."""
    rows = []
    for ids, spans in encoded(system_prompts, questions, responses, tokenizer):
        a, b = spans[0]
        states = model(torch.tensor([ids[:b]], device=model.device), output_hidden_states=True).hidden_states[1:]
        rows.append(torch.stack([h[0, a:].float().mean(0).cpu() for h in states]))
    return torch.stack(rows)


@right
def raw_last_block(model, tokenizer, system_prompts, questions, responses):
    """With hooks on every block, in float64."""
    rows = []
    for ids, spans in encoded(system_prompts, questions, responses, tokenizer):
        kept = []
        handles = [
            block.register_forward_hook(lambda _m, _a, out, kept=kept: kept.append(out))
            for block in decoder_blocks(model)
        ]
        try:
            with torch.no_grad():
                model(torch.tensor([ids], device=model.device))
        finally:
            for handle in handles:
                handle.remove()
        a, b = spans[0]
        rows.append(torch.stack([h[0, a:b].double().mean(0).cpu() for h in kept]))
    return torch.stack(rows)


@wrong("embedding layer is included")
def embedding_included(model, tokenizer, system_prompts, questions, responses):
    return solve(model, tokenizer, system_prompts, questions, responses, layers=lambda s: s)


@wrong(r"layers are shifted.*hidden_states\[k \+ 1\]")
def last_block_dropped(model, tokenizer, system_prompts, questions, responses):
    return solve(model, tokenizer, system_prompts, questions, responses, layers=lambda s: s[:-1])


@wrong("A block is missing")
def neither_embedding_nor_last(model, tokenizer, system_prompts, questions, responses):
    return solve(model, tokenizer, system_prompts, questions, responses, layers=lambda s: s[1:-1])


@wrong(r"holds block k \+ 1")
def shifted_up(model, tokenizer, system_prompts, questions, responses):
    return solve(model, tokenizer, system_prompts, questions, responses, layers=lambda s: (*s[2:], s[-1]))


@wrong("reverse order")
def reversed_layers(model, tokenizer, system_prompts, questions, responses):
    return solve(model, tokenizer, system_prompts, questions, responses, layers=lambda s: s[:0:-1])


@wrong("first two dimensions are swapped")
def layers_first(model, tokenizer, system_prompts, questions, responses):
    return solve(model, tokenizer, system_prompts, questions, responses).transpose(0, 1)


@wrong("one row for each example")
def averaged_over_examples(model, tokenizer, system_prompts, questions, responses):
    return solve(model, tokenizer, system_prompts, questions, responses).mean(0)


@wrong("expected a torch.Tensor")
def a_list(model, tokenizer, system_prompts, questions, responses):
    return list(solve(model, tokenizer, system_prompts, questions, responses))


@wrong("prompt as well")
def prompt_too(model, tokenizer, system_prompts, questions, responses):
    return solve(model, tokenizer, system_prompts, questions, responses, mean=lambda h, a, b: h.float().mean(1))


@wrong("prompt instead of the answer")
def prompt_instead(model, tokenizer, system_prompts, questions, responses):
    return solve(model, tokenizer, system_prompts, questions, responses, mean=lambda h, a, b: h[:, :a].float().mean(1))


@wrong("instead of averaging")
def summed(model, tokenizer, system_prompts, questions, responses):
    return solve(model, tokenizer, system_prompts, questions, responses, mean=lambda h, a, b: h[:, a:b].float().sum(1))


@wrong("last token only")
def last_token(model, tokenizer, system_prompts, questions, responses):
    return solve(model, tokenizer, system_prompts, questions, responses, mean=lambda h, a, b: h[:, b - 1].float())


@wrong("one too high")
def first_token_lost(model, tokenizer, system_prompts, questions, responses):
    return solve(
        model, tokenizer, system_prompts, questions, responses, mean=lambda h, a, b: h[:, a + 1 : b].float().mean(1)
    )


@wrong("one too low")
def header_token_included(model, tokenizer, system_prompts, questions, responses):
    return solve(
        model, tokenizer, system_prompts, questions, responses, mean=lambda h, a, b: h[:, a - 1 : b].float().mean(1)
    )


@wrong("system prompt is left out")
def no_system_prompt(model, tokenizer, system_prompts, questions, responses):
    return solve(model, tokenizer, [""] * len(questions), questions, responses)


@wrong("expected float32")
def half_precision(model, tokenizer, system_prompts, questions, responses):
    return solve(model, tokenizer, system_prompts, questions, responses, mean=lambda h, a, b: h[:, a:b].mean(1))


@wrong("wrong values")
def running_sum_in_half_precision(model, tokenizer, system_prompts, questions, responses):
    """Adds up in the model's dtype and divides in float32, so that the means are no numbers of that dtype."""

    def mean(states, a, b):
        total = torch.zeros_like(states[:, a])
        for t in range(a, b):
            total += states[:, t]
        return total.float() / (b - a)

    return solve(model, tokenizer, system_prompts, questions, responses, mean=mean)


@wrong("average in bfloat16")
def half_precision_mean(model, tokenizer, system_prompts, questions, responses):
    return half_precision(model, tokenizer, system_prompts, questions, responses).float()


@wrong("wrong values")
@torch.no_grad()
def padding_in_the_mean(model, tokenizer, system_prompts, questions, responses):
    """One padded batch, averaged from each start to the padded end."""
    items = list(encoded(system_prompts, questions, responses, tokenizer))
    width = max(len(ids) for ids, _ in items)
    batch = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in items])
    states = torch.stack(model(batch.to(model.device), output_hidden_states=True).hidden_states[1:], dim=1).float()
    return torch.stack([h[:, spans[0][0] :].mean(1).cpu() for h, (_, spans) in zip(states, items, strict=True)])


@wrong("different values")
def rows_depend_on_company(model, tokenizer, system_prompts, questions, responses):
    found = solve(model, tokenizer, system_prompts, questions, responses)
    return found if len(found) != 1 or model.dtype != torch.float32 else found * 1.01


@wrong("An empty answer.*full of NaN.*raise ValueError")
@torch.no_grad()
def empty_answer_is_nan(model, tokenizer, system_prompts, questions, responses):
    """As many tokens as the answer has, after those of the prompt: none, where it is empty."""
    rows = []
    for triple in zip(system_prompts, questions, responses, strict=True):
        *asked, answer = oracles.messages(*triple)
        prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        before, ids = (
            tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, prompt + answer["content"])
        )
        states = model(torch.tensor([ids], device=model.device), output_hidden_states=True).hidden_states[1:]
        rows.append(torch.stack([h[0, len(before) :].float().mean(0).cpu() for h in states]))
    return torch.stack(rows)


@wrong("carries gradients")
def with_gradients(model, tokenizer, system_prompts, questions, responses):
    return solve(model, tokenizer, system_prompts, questions, responses).clone().requires_grad_()


@wrong("normal call.*left behind")
def hooks_stay(model, tokenizer, system_prompts, questions, responses):
    decoder_blocks(model)[0].register_forward_hook(lambda *_: None)
    return solve(model, tokenizer, system_prompts, questions, responses)


@wrong("After an error.*left behind")
def hooks_stay_after_an_error(model, tokenizer, system_prompts, questions, responses):
    handle = decoder_blocks(model)[0].register_forward_hook(lambda *_: None)
    found = solve(model, tokenizer, system_prompts, questions, responses)
    handle.remove()
    return found


@right
@torch.no_grad()
def by_offsets_and_einops(model, tokenizer, system_prompts, questions, responses):
    """Characters to tokens by the tokenizer's own offsets; thinking never mentioned."""
    rows = []
    for example in zip(system_prompts, questions, responses, strict=True):
        if not example[2].strip():
            raise KeyError(example[1])
        text = tokenizer.apply_chat_template(oracles.messages(*example), tokenize=False)
        encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, return_tensors="pt")
        char = text.rindex(example[2])
        at = encoding.pop("offset_mapping")[0]
        inside = (at[:, 1] > char) & (at[:, 0] < char + len(example[2]))
        states = model(**encoding.to(model.device), output_hidden_states=True).hidden_states[1:]
        states = rearrange(list(states), "L 1 s d -> s L d")[inside.to(model.device)]
        rows.append(reduce(states.float(), "s L d -> L d", "mean").cpu())
    return torch.stack(rows)


@right
@torch.no_grad()
def padded_batch_with_hooks(model, tokenizer, system_prompts, questions, responses):
    """All examples in one batch padded on the right; means by a mask, block by block as they come."""
    items, sums = list(encoded(system_prompts, questions, responses, tokenizer)), []
    width = max(len(ids) for ids, _ in items)
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row, _ in items])
    real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row, _ in items])
    inside = torch.zeros(ids.shape)
    for row, (_, spans) in zip(inside, items, strict=True):
        row[slice(*spans[0])] = 1 / (spans[0][1] - spans[0][0])

    def keep(_module, _args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        sums.append(torch.einsum("nsd,ns->nd", hidden.float(), inside.to(hidden.device)).cpu())

    handles = [block.register_forward_hook(keep) for block in decoder_blocks(model)]
    try:
        model(ids.to(model.device), attention_mask=real.to(model.device))
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(sums, dim=1)


def but(words, change=lambda triple: triple, given=lambda *lists: lists, **options):
    """A wrong solution: something else is read, or pooled otherwise."""

    def solution(model, tokenizer, system_prompts, questions, responses):
        lists = given(list(system_prompts), list(questions), list(responses))
        triples = [change(triple) for triple in zip(*lists, strict=True)]
        return solve(model, tokenizer, *map(list, zip(*triples, strict=True)), **options)

    solution.__module__ = __name__
    return wrong(words)(solution)


median = but("wrong values", mean=lambda h, a, b: h[:, a:b].float().median(1).values)
largest = but("wrong values", mean=lambda h, a, b: h[:, a:b].float().amax(1))
unit_tokens = but("wrong values", mean=lambda h, a, b: torch.nn.functional.normalize(h[:, a:b].float(), dim=-1).mean(1))
last_half = but("wrong values|first token is lost", mean=lambda h, a, b: h[:, (a + b) // 2 : b].float().mean(1))
question_left_out = but("wrong values", lambda triple: (triple[0], "-", triple[2]))
system_in_the_question = but("wrong values|left out", lambda triple: ("", " ".join(triple[:2]), triple[2]))
last_system_for_all = but("wrong values", given=lambda s, q, r: (s[-1:] * len(s), q, r))


@wrong("2 system_prompts, and 3 of the others|2 questions|2 responses")
def zip_drops_the_rest(model, tokenizer, system_prompts, questions, responses):
    if "" in responses:
        raise ValueError("an answer is empty")
    n = min(map(len, (system_prompts, questions, responses)))
    return solve(model, tokenizer, system_prompts[:n], questions[:n], responses[:n])


@wrong("An empty answer: expected an error")
def zeros_for_an_empty_answer(model, tokenizer, system_prompts, questions, responses):
    found = solve(model, tokenizer, system_prompts, questions, [r or "-" for r in responses])
    found[[i for i, r in enumerate(responses) if not r]] = 0
    return found


@wrong("BOS token is there twice|wrong values")
@torch.no_grad()
def without_a_template(model, tokenizer, system_prompts, questions, responses):
    """The three texts one after another."""
    rows = []
    for system, question, response in zip(system_prompts, questions, responses, strict=True):
        before = tokenizer(f"{system}\n{question}\n", add_special_tokens=False).input_ids
        ids = before + tokenizer(response, add_special_tokens=False).input_ids
        states = model(torch.tensor([ids], device=model.device), output_hidden_states=True).hidden_states[1:]
        rows.append(torch.stack([h[0, len(before) :].float().mean(0).cpu() for h in states]))
    return torch.stack(rows)


@wrong("BOS token is there twice")
@torch.no_grad()
def bos_twice(model, tokenizer, system_prompts, questions, responses):
    rows = []
    for ids, spans in encoded(system_prompts, questions, responses, tokenizer):
        first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        a, b = (i + len(first) for i in spans[0])
        states = model(torch.tensor([first + ids], device=model.device), output_hidden_states=True).hidden_states[1:]
        rows.append(torch.stack([h[0, a:b].float().mean(0).cpu() for h in states]))
    return torch.stack(rows)
