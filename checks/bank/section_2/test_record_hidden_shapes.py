import numpy as np
import torch

from checks.bank import right, wrong
from personalab.lm.models import decoder_blocks


def encoded(tokenizer, prompt, model):
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return tokenizer(text, add_special_tokens=False, return_tensors="pt").to(model.device)


def hidden_of(output):
    return output[0] if isinstance(output, tuple) else output


def recorded(
    model,
    tokenizer,
    prompt,
    layer,
    n,
    shape=lambda o: tuple(hidden_of(o).shape),
    cleanup=lambda h: h.remove(),
    **kwargs,
):
    shapes = []
    handle = decoder_blocks(model)[layer].register_forward_hook(lambda m, a, output: shapes.append(shape(output)))
    try:
        model.generate(**encoded(tokenizer, prompt, model), **{"max_new_tokens": n, "do_sample": False} | kwargs)
    finally:
        cleanup(handle)
    return shapes


@right
def with_generate(model, tokenizer, prompt, layer, max_new_tokens=5):
    return recorded(model, tokenizer, prompt, layer, max_new_tokens)


@right
def torch_sizes(model, tokenizer, prompt, layer, max_new_tokens=5):
    return recorded(model, tokenizer, prompt, layer, max_new_tokens, shape=lambda o: hidden_of(o).shape)


@right
def thinking_not_switched_off(model, tokenizer, prompt, layer, max_new_tokens=5):
    shapes = []
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]

    class Recorder:
        def __enter__(self):
            self.handle = decoder_blocks(model)[layer].register_forward_hook(self)

        def __call__(self, module, args, output):
            shapes.append(tuple(hidden_of(output).size()))

        def __exit__(self, *exc):
            self.handle.remove()

    with Recorder(), torch.no_grad():
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, do_sample=False)
    return shapes


@right
@torch.no_grad()
def own_loop(model, tokenizer, prompt, layer, max_new_tokens=5):
    shapes, cache, ids = [], None, encoded(tokenizer, prompt, model)["input_ids"]
    with decoder_blocks(model)[layer].register_forward_hook(
        lambda m, a, output: shapes.append(tuple(hidden_of(output).shape))
    ):
        for _ in range(max_new_tokens):
            output = model(input_ids=ids, past_key_values=cache, use_cache=True)
            cache, ids = output.past_key_values, output.logits[:, -1:].argmax(-1)
            if ids.item() == model.generation_config.eos_token_id:
                break
    return shapes


@wrong("batch element 0")
def first_of_a_tensor(model, tokenizer, prompt, layer, max_new_tokens=5):
    return recorded(model, tokenizer, prompt, layer, max_new_tokens, shape=lambda o: tuple(o[0].shape))


@wrong("tuple")
def tensors_only(model, tokenizer, prompt, layer, max_new_tokens=5):
    return recorded(model, tokenizer, prompt, layer, max_new_tokens, shape=lambda o: tuple(o.shape))


@wrong("normal run.*left behind")
def never_removed(model, tokenizer, prompt, layer, max_new_tokens=5):
    return recorded(model, tokenizer, prompt, layer, max_new_tokens, cleanup=lambda h: None)


@wrong("After an error.*left behind")
def removed_only_when_all_is_well(model, tokenizer, prompt, layer, max_new_tokens=5):
    handles = []
    shapes = recorded(model, tokenizer, prompt, layer, max_new_tokens, cleanup=handles.append)
    handles[0].remove()
    return shapes


@wrong("gone.*Remove your own|gone from")
def cleared(model, tokenizer, prompt, layer, max_new_tokens=5):
    block = decoder_blocks(model)[layer]
    return recorded(model, tokenizer, prompt, layer, max_new_tokens, cleanup=lambda h: block._forward_hooks.clear())


@wrong("cache")
def uncached(model, tokenizer, prompt, layer, max_new_tokens=5):
    return recorded(model, tokenizer, prompt, layer, max_new_tokens, use_cache=False)


@wrong("do_sample=False")
def sampled(model, tokenizer, prompt, layer, max_new_tokens=5):
    return recorded(model, tokenizer, prompt, layer, max_new_tokens, do_sample=True, temperature=2.0)


@wrong("max_new_tokens handed on")
def fixed_length(model, tokenizer, prompt, layer, max_new_tokens=5):
    return recorded(model, tokenizer, prompt, layer, 5)


@wrong("another block")
def block_before(model, tokenizer, prompt, layer, max_new_tokens=5):
    return recorded(model, tokenizer, prompt, layer - 1, max_new_tokens)


@wrong("another block")
def block_after(model, tokenizer, prompt, layer, max_new_tokens=5):
    return recorded(model, tokenizer, prompt, layer + 1, max_new_tokens)


@wrong("1 of 3 passes")
def prefill_only(model, tokenizer, prompt, layer, max_new_tokens=5):
    return recorded(model, tokenizer, prompt, layer, max_new_tokens)[:1]


