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
