from contextlib import nullcontext

import numpy as np
import torch

from checks.bank import right, wrong
from checks.bank.section_4.steerer_parts import Base
from checks.bank.section_4.test_activation_steerer import AsInTheChapter, mode
from personalab.lm.models import decoder_blocks
from utils import render_prompt

NewOnly = mode("", "all", lambda hidden, push: hidden if hidden.shape[1] > 1 else hidden + push)
PromptEnd = mode("", "prompt", lambda h, p: torch.cat([h[:, :-1], h[:, -1:] + p], 1) if h.shape[1] > 1 else h)


def encoded(tokenizer, prompt, system=None, special=False):
    first = [{"role": "system", "content": system}] if system else []
    text = render_prompt([*first, {"role": "user", "content": prompt}], tokenizer)
    return tokenizer(text, add_special_tokens=special, return_tensors="pt")


def answer(model, tokenizer, inputs, around, max_new_tokens=256, temperature=0.7, decode=None, **options):
    options = {"do_sample": bool(temperature), "temperature": temperature or None} | options
    with around:
        output = model.generate(**inputs.to(model.device), max_new_tokens=max_new_tokens, **options)
    n = inputs["input_ids"].shape[1]
    return decode(tokenizer, output, n) if decode else tokenizer.decode(output[0, n:], skip_special_tokens=True)


def solve(model, tokenizer, prompt, around, inputs=None, **options):
    return answer(model, tokenizer, (inputs or encoded)(tokenizer, prompt), around, **options)


class TwoBlocks(Base):
    """At the block asked for, and at the first."""

    def __enter__(self):
        super().__enter__()
        self.other = decoder_blocks(self.model)[0].register_forward_hook(self.hook)

    def __exit__(self, *exc):
        super().__exit__()
        self.other.remove()


@right
def at_all_positions(model, tokenizer, prompt, steering_vector, layer, coeff, max_new_tokens=256, temperature=0.7):
    around = Base(model, steering_vector, coeff, layer)
    return solve(model, tokenizer, prompt, around, max_new_tokens=max_new_tokens, temperature=temperature)


