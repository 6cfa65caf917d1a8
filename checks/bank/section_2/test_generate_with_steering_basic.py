# Over 300 lines on purpose: one file an exercise, and its table of solutions is the content.
import contextlib

import torch

from checks.bank import right, wrong
from personalab.lm.models import decoder_blocks
from utils import render_prompt


def conversation_of(prompt, system_prompt, messages):
    first = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*first, *(messages or []), {"role": "user", "content": prompt}]


def tensor_of(output):
    return output[0] if isinstance(output, tuple) else output


def adding(push, positions=slice(None)):
    def hook(module, args, output):
        hidden = tensor_of(output).clone()
        hidden[:, positions] += push.to(hidden)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    return hook


def generate(
    model,
    tokenizer,
    conversation,
    hook,
    block,
    max_new_tokens=200,
    temperature=0.7,
    encode=None,
    decode=None,
    remove=lambda handle: handle.remove(),
    **options,
):
    inputs = (encode or encoded)(conversation, tokenizer).to(model.device)
    handle = decoder_blocks(model)[block].register_forward_hook(hook)
    options = {"do_sample": temperature > 0, "temperature": temperature or None} | options
    try:
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, **options)
    finally:
        remove(handle)
    n = inputs["input_ids"].shape[1]
    return decode(output, n) if decode else tokenizer.decode(output[0, n:], skip_special_tokens=True)


def encoded(conversation, tokenizer):
    return tokenizer(render_prompt(conversation, tokenizer), add_special_tokens=False, return_tensors="pt")


def solve(model, tokenizer, prompt, vector, block, push, system_prompt=None, messages=None, hook=None, **options):
    conversation = conversation_of(prompt, system_prompt, messages)
    return generate(model, tokenizer, conversation, hook or adding(push), block, **options)


@right
def with_a_forward_hook(
    model, tokenizer, prompt, steering_vector, steering_layer, alpha, system_prompt=None, max_new_tokens=200,
    temperature=0.7, messages=None,
):  # fmt: skip
    conversation = conversation_of(prompt, system_prompt, messages)
    hook = adding(alpha * steering_vector)
    return generate(model, tokenizer, conversation, hook, steering_layer, max_new_tokens, temperature)