@wrong("with the prompt")
def prompt_forgotten(model, tokenizer, prompt, layer, max_new_tokens=5):
    return recorded(model, tokenizer, "Hello", layer, max_new_tokens)


@wrong("never run")
def computed_by_hand(model, tokenizer, prompt, layer, max_new_tokens=5):
    n = encoded(tokenizer, prompt, model)["input_ids"].shape[1]
    return [(1, n, 32)] + [(1, 1, 32)] * (max_new_tokens - 1)


@right
def replaced_forward(model, tokenizer, prompt, layer, max_new_tokens=5):
    """Without a hook: the block's own `forward` is replaced for the time being."""
    block, shapes = decoder_blocks(model)[layer], []
    before, had = block.forward, "forward" in vars(block)

    def forward(*args, **kwargs):
        output = before(*args, **kwargs)
        shapes.append(list(np.shape(hidden_of(output).detach())))
        return output

    block.forward = forward
    try:
        inputs = encoded(tokenizer, prompt, model)
        model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, top_k=None)
    finally:
        if had:
            block.forward = before
        else:
            del block.forward
    return shapes


@right
def arena_style(model, tokenizer, prompt, layer, max_new_tokens=5):
    hidden_shapes = []

    def hook_fn(module, input, output):
        hidden_states = output[0] if isinstance(output, tuple) else output
        hidden_shapes.append(tuple(hidden_states.shape))

    formatted = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    inputs = tokenizer(formatted, return_tensors="pt", add_special_tokens=False).to(model.device)
    handle = decoder_blocks(model)[layer].register_forward_hook(hook_fn)
    try:
        with torch.inference_mode():
            model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    finally:
        handle.remove()
    return hidden_shapes


def prompted(words, encode):
    """A wrong solution with another prompt: `encode(tokenizer, prompt)` gives what `generate` gets."""

    def solution(model, tokenizer, prompt, layer, max_new_tokens=5):
        shapes = []
        handle = decoder_blocks(model)[layer].register_forward_hook(
            lambda m, a, output: shapes.append(tuple(hidden_of(output).shape))
        )
        try:
            model.generate(**encode(tokenizer, prompt), max_new_tokens=max_new_tokens, do_sample=False)
        finally:
            handle.remove()
        return shapes

    solution.__module__ = __name__
    return wrong(words)(solution)


def user(prompt):
    return [{"role": "user", "content": prompt}]


raw_prompt = prompted("wrong prompt", lambda tok, prompt: tok(prompt, return_tensors="pt"))
double_bos = prompted(
    "BOS token is there twice",
    lambda tok, prompt: tok(
        tok.apply_chat_template(user(prompt), tokenize=False, add_generation_prompt=True), return_tensors="pt"
    ),
)
no_generation_prompt = prompted(
    "header of the assistant's turn is missing",
    lambda tok, prompt: tok.apply_chat_template(user(prompt), return_tensors="pt", return_dict=True),
)
question_twice = prompted(
    "wrong prompt",
    lambda tok, prompt: tok.apply_chat_template(
        user(f"{prompt} {prompt}"), add_generation_prompt=True, return_tensors="pt", return_dict=True
    ),
)


@wrong("wrong shapes")
def last_dimension_only(model, tokenizer, prompt, layer, max_new_tokens=5):
    return recorded(model, tokenizer, prompt, layer, max_new_tokens, shape=lambda o: (hidden_of(o).shape[-1],))


@wrong("wrong shapes")
def lengths_only(model, tokenizer, prompt, layer, max_new_tokens=5):
    return recorded(model, tokenizer, prompt, layer, max_new_tokens, shape=lambda o: hidden_of(o).shape[1])


@wrong("expected a list of shapes, found set|expected a list")
def each_shape_once(model, tokenizer, prompt, layer, max_new_tokens=5):
    return set(recorded(model, tokenizer, prompt, layer, max_new_tokens))


@wrong("more than once|wrong shapes|forward passes")
def generates_twice(model, tokenizer, prompt, layer, max_new_tokens=5):
    recorded(model, tokenizer, prompt, layer, max_new_tokens)
    return recorded(model, tokenizer, prompt, layer, max_new_tokens)


@wrong("wrong shapes")
def every_block(model, tokenizer, prompt, layer, max_new_tokens=5):
    shapes = recorded(model, tokenizer, prompt, layer, max_new_tokens)
    return [shape for shape in shapes for _ in decoder_blocks(model)]


@wrong("wrong shapes")
def the_blocks_input(model, tokenizer, prompt, layer, max_new_tokens=5):
    shapes = []
    with decoder_blocks(model)[layer].register_forward_pre_hook(lambda m, args: shapes.append(tuple(args[0].shape))):
        model.generate(**encoded(tokenizer, prompt, model), max_new_tokens=max_new_tokens, do_sample=False)
    return shapes
