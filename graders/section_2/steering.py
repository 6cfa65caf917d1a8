"""Section 2, steering along the Assistant Axis."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graders.harness.expect import check, check_close, grader, on_tiny_models, tolerance
from graders.harness.hooked import Interrupted, Pass, changed, check_hooks, failing, hooks, observed, running
from graders.harness.prompts import Messages, check_prompt, prompts
from personalab.lm.models import n_blocks
from personalab.lm.tiny import FAMILIES, load_tiny_model

_PROMPT = "What should I do when I feel afraid?"
_SYSTEM = "You are a pirate."
_EARLIER = [
    {"role": "user", "content": "Tell me what you think about the moon."},
    {"role": "assistant", "content": "The moon pulls on the sea."},
]
_TOKENS = 6
_CURE = "Put the call of generate in `try:` and `handle.remove()` in `finally:`."


@grader
def test_generate_with_steering_basic(
    generate_with_steering: Callable[..., str],
    model: Any = None,
    tokenizer: Any = None,
    d_model: int | None = None,
) -> None:
    """`alpha * vector` at every position of one block, the answer alone as text, and a model left as it was."""
    if on_tiny_models():
        _check_on_tiny_models(generate_with_steering)
    if model is not None:
        _check_yours(generate_with_steering, model, tokenizer)


def _check_on_tiny_models(generate_with_steering: Callable[..., str]) -> None:
    for i, family in enumerate(FAMILIES):
        tiny, tok = _greedy(family)
        block = (1, 0, 2, 3, 1)[i]
        vector = _vector(32, seed=i)
        _check_steered(generate_with_steering, tiny, tok, vector, block, 1.5, f"{family}, alpha=1.5")
        _check_steered(generate_with_steering, tiny, tok, vector, block, -0.5, f"{family}, alpha=-0.5")
        _check_steered(generate_with_steering, tiny, tok, vector, block, 0.0, f"{family}, alpha=0")
        _check_prompts(generate_with_steering, tiny, tok, family)
    _check_end_marker(generate_with_steering)
    _check_temperature(generate_with_steering)
    _check_company(generate_with_steering)
    _check_failure(generate_with_steering)
    _check_bfloat16(generate_with_steering)


def _greedy(family: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """A tiny model whose sampling has one outcome, whatever the temperature."""
    tiny, tok = load_tiny_model(family, dtype=dtype)
    tiny.generation_config.top_k = 1
    return tiny, tok


def _vector(width: int, seed: int) -> Float[Tensor, "d"]:
    """About as long as a tiny model's activations, and of no particular norm."""
    return 1.3 * torch.randn(width, generator=torch.Generator().manual_seed(seed))


def _run(
    function: Callable[..., str],
    model: Any,
    tok: Any,
    vector: Tensor,
    block: int,
    alpha: float,
    what: str,
    watch: list[int] | None = None,
    **options: Any,
) -> tuple[str, list[Pass]]:
    """Call the function, watch the model read, and check what must hold after every call."""
    before, kept, kept_options = hooks(model), vector.clone(), copy.deepcopy(options)
    with observed(model, watch or range(n_blocks(model))) as passes, running(what):
        reply = function(model, tok, _PROMPT, vector, block, alpha, **{"max_new_tokens": _TOKENS} | options)
    check_hooks(model, before, f"{what}, after a normal call", _CURE)
    check(
        torch.equal(vector, kept), f"{what}: you changed `steering_vector` in place. Write `alpha * vector`, no `*=`."
    )
    check(
        options == kept_options,
        f"{what}: you changed the caller's `messages`. Build a list of your own: `[*messages, ...]`, no append or +=.",
    )
    check(isinstance(reply, str), f"{what}: expected a str, found {type(reply).__name__}.")
    check(passes, f"{what}: expected the model to generate, but it never ran.")
    return reply, passes


def _sequence(passes: list[Pass]) -> tuple[list[int], int, Float[Tensor, "blocks tokens d"]]:
    """All ids the model read, how many of them were the prompt, and every block's output at each."""
    ids: list[int] = []
    states: list[Tensor] = []
    for step in passes:
        if step.ids.shape[1] > 1:  # the prompt, or, without a cache, everything again
            ids, states = [], []
        ids += step.ids[0].tolist()
        states.append(torch.stack([s[0].float() for s in step.states.values()]))
    return ids, passes[0].ids.shape[1], torch.cat(states, dim=1)


@torch.inference_mode()
def _oracle(
    model: Any, ids: list[int], block: int, push: Float[Tensor, "tokens d"], watch: list[int] | None = None
) -> tuple[Float[Tensor, "blocks tokens d"], Float[Tensor, "tokens vocab"]]:
    """States and logits of the whole sequence in one pass without a cache, `push` added to the block's output."""
    add = [(block, lambda h: h + push.to(h))]
    with changed(model, add), observed(model, watch or range(n_blocks(model))) as passes:
        logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0]
    return torch.stack([s[0].float() for s in passes[0].states.values()]), logits.float().cpu()


