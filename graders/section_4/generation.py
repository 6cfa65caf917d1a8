"""Section 4, steered generation: one answer inside a steerer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graders.harness.expect import check, check_close, grader, on_tiny_models, tolerance
from graders.harness.hooked import Interrupted, Pass, changed, check_hooks, failing, hooks, observed, running
from graders.harness.prompts import prompts
from graders.section_4.answers import (
    RIGHT_MODES,
    answer,
    answer_with_markers,
    check_question,
    pushes,
    read,
    sharp,
    whole,
)
from graders.section_4.modes import vector_of
from personalab.lm.models import n_blocks
from personalab.lm.tiny import FAMILIES, load_tiny_model

_PROMPT = "What should I do when I feel afraid?"
_TOKENS = 6
_CURE = "Generate inside `with ActivationSteerer(...):`, which removes its hook whatever happens."


@grader
def test_generate_with_steerer(
    generate_with_steerer: Callable[..., str], model: Any = None, tokenizer: Any = None
) -> None:
    """`coeff * vector` at one block while the model answers, the answer alone as text, and a model left as it was."""
    if on_tiny_models():
        _check_on_tiny_models(generate_with_steerer)
    if model is not None:
        _check_yours(generate_with_steerer, model, tokenizer)


def _check_on_tiny_models(generate_with_steerer: Callable[..., str]) -> None:
    for i, family in enumerate(FAMILIES):
        tiny, tok = sharp(family)
        layer, vector = (1, 0, 2, 3, 1)[i], vector_of(seed=i)
        for coeff in (1.5, -0.5, 0.0):
            _check_steered(generate_with_steerer, tiny, tok, vector, layer, coeff, f"{family}, coeff={coeff}")
    _check_end_marker(generate_with_steerer)
    _check_temperature(generate_with_steerer)
    _check_company(generate_with_steerer)
    _check_failure(generate_with_steerer)
    _check_bfloat16(generate_with_steerer)


def _run(
    function: Callable[..., str],
    model: Any,
    tok: Any,
    vector: Tensor,
    layer: int,
    coeff: float,
    what: str,
    watch: list[int] | None = None,
    **options: Any,
) -> tuple[str, list[Pass]]:
    """Call the function, watch the model read, and check what must hold after every call."""
    before, kept = hooks(model), vector.clone()
    with observed(model, watch or range(n_blocks(model))) as passes, running(what):
        reply = function(model, tok, _PROMPT, vector, layer, coeff, **{"max_new_tokens": _TOKENS} | options)
    check_hooks(model, before, f"{what}, after a normal call", _CURE)
    check(
        torch.equal(vector, kept), f"{what}: you changed `steering_vector` in place. Write `coeff * vector`, no `*=`."
    )
    check(isinstance(reply, str), f"{what}: expected a str, found {type(reply).__name__}.")
    check(passes, f"{what}: expected the model to generate, but it never ran.")
    return reply, passes


def _check_steered(
    function: Callable[..., str], model: Any, tok: Any, vector: Tensor, layer: int, coeff: float, what: str
) -> None:
    what = f"{what}, layer={layer}"
    reply, passes = _run(function, model, tok, vector, layer, coeff, what)
    ids, n_prompt, found = read(passes)
    check_question(ids[:n_prompt], _PROMPT, tok, what)
    right = [_states(model, ids, n_prompt, layer, coeff * vector, mode) for mode in RIGHT_MODES]
    mistakes = _mistakes(model, ids, n_prompt, vector, layer, coeff)
    check_close(found, right, f"{what}: the blocks' outputs", mistakes, tolerance(model.dtype, exact=1e-4))
    _check_reply(reply, model, tok, ids[:n_prompt], layer, coeff * vector, what)


def _states(
    model: Any, ids: list[int], n_prompt: int, layer: int, push: Tensor, mode: str, watch: list[int] | None = None
) -> Float[Tensor, "blocks tokens d"]:
    return whole(model, ids, layer, pushes(len(ids), n_prompt, push, mode), watch)[0]


def _mistakes(
    model: Any,
    ids: list[int],
    n_prompt: int,
    vector: Tensor,
    layer: int,
    coeff: float,
    watch: list[int] | None = None,
    first: int = 0,
) -> dict[str, Callable[[], Tensor | list[Tensor]]]:
    """Outputs of the blocks from position `first` on, under typical mistakes, each computed when a check fails."""

    def steered(push: Tensor, modes: tuple[str, ...] = RIGHT_MODES, shift: int = 0) -> list[Tensor]:
        if not 0 <= layer + shift < n_blocks(model):
            return []
        return [_states(model, ids, n_prompt, layer + shift, push, mode, watch)[:, first:] for mode in modes]

    push = coeff * vector
    return {
        "nothing is added: is generate called inside the `with` block?": partial(steered, 0 * vector),
        "coeff is ignored: add coeff * vector (0 must change nothing)": partial(steered, vector),
        "the sign is wrong: it must be + coeff * vector": partial(steered, -push),
        "the vector is normalised first: hand it to the steerer as it is": partial(steered, push / vector.norm()),
        "the vector is added twice: two steerers, or coeff both times": partial(steered, 2 * push),
        "coeff counts twice: scale the vector, or hand coeff on, not both": partial(steered, coeff * push),
        "you steer block layer + 1: off by one, since `layer` is a block index here": partial(steered, push, shift=1),
        "you steer block layer - 1: off by one, since `layer` is a block index here": partial(steered, push, shift=-1),
        'you steer the prompt only: use positions="all" or "response", so that the answer is steered too': (
            partial(steered, push, ("prompt",))
        ),
        "you steer only the last position of the prompt: steer every pass": partial(steered, push, ("prompt's end",)),
        "you steer new tokens only: the last position of the prompt counts too": (
            partial(steered, push, ("new tokens",))
        ),
    }


def _check_reply(reply: str, model: Any, tok: Any, prompt: list[int], layer: int, push: Tensor, what: str) -> None:
    found, right = reply.strip(), []
    for mode in RIGHT_MODES:
        right.append(answer(model, tok, prompt, layer, push, mode, _TOKENS))
        if found == right[-1]:
            return
    marked = [answer_with_markers(model, tok, prompt, layer, push, mode, _TOKENS) for mode in RIGHT_MODES]
    if _PROMPT in found:
        guess = "The prompt is in the reply: decode only the ids after the prompt, `output[0, n_prompt:]`."
    elif found in marked:
        guess = "Special tokens are in the reply: decode with skip_special_tokens=True."
    elif any(r and (found.startswith(r) or r.startswith(found)) for r in right):
        guess = f"Its length is wrong: return up to max_new_tokens={_TOKENS} tokens, all of them."
    elif found == answer(model, tok, prompt, layer, 0 * push, "all", _TOKENS):
        guess = "It is the answer of the model without steering: return the one generated inside the steerer."
    else:
        guess = "Return the text of the new tokens that `generate` gave inside the steerer, nothing else."
    raise AssertionError(f"{what}: wrong reply.\n  expected: {right[0]!r}\n  found:    {found!r}\n  {guess}")


def _check_end_marker(function: Callable[..., str]) -> None:
    """Steered so that the end marker comes first: the reply is empty, not the marker's name."""
    model, tok = sharp("llama")
    vector = model.lm_head.weight[model.generation_config.eos_token_id].detach().clone()
    _check_steered(function, model, tok, vector, n_blocks(model) - 1, 100.0, "llama, steered to end at once")


