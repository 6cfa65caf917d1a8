"""Section 4, steered generation: one answer inside a steerer."""

from collections.abc import Iterator
from typing import Any

from graders.harness import Case, grader, on_tiny_models
from graders.harness.prompts import check_question
from graders.harness.steered import PROMPT, Exercise, Wrong

RIGHT_MODES = ("all", "response")  # positions that a right answer may be steered at; the signature leaves it open
_MISTAKES = {
    "nothing is added: is generate called inside the `with` block?": Wrong(lambda v, c: 0 * v),
    "coeff is ignored: add coeff * vector (0 must change nothing)": Wrong(lambda v, c: v),
    "the sign is wrong: it must be + coeff * vector": Wrong(lambda v, c: -c * v),
    "the vector is normalised first: hand it to the steerer as it is": Wrong(lambda v, c: c * v / v.norm()),
    "the vector is added twice: two steerers, or coeff both times": Wrong(lambda v, c: 2 * c * v),
    "coeff counts twice: scale the vector, or hand coeff on, not both": Wrong(lambda v, c: c * c * v),
    "you steer block layer + 1: off by one, since `layer` is a block index here": Wrong(shift=1),
    "you steer block layer - 1: off by one, since `layer` is a block index here": Wrong(shift=-1),
    'you steer the prompt only: use positions="all" or "response", so that the answer is steered too': (
        Wrong(where="prompt")
    ),
    "you steer only the last position of the prompt: steer every pass": Wrong(where="prompt's end"),
    "you steer new tokens only: the last position of the prompt counts too": Wrong(where="new tokens"),
}
_EXERCISE = Exercise(
    ("coeff", "layer"),
    RIGHT_MODES,
    _MISTAKES,
    ("Generate inside `with ActivationSteerer(...):`, which removes its hook whatever happens.", "inside the steerer"),
    lambda ids, tok, what, tiny: check_question(ids, PROMPT, tok, what, doubled=tiny),
)


@grader
def test_generate_with_steerer(model: Any = None, tokenizer: Any = None) -> Iterator[Case]:
    """`coeff * vector` at one block while the model answers, the answer alone as text, and a model left as it was."""
    if on_tiny_models():
        yield from _EXERCISE.on_tiny_models()
    if model is not None:
        yield _EXERCISE.on_yours(model, tokenizer)
