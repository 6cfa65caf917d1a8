"""Section 2, steering along the Assistant Axis: one answer with `alpha * vector` added to a block's output."""

from collections.abc import Iterator
from typing import Any

from graders.harness import Called, Case, grader, on_tiny_models
from graders.harness.prompts import Messages, check_prompt
from graders.harness.steered import PROMPT, Exercise, Situation, Wrong, sharp, vector_of
from personalab.lm.tiny import FAMILIES

_SYSTEM = "You are a pirate."
_EARLIER = [
    {"role": "user", "content": "Tell me what you think about the moon."},
    {"role": "assistant", "content": "The moon pulls on the sea."},
]
_MISTAKES = {
    "nothing is added: the hook returns nothing, or is not in force during generation": Wrong(lambda v, a: 0 * v),
    "alpha is ignored: the vector is added as it is (0 must change nothing)": Wrong(lambda v, a: v),
    "the sign is wrong: it must be + alpha * vector": Wrong(lambda v, a: -a * v),
    "the vector is normalised first: add alpha * vector as it is, alpha is in units of the vector given": (
        Wrong(lambda v, a: a * v / v.norm())
    ),
    "the vector is added twice: the hook is registered twice, or one was left from before": (
        Wrong(lambda v, a: 2 * a * v)
    ),
    "you steer block steering_layer + 1: off by one, since `steering_layer` is a block index here": Wrong(shift=1),
    "you steer block steering_layer - 1: off by one, since `steering_layer` is a block index here": Wrong(shift=-1),
    "you steer only the last position of each pass: steer every position of the prompt too": Wrong(where="response"),
    "you steer the prompt only: steer every pass, the new tokens' too": Wrong(where="prompt"),
    "you steer new tokens only: steer the prompt's positions too": Wrong(where="new tokens"),
    "you steer only the last position of the prompt": Wrong(where="prompt's end"),
}
_EXERCISE = Exercise(
    ("alpha", "steering_layer"),
    ("all",),
    _MISTAKES,
    ("Put the call of generate in `try:` and `handle.remove()` in `finally:`.", "with the hook in force"),
)


@grader
def test_generate_with_steering_basic(
    model: Any = None, tokenizer: Any = None, d_model: int | None = None
) -> Iterator[Case]:
    """`alpha * vector` at every position of one block, the answer alone as text, and a model left as it was."""
    if on_tiny_models():
        yield from _EXERCISE.on_tiny_models()
        for family in FAMILIES:
            yield from _conversations(family)
    if model is not None:
        yield _EXERCISE.on_yours(model, tokenizer)


def _conversations(family: str) -> Iterator[Case]:
    """What stands before the prompt: name, options, the right conversation, and wrong ones."""
    user, system = [{"role": "user", "content": PROMPT}], [{"role": "system", "content": _SYSTEM}]
    ignored = "`messages` is left out: the earlier turns come before the prompt"
    missing = "the prompt is left out: it is the user's turn that follows `messages`"
    no_system = "the system prompt is left out"
    cases: list[tuple[str, dict[str, Any], Messages, dict[str, Messages]]] = [
        ("a prompt alone", {}, user, {}),
        ("messages", {"messages": _EARLIER}, _EARLIER + user, {ignored: user, missing: _EARLIER}),
        ("a system prompt", {"system_prompt": _SYSTEM}, system + user, {no_system: user}),
        (
            "a system prompt and messages",
            {"system_prompt": _SYSTEM, "messages": _EARLIER},
            system + _EARLIER + user,
            {no_system: _EARLIER + user, ignored: system + user, missing: system + _EARLIER},
        ),
    ]
    tiny, tok = sharp(family)
    # gemma2 has no system role, and more than one way round that is right
    for name, options, right, wrong in cases[: 2 if family == "gemma2" else 4]:
        what, options = f"{family}, {name}", {"max_new_tokens": 2, **options}

        def judge(seen: Called, right: Messages = right, wrong: dict[str, Messages] = wrong, what: str = what) -> None:
            check_prompt(seen.noted[0].ids[0].tolist(), right, tok, what, wrong)

        yield _EXERCISE.called(Situation(what, tiny, tok, vector_of(), 1, 1.0, options), judge)