def _check_temperature(function: Callable[..., str]) -> None:
    model, tok = load_tiny_model("llama")
    vector, found = vector_of(), {}
    with torch.random.fork_rng():
        for temperature in (1e-5, 100.0):
            torch.manual_seed(0)
            what = f"temperature={temperature}"
            found[temperature], passes = _run(function, model, tok, vector, 1, 0.5, what, temperature=temperature)
    prompt = passes[0].ids[0].tolist()
    right = [answer(model, tok, prompt, 1, 0.5 * vector, mode, _TOKENS) for mode in RIGHT_MODES]
    check(
        found[1e-5].strip() in right,
        f"temperature=1e-05: expected the likeliest answer {right[0]!r}, found {found[1e-5]!r}. Pass `temperature` on "
        "to generate.",
    )
    check(
        found[100.0].strip() not in right,
        f"temperature=100: expected a random answer, found the likeliest one, {found[100.0]!r}. Pass `temperature` on "
        "to generate, with do_sample=True.",
    )


def _check_company(function: Callable[..., str]) -> None:
    """Somebody else's hook on the same block stays."""
    model, tok = sharp("qwen2")
    with changed(model, [(1, lambda hidden: hidden)]):
        _run(function, model, tok, vector_of(), 1, 1.0, "With a second hook on the block")


def _check_failure(function: Callable[..., str]) -> None:
    for after, when in ((0, "the first pass"), (2, "the third pass")):
        model, tok = sharp("qwen2")
        before = hooks(model)
        with failing(model, after), suppress(Interrupted):
            function(model, tok, _PROMPT, vector_of(), 1, 1.0, max_new_tokens=_TOKENS)
        check_hooks(model, before, f"After an error in {when} of a generation", _CURE)


def _check_bfloat16(function: Callable[..., str]) -> None:
    """A float32 vector on a bfloat16 model, which is what the notebook has where the CPU gains from it."""
    model, tok = load_tiny_model("llama", dtype=torch.bfloat16)
    vector, what = vector_of(), "bfloat16 model, float32 vector"
    _, passes = _run(function, model, tok, vector, 1, 1.5, what)
    ids, n_prompt, found = read(passes)
    right = [_states(model, ids, n_prompt, 1, 1.5 * vector, mode) for mode in RIGHT_MODES]
    check_close(found, right, f"{what}: the blocks' outputs", tolerance=tolerance(model.dtype))


def _check_yours(function: Callable[..., str], model: Any, tok: Any) -> None:
    """Three tokens of the notebook's own model."""
    layer, what = n_blocks(model) // 2, "your model"
    ids = prompts([{"role": "user", "content": _PROMPT}], tok)[0]
    width = model.get_input_embeddings().embedding_dim
    plain = _states(model, ids, len(ids), layer, torch.zeros(width), "all", [layer])
    vector = vector_of(width) * plain[0].pow(2).mean(-1).sqrt().median()
    _, passes = _run(function, model, tok, vector, layer, 1.0, what, [layer], max_new_tokens=3)
    ids, n_prompt, found = read(passes)
    check_question(ids[:n_prompt], _PROMPT, tok, what, doubled=False)
    # the first position is often larger than all others together
    right = [_states(model, ids, n_prompt, layer, vector, mode, [layer])[:, 1:] for mode in RIGHT_MODES]
    mistakes = _mistakes(model, ids, n_prompt, vector, layer, 1.0, [layer], first=1)
    allowed = tolerance(model.dtype, exact=1e-4)
    check_close(found[:, 1:], right, f"{what}: the block's output", mistakes, allowed)