def _check_steered(
    function: Callable[..., str], model: Any, tok: Any, vector: Tensor, block: int, alpha: float, what: str
) -> None:
    what = f"{what}, steering_layer={block}"
    reply, passes = _run(function, model, tok, vector, block, alpha, what)
    ids, n_prompt, found = _sequence(passes)
    right, _ = _oracle(model, ids, block, alpha * vector.expand(len(ids), -1))
    mistakes = _mistakes(model, ids, n_prompt, vector, block, alpha)
    check_close(found, [right], f"{what}: the blocks' outputs", mistakes, tolerance(model.dtype, exact=1e-4))
    _check_reply(reply, model, tok, ids[:n_prompt], block, alpha * vector, what)


def _mistakes(
    model: Any,
    ids: list[int],
    n_prompt: int,
    vector: Tensor,
    block: int,
    alpha: float,
    watch: list[int] | None = None,
    first: int = 0,
) -> dict[str, Callable[[], Tensor | list[Tensor]]]:
    """Outputs of the blocks from position `first` on, under typical mistakes, each computed when a check fails."""
    position = torch.arange(len(ids))[:, None]

    def steer(push: Tensor = alpha * vector, where: Tensor | None = None, shift: int = 0) -> Tensor | list[Tensor]:
        if not 0 <= block + shift < n_blocks(model):
            return []
        mask = torch.ones_like(position) if where is None else where
        return _oracle(model, ids, block + shift, mask * push, watch)[0][:, first:]

    doubled = "the vector is added twice: the hook is registered twice, or one was left from before"
    return {
        "nothing is added: the hook returns nothing, or is not in force during generation": partial(steer, 0 * vector),
        "alpha is ignored: the vector is added as it is (0 must change nothing)": partial(steer, vector),
        "the sign is wrong: it must be + alpha * vector": partial(steer, -alpha * vector),
        "the vector is normalised first: add alpha * vector as it is, alpha is in units of the vector given": (
            partial(steer, alpha * vector / vector.norm())
        ),
        doubled: partial(steer, 2 * alpha * vector),
        "you steer block steering_layer + 1: off by one, since `steering_layer` is a block index here": (
            partial(steer, shift=1)
        ),
        "you steer block steering_layer - 1: off by one, since `steering_layer` is a block index here": (
            partial(steer, shift=-1)
        ),
        "you steer only the last position of each pass: steer every position of the prompt too": (
            partial(steer, where=position >= n_prompt - 1)
        ),
        "you steer the prompt only: steer every pass, the new tokens' too": partial(steer, where=position < n_prompt),
        "you steer new tokens only: steer the prompt's positions too": partial(steer, where=position >= n_prompt),
        "you steer only the last position of the prompt": partial(steer, where=position == n_prompt - 1),
    }


def _continuation(model: Any, ids: list[int], block: int, push: Tensor) -> list[int]:
    """The likeliest next tokens, one whole pass each, up to the end marker."""
    new: list[int] = []
    while len(new) < _TOKENS and model.generation_config.eos_token_id not in new:
        everything = ids + new
        _, logits = _oracle(model, everything, block, push.expand(len(everything), -1))
        new.append(int(logits[-1].argmax()))
    return new


def _check_reply(reply: str, model: Any, tok: Any, prompt: list[int], block: int, push: Tensor, what: str) -> None:
    new = _continuation(model, prompt, block, push)
    right = tok.decode(new, skip_special_tokens=True).strip()
    found = reply.strip()
    if found == right:
        return
    if _PROMPT in found:
        guess = "The prompt is in the reply: decode only the ids after the prompt, `output[0, n_prompt:]`."
    elif found == tok.decode(new, skip_special_tokens=False).strip():
        guess = "Special tokens are in the reply: decode with skip_special_tokens=True."
    elif right and (found.startswith(right) or right.startswith(found)):
        guess = f"Its length is wrong: return up to max_new_tokens={_TOKENS} tokens, all of them."
    elif found == tok.decode(_continuation(model, prompt, block, 0 * push), skip_special_tokens=True).strip():
        guess = "It is the answer of the model without steering: return the one generated with the hook in force."
    else:
        guess = "Return the text of the new tokens that `generate` gave with the hook in force, nothing else."
    raise AssertionError(f"{what}: wrong reply.\n  expected: {right!r}\n  found:    {found!r}\n  {guess}")


