import numpy as np
from jinja2.exceptions import TemplateError

from checks.bank import right, wrong


def merged(messages, tokenizer):
    messages = [m for m in messages if m["role"] != "system" or m["content"]]
    if messages[0]["role"] == "system":
        try:
            tokenizer.apply_chat_template(messages[:2], tokenize=False)
        except TemplateError:
            first = {"role": "user", "content": messages[0]["content"] + "\n\n" + messages[1]["content"]}
            return [first, *messages[2:]]
    return messages


def template(messages, tokenizer, **kwargs):
    return tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False, **kwargs)


def count(text, tokenizer):
    return len(tokenizer(text, add_special_tokens=False).input_ids)


@right
def by_character_offset(messages, tokenizer):
    full = template(merged(messages, tokenizer), tokenizer)
    char = full.rindex(messages[-1]["content"].strip())
    offsets = tokenizer(full, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    return full, next(i for i, (a, _) in enumerate(offsets) if a >= char)


@right
def arena_style(messages, tokenizer):
    """Without the template's trailing line break, which the header's own makes up for."""
    messages = merged(messages, tokenizer)
    full = template(messages, tokenizer).rstrip()
    before = template(messages[:-1], tokenizer, add_generation_prompt=True).rstrip()
    return full, count(before, tokenizer) + 1


@right
def empty_system_message_handed_to_the_template(messages, tokenizer):
    def attempt(conversation, **kwargs):
        try:
            return template(conversation, tokenizer, **kwargs)
        except TemplateError:
            first = {"role": "user", "content": conversation[0]["content"] + "\n\n" + conversation[1]["content"]}
            return template([first, *conversation[2:]], tokenizer, **kwargs)

    return attempt(messages), count(attempt(messages[:-1], add_generation_prompt=True), tokenizer)


@right
def thinking_block_counts_as_answer(messages, tokenizer):
    messages = merged(messages, tokenizer)
    before = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    return template(messages, tokenizer), count(before, tokenizer)


def correct(messages, tokenizer):
    messages = merged(messages, tokenizer)
    before = template(messages[:-1], tokenizer, add_generation_prompt=True)
    return template(messages, tokenizer), count(before, tokenizer)


@wrong("double BOS")
def double_bos(messages, tokenizer):
    full, start = correct(messages, tokenizer)
    bos = tokenizer.bos_token or ""
    return bos + full, start + bool(bos)


@wrong("second BOS")
def index_counts_the_tokenizers_bos(messages, tokenizer):
    messages = merged(messages, tokenizer)
    before = template(messages[:-1], tokenizer, add_generation_prompt=True)
    return template(messages, tokenizer), len(tokenizer(before).input_ids)


@wrong("one too high")
def one_too_high(messages, tokenizer):
    full, start = correct(messages, tokenizer)
    return full, start + 1


@wrong("one too low")
def one_too_low(messages, tokenizer):
    full, start = correct(messages, tokenizer)
    return full, start - 1


@wrong("too low")
def header_missing(messages, tokenizer):
    messages = merged(messages, tokenizer)
    return template(messages, tokenizer), count(template(messages[:-1], tokenizer), tokenizer)


@wrong("first assistant turn")
def first_assistant_turn(messages, tokenizer):
    messages = merged(messages, tokenizer)
    first = next(i for i, m in enumerate(messages) if m["role"] == "assistant")
    before = template(messages[:first], tokenizer, add_generation_prompt=True)
    return template(messages, tokenizer), count(before, tokenizer)


@wrong("no system role")
def system_prompt_dropped(messages, tokenizer):
    return correct([m for m in messages if m["role"] != "system"], tokenizer)


@wrong("not in full_prompt|not what the template gives")
def without_the_answer(messages, tokenizer):
    _, start = correct(messages, tokenizer)
    return template(merged(messages, tokenizer)[:-1], tokenizer, add_generation_prompt=True), start


@wrong("not what the template gives")
def plain_text(messages, tokenizer):
    head = "\n".join(f"{m['role']}: {m['content']}" for m in messages[:-1]) + "\nassistant: "
    return head + messages[-1]["content"], count(head, tokenizer)


@wrong("not what the template gives")
def empty_system_prompt_filled_in(messages, tokenizer):
    return correct([m | {"content": m["content"] or "You are a helpful assistant."} for m in messages], tokenizer)


@right
def by_common_prefix(messages, tokenizer):
    """Renders with another answer in its place; both texts are the same up to where it begins."""
    messages = merged(messages, tokenizer)
    full = template(messages, tokenizer)
    first = "Q" if messages[-1]["content"][0] != "Q" else "Z"
    other = template([*messages[:-1], {"role": "assistant", "content": first}], tokenizer)
    char = next(i for i, (a, b) in enumerate(zip(full, other, strict=False)) if a != b)
    spans = tokenizer(full, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return full, next(i for i, (_, end) in enumerate(spans) if end > char)


@right
def index_of_a_numpy_array(messages, tokenizer):
    """The first position at which the ids of prompt and whole text part, as one of numpy's integers."""
    messages = merged(messages, tokenizer)
    full = template(messages, tokenizer)
    before = template(messages[:-1], tokenizer, add_generation_prompt=True)
    a, b = (np.array(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (before, full))
    assert (a == b[: len(a)]).all()
    return full, np.int64(len(a))


@wrong("not in full_prompt")
def system_prompt_after_the_question(messages, tokenizer):
    """Where there is no system role, puts the prompt in a turn of its own, which the template then refuses."""
    kept = [m for m in messages if m["role"] != "system" or m["content"]]
    try:
        full = template(kept, tokenizer)
    except TemplateError:
        kept = kept[1:]
        full = template(kept, tokenizer)
    return full, count(template(kept[:-1], tokenizer, add_generation_prompt=True), tokenizer)


@wrong("not what the template gives")
def merged_for_every_family(messages, tokenizer):
    kept = [m for m in messages if m["role"] != "system" or m["content"]]
    if kept[0]["role"] == "system":
        kept = [{"role": "user", "content": kept[0]["content"] + "\n\n" + kept[1]["content"]}, *kept[2:]]
    full = template(kept, tokenizer)
    return full, count(template(kept[:-1], tokenizer, add_generation_prompt=True), tokenizer)


@wrong("expected response_start_idx")
def counts_characters(messages, tokenizer):
    full, _ = correct(messages, tokenizer)
    return full, full.rindex(messages[-1]["content"].strip())


@wrong("expected response_start_idx")
def end_instead_of_start(messages, tokenizer):
    full, _ = correct(messages, tokenizer)
    return full, count(full, tokenizer)


@wrong("expected response_start_idx|one too|too ")
def counts_the_answers_tokens_from_the_end(messages, tokenizer):
    """Forgets the end marker and what follows it."""
    full, _ = correct(messages, tokenizer)
    return full, count(full, tokenizer) - count(messages[-1]["content"], tokenizer)


@wrong("not what the template gives|expected response_start_idx")
def generation_prompt_at_the_end(messages, tokenizer):
    messages = merged(messages, tokenizer)
    full = template(messages, tokenizer, add_generation_prompt=True)
    return full, count(template(messages[:-1], tokenizer, add_generation_prompt=True), tokenizer)


@wrong(r"expected \(full_prompt: str, response_start_idx: int\)")
def ids_instead_of_text(messages, tokenizer):
    full, start = correct(messages, tokenizer)
    return tokenizer(full, add_special_tokens=False)["input_ids"], start


@wrong("user message 'Who are you.*not in full_prompt")
def last_exchange_only(messages, tokenizer):
    """History dropped."""
    return correct([m for m in messages if m["role"] == "system"] + messages[-2:], tokenizer)