@right
def as_in_the_chapter(model, tokenizer, prompt, steering_vector, layer, coeff, max_new_tokens=256, temperature=0.7):
    """ARENA 4.4's way: last position of each pass, the template as text, tokenised as if it had no BOS."""
    messages = [{"role": "user", "content": prompt}]
    formatted = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(formatted, return_tensors="pt").to(model.device)
    with torch.inference_mode(), AsInTheChapter(model, steering_vector, coeff, layer, positions="response"):
        outputs = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            do_sample=temperature > 0,  # the chapter always samples, which is an error at temperature 0
            pad_token_id=tokenizer.eos_token_id,
        )
    return tokenizer.decode(outputs[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


@wrong("temperature=0.0")
def always_samples(model, tokenizer, prompt, steering_vector, layer, coeff, max_new_tokens=256, temperature=0.7):
    """The chapter's way at every temperature; the docstring says that 0 is greedy."""
    around, options = Base(model, steering_vector, coeff, layer), {"do_sample": True, "temperature": temperature}
    return solve(model, tokenizer, prompt, around, max_new_tokens=max_new_tokens, **options)


@wrong("temperature=0.7: expected a random answer")
def greedy_below_one(model, tokenizer, prompt, steering_vector, layer, coeff, max_new_tokens=256, temperature=0.7):
    around, options = Base(model, steering_vector, coeff, layer), {"max_new_tokens": max_new_tokens}
    return solve(model, tokenizer, prompt, around, temperature=temperature if temperature >= 1 else 0, **options)


def sampling(**more):
    """A right solution with further options where it samples."""

    def solution(model, tokenizer, prompt, steering_vector, layer, coeff, max_new_tokens=256, temperature=0.7):
        options = {"max_new_tokens": max_new_tokens, "temperature": temperature} | (more if temperature > 0 else {})
        return solve(model, tokenizer, prompt, Base(model, steering_vector, coeff, layer), **options)

    solution.__module__ = __name__
    return right(solution)


all_of_the_vocabulary = sampling(top_k=0, top_p=1.0)
nucleus = sampling(top_p=0.95)


@right
@torch.no_grad()
def own_loop(model, tokenizer, prompt, steering_vector, layer, coeff, max_new_tokens=256, temperature=0.7):
    """Token by token, everything read again each time, multinomial draws, greedy at temperature 0."""
    ids = encoded(tokenizer, prompt)["input_ids"].to(model.device)
    ends, n = model.generation_config.eos_token_id, ids.shape[1]
    with Base(model, steering_vector, coeff, layer):
        while ids.shape[1] < n + max_new_tokens and (ids.shape[1] == n or int(ids[0, -1]) not in np.ravel(ends)):
            logits = model(input_ids=ids, use_cache=False).logits[:, -1].float()
            drawn = logits.argmax(-1, keepdim=True)
            if temperature > 0:
                drawn = torch.multinomial((logits / temperature).softmax(-1), 1)
            ids = torch.cat([ids, drawn], dim=1)
    return tokenizer.batch_decode(ids[:, n:], skip_special_tokens=True)[0]


@right
def scaled_beforehand_without_a_cache(model, tokenizer, prompt, steering_vector, layer, coeff, **options):
    around = Base(model, coeff * steering_vector, 1.0, layer)
    return solve(model, tokenizer, prompt, around, **options, use_cache=False)


@right
def with_the_engine(model, tokenizer, prompt, steering_vector, layer, coeff, max_new_tokens=256, temperature=0.7):
    from personalab.lm.generation import Request, generate
    from utils import Steer, as_messages

    request = Request(as_messages(None, prompt), max_new_tokens, temperature)
    return generate(model, tokenizer, [request], interventions=[Steer(layer, steering_vector, coeff)])[0].text


@right
def with_a_hook_of_its_own(
    model, tokenizer, prompt, steering_vector, layer, coeff, max_new_tokens=256, temperature=0.7
):
    def hook(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden + coeff * steering_vector.to(hidden)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = decoder_blocks(model)[layer].register_forward_hook(hook)
    try:
        return solve(model, tokenizer, prompt, nullcontext(), max_new_tokens=max_new_tokens, temperature=temperature)
    finally:
        handle.remove()


def steering(words, around):
    """A wrong solution that steers otherwise: `around(model, vector, coeff, layer)`."""

    def solution(model, tokenizer, prompt, steering_vector, layer, coeff, **options):
        return solve(model, tokenizer, prompt, around(model, steering_vector, coeff, layer), **options)

    solution.__module__ = __name__
    return wrong(words)(solution)


nothing = steering("nothing is added", lambda m, v, c, k: nullcontext())
coeff_ignored = steering("coeff is ignored", lambda m, v, c, k: Base(m, v, 1.0, k))
coeff_zero_taken_for_missing = steering("coeff=0.*coeff is ignored", lambda m, v, c, k: Base(m, v, c or 1.0, k))
sign = steering("sign is wrong", lambda m, v, c, k: Base(m, v, -c, k))
normalised = steering("normalised first", lambda m, v, c, k: Base(m, v / v.norm(), c, k))
coeff_squared = steering("coeff counts twice", lambda m, v, c, k: Base(m, c * v, c, k))
twice = steering("added twice", lambda m, v, c, k: Base(m, 2 * v, c, k))
changes_the_vector = steering("in place", lambda m, v, c, k: Base(m, v.mul_(c), 1.0, k))
block_up = steering(r"layer \+ 1: off by one|found IndexError", lambda m, v, c, k: Base(m, v, c, k + 1))
block_down = steering("layer - 1: off by one", lambda m, v, c, k: Base(m, v, c, max(k - 1, 0)))
arguments_swapped = steering("found .*Error|wrong values", lambda m, v, c, k: Base(m, v, k, int(c)))
prompt_only = steering("the prompt only", lambda m, v, c, k: Base(m, v, c, k, "prompt"))
end_of_the_prompt = steering("only the last position of the prompt", lambda m, v, c, k: PromptEnd(m, v, c, k, "prompt"))
new_tokens_only = steering("new tokens only", lambda m, v, c, k: NewOnly(m, v, c, k))


def finishing(words, **changes):
    """A wrong solution that differs in what surrounds the steerer."""

    def solution(model, tokenizer, prompt, steering_vector, layer, coeff, **options):
        return solve(model, tokenizer, prompt, Base(model, steering_vector, coeff, layer), **options | changes)

    solution.__module__ = __name__
    return wrong(words)(solution)


prompt_in_the_reply = finishing(
    "The prompt is in the reply", decode=lambda tok, output, n: tok.decode(output[0], skip_special_tokens=True)
)
special_tokens_in_the_reply = finishing(
    "Special tokens are in the reply", decode=lambda tok, output, n: tok.decode(output[0, n:])
)
a_list = finishing(
    "expected a str, found list",
    decode=lambda tok, output, n: tok.batch_decode(output[:, n:], skip_special_tokens=True),
)
last_token_lost = finishing(
    "Its length is wrong", decode=lambda tok, output, n: tok.decode(output[0, n:-1], skip_special_tokens=True)
)
length_ignored = finishing("Its length is wrong", max_new_tokens=9)
temperature_ignored = finishing("temperature=0.0", temperature=1.0)
never_sampled = finishing("temperature=100", do_sample=False, temperature=None)
system_prompt_added = finishing(
    "you add a system prompt", inputs=lambda tok, prompt: encoded(tok, prompt, "You are a helpful assistant.")
)
empty_system_message = finishing(
    "you add an empty system message",
    inputs=lambda tok, prompt: tok.apply_chat_template(
        [{"role": "system", "content": ""}, {"role": "user", "content": prompt}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    ),
)
prompt_twice = finishing("wrong prompt", inputs=lambda tok, prompt: encoded(tok, f"{prompt} {prompt}"))
prompt_lowered = finishing("wrong prompt", inputs=lambda tok, prompt: encoded(tok, prompt.lower()))
first_words_only = finishing(
    "Its length is wrong",
    decode=lambda tok, output, n: " ".join(tok.decode(output[0, n:], skip_special_tokens=True).split()[:2]),
)
upper_case = finishing(
    "nothing else", decode=lambda tok, output, n: tok.decode(output[0, n:], skip_special_tokens=True).upper()
)
warm_at_zero = finishing("temperature=0.0: expected the likeliest", temperature=50.0)
half_of_it = steering("wrong values", lambda m, v, c, k: Base(m, v / 2, c, k))
whole_steps = steering("wrong values", lambda m, v, c, k: Base(m, v, round(c), k))
two_blocks = steering("wrong values", lambda m, v, c, k: TwoBlocks(m, v, c, k))
no_template = finishing("wrong prompt", inputs=lambda tok, prompt: tok(prompt, return_tensors="pt"))
no_generation_prompt = finishing(
    "header of the assistant's turn is missing",
    inputs=lambda tok, prompt: tok.apply_chat_template(
        [{"role": "user", "content": prompt}], return_tensors="pt", return_dict=True
    ),
)


@wrong("without steering")
def returns_the_plain_answer(model, tokenizer, prompt, steering_vector, layer, coeff, **options):
    plain = solve(model, tokenizer, prompt, nullcontext(), **options)
    solve(model, tokenizer, prompt, Base(model, steering_vector, coeff, layer), **options)
    return plain


@wrong("after a normal call.*left behind")
def hook_left(model, tokenizer, prompt, steering_vector, layer, coeff, **options):
    Base(model, steering_vector, coeff, layer).__enter__()
    return solve(model, tokenizer, prompt, nullcontext(), **options)


@wrong("After an error.*left behind")
def hook_left_after_an_error(model, tokenizer, prompt, steering_vector, layer, coeff, **options):
    steerer = Base(model, steering_vector, coeff, layer)
    steerer.__enter__()
    reply = solve(model, tokenizer, prompt, nullcontext(), **options)
    steerer.__exit__()
    return reply


@wrong("other people's hooks.*gone")
def clears_all_hooks(model, tokenizer, prompt, steering_vector, layer, coeff, **options):
    Base(model, steering_vector, coeff, layer).__enter__()
    try:
        return solve(model, tokenizer, prompt, nullcontext(), **options)
    finally:
        decoder_blocks(model)[layer]._forward_hooks.clear()