def _check_prompts(function: Callable[..., str], model: Any, tok: Any, family: str) -> None:
    user, system = [{"role": "user", "content": _PROMPT}], [{"role": "system", "content": _SYSTEM}]
    ignored = "`messages` is left out: the earlier turns come before the prompt"
    missing = "the prompt is left out: it is the user's turn that follows `messages`"
    no_system = "the system prompt is left out"
    cases: list[tuple[str, dict[str, Any], Messages, dict[str, Messages]]] = [
        ("a prompt alone", {}, user, {}),
        ("messages", {"messages": _EARLIER}, _EARLIER + user, {ignored: user, missing: _EARLIER}),
    ]
    if family != "gemma2":  # it has no system role, and more than one way round that is right
        everything = {no_system: _EARLIER + user, ignored: system + user, missing: system + _EARLIER}
        cases += [
            ("a system prompt", {"system_prompt": _SYSTEM}, system + user, {no_system: user}),
            (
                "a system prompt and messages",
                {"system_prompt": _SYSTEM, "messages": _EARLIER},
                system + _EARLIER + user,
                everything,
            ),
        ]
    for name, options, right, wrong in cases:
        what = f"{family}, {name}"
        _, passes = _run(function, model, tok, _vector(32, 0), 1, 1.0, what, max_new_tokens=2, **copy.deepcopy(options))
        check_prompt(passes[0].ids[0].tolist(), right, tok, what, wrong)


def _check_end_marker(function: Callable[..., str]) -> None:
    """Steered so that the end marker comes first: the reply is empty, not the marker's name."""
    model, tok = _greedy("llama")
    vector = model.lm_head.weight[model.generation_config.eos_token_id].detach().clone()
    _check_steered(function, model, tok, vector, n_blocks(model) - 1, 100.0, "llama, steered to end at once")


def _check_temperature(function: Callable[..., str]) -> None:
    model, tok = load_tiny_model("llama")
    vector = _vector(32, 0)
    found = {}
    with torch.random.fork_rng():
        for temperature in (1e-5, 100.0):
            torch.manual_seed(0)
            what = f"temperature={temperature}"
            found[temperature], passes = _run(function, model, tok, vector, 1, 0.5, what, temperature=temperature)
    prompt = passes[0].ids[0].tolist()
    right = tok.decode(_continuation(model, prompt, 1, 0.5 * vector), skip_special_tokens=True).strip()
    check(
        found[1e-5].strip() == right,
        f"temperature=1e-05: expected the likeliest answer {right!r}, found {found[1e-5]!r}. Pass `temperature` on to "
        "generate.",
    )
    check(
        found[100.0].strip() != right,
        f"temperature=100: expected a random answer, found the likeliest one, {right!r}. Pass `temperature` on to "
        "generate, with do_sample=True.",
    )


def _check_company(function: Callable[..., str]) -> None:
    """Somebody else's hook on the same block stays."""
    model, tok = _greedy("qwen2")
    with changed(model, [(1, lambda hidden: hidden)]):
        _run(function, model, tok, _vector(32, 0), 1, 1.0, "With a second hook on the block")


def _check_failure(function: Callable[..., str]) -> None:
    for after, when in ((0, "the first pass"), (2, "the third pass")):
        model, tok = _greedy("qwen2")
        before = hooks(model)
        with failing(model, after), suppress(Interrupted):
            function(model, tok, _PROMPT, _vector(32, 0), 1, 1.0, max_new_tokens=_TOKENS)
        check_hooks(model, before, f"After an error in {when} of a generation", _CURE)


def _check_bfloat16(function: Callable[..., str]) -> None:
    """A float32 vector on a bfloat16 model, which is what the notebook has where the CPU gains from it."""
    (model, tok), vector = _greedy("llama", torch.bfloat16), _vector(32, 0)
    _, passes = _run(function, model, tok, vector, 1, 1.5, "bfloat16 model, float32 vector")
    ids, _, found = _sequence(passes)
    right, _ = _oracle(model, ids, 1, 1.5 * vector.expand(len(ids), -1))
    what = "bfloat16 model, float32 vector: the blocks' outputs"
    check_close(found, [right], what, tolerance=tolerance(model.dtype))


def _check_yours(function: Callable[..., str], model: Any, tok: Any) -> None:
    """Three tokens of the notebook's own model."""
    block = n_blocks(model) // 2
    ids = prompts([{"role": "user", "content": _PROMPT}], tok)[0]
    width = model.get_input_embeddings().embedding_dim
    plain, _ = _oracle(model, ids, block, torch.zeros(len(ids), width), [block])
    vector = _vector(width, 0) * plain[0].pow(2).mean(-1).sqrt().median()
    _, passes = _run(function, model, tok, vector, block, 1.0, "your model", [block], max_new_tokens=3)
    ids, n_prompt, found = _sequence(passes)
    right, _ = _oracle(model, ids, block, vector.expand(len(ids), -1), [block])
    mistakes = _mistakes(model, ids, n_prompt, vector, block, 1.0, [block], first=1)
    what, allowed = "your model: the block's output", tolerance(model.dtype, exact=1e-4)
    # the first position is often larger than all others together
    check_close(found[:, 1:], [right[:, 1:]], what, mistakes, allowed)
