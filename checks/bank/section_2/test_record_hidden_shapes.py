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