@right
def in_place_by_the_template(
    model, tokenizer, prompt, steering_vector, steering_layer, alpha, system_prompt=None, max_new_tokens=200,
    temperature=0.7, messages=None,
):  # fmt: skip
    """Changes the block's output in place, uses the template directly (thinking left on), strips the reply."""

    def hook(module, args, output):
        tensor_of(output).add_((alpha * steering_vector).to(tensor_of(output)))

    conversation = conversation_of(prompt, system_prompt, messages)
    inputs = tokenizer.apply_chat_template(
        conversation, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    handle = decoder_blocks(model)[steering_layer].register_forward_hook(hook)
    try:
        with torch.no_grad():
            output = model.generate(
                **inputs.to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=temperature > 0,
                temperature=temperature or 1.0,
            )
    finally:
        handle.remove()
    return tokenizer.decode(output[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


@right
def without_a_cache(model, tokenizer, prompt, steering_vector, steering_layer, alpha, **options):
    push = alpha * steering_vector
    return solve(model, tokenizer, prompt, steering_vector, steering_layer, push, **options, use_cache=False)


@right
def with_the_engine(
    model, tokenizer, prompt, steering_vector, steering_layer, alpha, system_prompt=None, max_new_tokens=200,
    temperature=0.7, messages=None,
):  # fmt: skip
    """A hook in front of all others, from the library."""
    from utils import Steer, applied

    conversation = conversation_of(prompt, system_prompt, messages)
    with applied(model, [Steer(steering_layer, steering_vector, alpha)]):
        return generate(model, tokenizer, conversation, lambda *_: None, steering_layer, max_new_tokens, temperature)


@right
def by_replacing_forward(model, tokenizer, prompt, steering_vector, steering_layer, alpha, **options):
    block = decoder_blocks(model)[steering_layer]
    original = block.forward

    def forward(*args, **kwargs):
        return adding(alpha * steering_vector)(block, args, original(*args, **kwargs))

    block.forward = forward
    try:
        return solve(model, tokenizer, prompt, steering_vector, steering_layer, None, hook=lambda *_: None, **options)
    finally:
        del block.forward


def pushes(words, push):
    """A wrong solution that adds another vector."""

    def solution(model, tokenizer, prompt, steering_vector, steering_layer, alpha, **options):
        added = push(steering_vector, alpha)
        return solve(model, tokenizer, prompt, steering_vector, steering_layer, added, **options)

    solution.__module__ = __name__
    return wrong(words)(solution)


nothing = pushes("nothing is added", lambda v, a: 0 * v)
alpha_ignored = pushes("alpha is ignored", lambda v, a: v)
alpha_zero_taken_for_missing = pushes("alpha=0.*alpha is ignored", lambda v, a: (a or 1.0) * v)
sign = pushes("sign is wrong", lambda v, a: -a * v)
normalised = pushes("normalised first", lambda v, a: a * v / v.norm())
twice = pushes("added twice", lambda v, a: 2 * a * v)
changes_the_vector = pushes("in place", lambda v, a: v.mul_(a))


def hooked(words, make):
    """A wrong solution with another hook: `make(alpha * vector)`."""

    def solution(model, tokenizer, prompt, steering_vector, steering_layer, alpha, **options):
        hook = make(alpha * steering_vector)
        return solve(model, tokenizer, prompt, steering_vector, steering_layer, None, hook=hook, **options)

    solution.__module__ = __name__
    return wrong(words)(solution)


def on_passes(push, wanted):
    def hook(module, args, output):
        return adding(push)(module, args, output) if wanted(tensor_of(output).shape[1]) else output

    return hook


def rescaled(push):
    def hook(module, args, output):
        hidden = tensor_of(output)
        moved = hidden + push.to(hidden)
        return moved / moved.norm(dim=-1, keepdim=True) * 5

    return hook


def uncast(push):
    return lambda module, args, output: tensor_of(output) + push


last_position = hooked("only the last position of each pass", lambda push: adding(push, slice(-1, None)))
prompt_only = hooked("the prompt only", lambda push: on_passes(push, lambda n: n > 1))
new_tokens_only = hooked("new tokens only", lambda push: on_passes(push, lambda n: n == 1))
first_row_of_a_plain_tensor = hooked(
    "found .*Error.*plain tensor", lambda push: lambda m, a, output: (output[0] + push, *output[1:])
)
returns_a_tuple = hooked("found .*Error.*return the same kind", lambda push: lambda m, a, o: (tensor_of(o) + push,))
returns_nothing = hooked("nothing is added", lambda push: lambda m, a, o: None)
alpha_zero_changes_the_norm = hooked("wrong values", rescaled)
dtype_forgotten = hooked("bfloat16.*dtype", uncast)


@wrong(r"steering_layer \+ 1: off by one|found IndexError")
def one_block_up(model, tokenizer, prompt, steering_vector, steering_layer, alpha, **options):
    return with_a_forward_hook(model, tokenizer, prompt, steering_vector, steering_layer + 1, alpha, **options)


@wrong("steering_layer - 1: off by one")
def one_block_down(model, tokenizer, prompt, steering_vector, steering_layer, alpha, **options):
    return with_a_forward_hook(model, tokenizer, prompt, steering_vector, max(steering_layer - 1, 0), alpha, **options)


def finishing(words, **changes):
    """A wrong solution that differs in what surrounds the hook."""

    def solution(model, tokenizer, prompt, steering_vector, steering_layer, alpha, **options):
        made = {k: v(tokenizer) for k, v in changes.items()}
        push = alpha * steering_vector
        return solve(model, tokenizer, prompt, steering_vector, steering_layer, push, **options | made)

    solution.__module__ = __name__
    return wrong(words)(solution)


prompt_in_the_reply = finishing(
    "The prompt is in the reply",
    decode=lambda tok: lambda output, n: tok.decode(output[0], skip_special_tokens=True),
)
special_tokens_in_the_reply = finishing(
    "Special tokens are in the reply", decode=lambda tok: lambda output, n: tok.decode(output[0, n:])
)
a_list = finishing(
    "expected a str, found list",
    decode=lambda tok: lambda output, n: tok.batch_decode(output[:, n:], skip_special_tokens=True),
)
last_token_lost = finishing(
    "Its length is wrong",
    decode=lambda tok: lambda output, n: tok.decode(output[0, n:-1], skip_special_tokens=True),
)
length_ignored = finishing("Its length is wrong", max_new_tokens=lambda tok: 9)
temperature_ignored = finishing("temperature=0.0", temperature=lambda tok: 1.0)
never_sampled = finishing("temperature=100", do_sample=lambda tok: False, temperature=lambda tok: 0)
hook_left = finishing("after a normal call.*left behind", remove=lambda tok: lambda handle: None)
double_bos = finishing(
    "BOS token is there twice",
    encode=lambda tok: lambda conv, _: tok(render_prompt(conv, tok), return_tensors="pt"),
)
no_generation_prompt = finishing(
    "header of the assistant's turn is missing",
    encode=lambda tok: lambda conv, _: tok.apply_chat_template(conv, return_tensors="pt", return_dict=True),
)
no_template = finishing(
    "wrong prompt", encode=lambda tok: lambda conv, _: tok(conv[-1]["content"], return_tensors="pt")
)


@wrong("After an error.*left behind")
def hook_left_after_an_error(
    model, tokenizer, prompt, steering_vector, steering_layer, alpha, system_prompt=None, max_new_tokens=200,
    temperature=0.7, messages=None,
):  # fmt: skip
    inputs = encoded(conversation_of(prompt, system_prompt, messages), tokenizer)
    handle = decoder_blocks(model)[steering_layer].register_forward_hook(adding(alpha * steering_vector))
    drawn = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, **drawn)
    handle.remove()
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@wrong("other people's hooks.*gone")
def clears_all_hooks(model, tokenizer, prompt, steering_vector, steering_layer, alpha, **options):
    def clear(handle):
        decoder_blocks(model)[steering_layer]._forward_hooks.clear()

    push = alpha * steering_vector
    return solve(model, tokenizer, prompt, steering_vector, steering_layer, push, remove=clear, **options)


@wrong("system prompt is left out")
def system_prompt_ignored(model, tokenizer, prompt, steering_vector, steering_layer, alpha, **options):
    options.pop("system_prompt", None)
    return with_a_forward_hook(model, tokenizer, prompt, steering_vector, steering_layer, alpha, **options)


@wrong("`messages` is left out")
def messages_ignored(model, tokenizer, prompt, steering_vector, steering_layer, alpha, **options):
    options.pop("messages", None)
    return with_a_forward_hook(model, tokenizer, prompt, steering_vector, steering_layer, alpha, **options)


@wrong("prompt is left out")
def prompt_ignored(model, tokenizer, prompt, steering_vector, steering_layer, alpha, messages=None, **options):
    if not messages:
        return with_a_forward_hook(model, tokenizer, prompt, steering_vector, steering_layer, alpha, **options)
    options["encode"] = lambda conv, tok: encoded(conv[:-1], tok)
    push = alpha * steering_vector
    return solve(model, tokenizer, prompt, steering_vector, steering_layer, push, messages=messages, **options)


@wrong("changed the caller's `messages`")
def messages_appended(model, tokenizer, prompt, steering_vector, steering_layer, alpha, messages=None, **options):
    messages = messages if messages is not None else []
    messages.append({"role": "user", "content": prompt})
    *earlier, _ = messages
    return with_a_forward_hook(
        model, tokenizer, prompt, steering_vector, steering_layer, alpha, messages=earlier, **options
    )


def with_options(model, tokenizer, prompt, steering_vector, steering_layer, alpha, sampling, **given):
    """The right hook; `sampling` adds options where the temperature is above 0."""
    options = {"temperature": 0.7} | given
    more = sampling if options["temperature"] > 0 else {}
    push = alpha * steering_vector
    return solve(model, tokenizer, prompt, steering_vector, steering_layer, push, **options | more)


@right
def all_of_the_vocabulary(model, tokenizer, prompt, steering_vector, steering_layer, alpha, **options):
    args = (model, tokenizer, prompt, steering_vector, steering_layer, alpha)
    return with_options(*args, {"top_k": 0, "top_p": 1.0}, **options)


@right
def nucleus(model, tokenizer, prompt, steering_vector, steering_layer, alpha, **options):
    args = (model, tokenizer, prompt, steering_vector, steering_layer, alpha)
    return with_options(*args, {"top_p": 0.95, "top_k": 50}, **options)


@right
@torch.no_grad()
def own_loop(
    model, tokenizer, prompt, steering_vector, steering_layer, alpha, system_prompt=None, max_new_tokens=200,
    temperature=0.7, messages=None,
):  # fmt: skip
    """Token by token with a cache, by multinomial draws, greedy at temperature 0."""
    ids = encoded(conversation_of(prompt, system_prompt, messages), tokenizer)["input_ids"].to(model.device)
    ends, new, cache = model.generation_config.eos_token_id, [], None
    with decoder_blocks(model)[steering_layer].register_forward_hook(adding(alpha * steering_vector)):
        while len(new) < max_new_tokens and not (new and new[-1] in (ends if isinstance(ends, list) else [ends])):
            out = model(input_ids=ids, past_key_values=cache, use_cache=True)
            logits, cache = out.logits[0, -1].float(), out.past_key_values
            drawn = logits.argmax() if not temperature else torch.multinomial((logits / temperature).softmax(-1), 1)[0]
            new.append(int(drawn))
            ids = drawn.view(1, 1)
    return tokenizer.decode(new, skip_special_tokens=True)


@right
def arena_style(
    model, tokenizer, prompt, steering_vector, steering_layer, alpha, system_prompt=None, max_new_tokens=200,
    temperature=0.7, messages=None,
):  # fmt: skip
    """Nested hook, the template's own text, and greedy at temperature 0, as this course asks for."""
    chat = list(messages) if messages is not None else []
    if system_prompt is not None:
        chat = [{"role": "system", "content": system_prompt}, *chat]
    chat.append({"role": "user", "content": prompt})
    formatted = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(formatted, return_tensors="pt", add_special_tokens=False).to(model.device)

    def steering_hook(module, input, output):
        hidden_states = output[0] if isinstance(output, tuple) else output
        hidden_states = hidden_states + alpha * steering_vector.to(hidden_states.device, hidden_states.dtype)
        return (hidden_states, *output[1:]) if isinstance(output, tuple) else hidden_states

    handle = decoder_blocks(model)[steering_layer].register_forward_hook(steering_hook)
    try:
        with torch.inference_mode():
            outputs = model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=temperature > 0,
                **({"temperature": temperature} if temperature > 0 else {}),
                pad_token_id=tokenizer.eos_token_id,
            )
    finally:
        handle.remove()
    return tokenizer.decode(outputs[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@wrong("temperature=0.0: expected a result, found ValueError.*do_sample=False")
def always_samples(
    model, tokenizer, prompt, steering_vector, steering_layer, alpha, system_prompt=None, max_new_tokens=200,
    temperature=0.7, messages=None,
):  # fmt: skip
    """The chapter's way: no greedy answer at temperature 0."""
    inputs = encoded(conversation_of(prompt, system_prompt, messages), tokenizer)
    with decoder_blocks(model)[steering_layer].register_forward_hook(adding(alpha * steering_vector)):
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=True, temperature=temperature)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@wrong("temperature=0.0: expected the likeliest answer")
def warm_at_zero(model, tokenizer, prompt, steering_vector, steering_layer, alpha, temperature=0.7, **options):
    options |= {"do_sample": True, "temperature": temperature or 50.0}
    return solve(model, tokenizer, prompt, steering_vector, steering_layer, alpha * steering_vector, **options)


@wrong("temperature=100")
def temperature_capped_at_one(model, tokenizer, prompt, steering_vector, steering_layer, alpha, **options):
    options |= {"temperature": min(options.get("temperature", 0.7), 1e-3)}
    return with_options(model, tokenizer, prompt, steering_vector, steering_layer, alpha, {}, **options)


first_position_spared = hooked("wrong values", lambda push: adding(push, slice(1, None)))
clipped = hooked("wrong values", lambda push: adding(push.clamp(-0.5, 0.5)))


def ablated(push):
    def hook(module, args, output):
        hidden = tensor_of(output)
        unit = push.to(hidden) / push.to(hidden).norm().clamp(min=1e-9)
        moved = hidden - (hidden @ unit)[..., None] * unit + push.to(hidden)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    return hook


replaces_the_component = hooked("wrong values", ablated)
half_of_it = pushes("wrong values", lambda v, a: 0.5 * a * v)
squared_coefficient = pushes("wrong values", lambda v, a: a * abs(a) * v)
unit_steps = pushes("wrong values", lambda v, a: round(a) * v)


@wrong("wrong values")
def every_block(model, tokenizer, prompt, steering_vector, steering_layer, alpha, **options):
    """At the block asked for and at all that follow."""
    with contextlib.ExitStack() as stack:
        for block in decoder_blocks(model)[steering_layer + 1 :]:
            stack.enter_context(block.register_forward_hook(adding(alpha * steering_vector)))
        return with_a_forward_hook(model, tokenizer, prompt, steering_vector, steering_layer, alpha, **options)


@wrong("system prompt is left out|wrong prompt")
def system_prompt_in_the_user_turn(
    model, tokenizer, prompt, steering_vector, steering_layer, alpha, system_prompt=None, **options
):
    prompt = f"{system_prompt}\n\n{prompt}" if system_prompt else prompt
    return with_a_forward_hook(model, tokenizer, prompt, steering_vector, steering_layer, alpha, **options)


@wrong("wrong prompt|missing")
def messages_after_the_prompt(
    model, tokenizer, prompt, steering_vector, steering_layer, alpha, messages=None, **options
):
    """Joins the earlier turns into one message of the user's."""
    if messages:
        prompt = "\n".join([*(m["content"] for m in messages), prompt])
    return with_a_forward_hook(model, tokenizer, prompt, steering_vector, steering_layer, alpha, **options)
