"""Section 2, what a hook on a block sees while a model answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch.nn.functional as F

from graders.harness import Called, Case, call_case, check, check_kind, failing_case, grader
from graders.harness.hooked import Pass, observed
from graders.harness.probes import greedy, outputs_changed, returning_tuples
from graders.harness.prompts import check_prompt
from personalab.lm.tiny import FAMILIES, load_tiny_model

_PROMPT = "What is the sea?"

_D = 32  # of the tiny models


@grader
def test_record_hidden_shapes() -> Iterator[Case]:
    """The prefill's shape, then one token a pass, as the block really put them out; and no hook left."""
    for family in FAMILIES:
        yield _shapes(family, 0, {"max_new_tokens": 3})
        yield _shapes(family, 2, {})
    yield _shapes("llama", 1, {}, tuples=True)
    model, tok = load_tiny_model("llama")
    for after, when in ((0, "in the prefill"), (2, "while decoding")):
        yield failing_case(model, tok, (_PROMPT, 1), f"After an error {when}", after)


def _shapes(family: str, layer: int, arguments: dict[str, int], tuples: bool = False) -> Case:
    model, tok = load_tiny_model(family)
    model.generation_config.do_sample = True  # as many models' own configuration has it
    what = f"{family}, layer={layer}{', blocks that return tuples' if tuples else ''}"
    # the block's output is one wider than any other, to tell it from them
    width = _D if tuples else _D + 1
    widened = partial(outputs_changed, model, layer, lambda h: F.pad(h, (0, 1)), lambda h: h[..., :-1])

    @contextmanager
    def watched() -> Iterator[list[Pass]]:
        with observed(model, []) as passes, returning_tuples(model, layer) if tuples else widened():
            yield passes

    options: dict[str, Any] = dict(arguments)

    def judge(seen: Called) -> None:
        ids = [each.ids.tolist() for each in seen.noted]
        check(ids, "the model was never run. Call model.generate while your hook is on.")
        _check_generation(model, tok, ids, arguments.get("max_new_tokens", 5))
        _check_shapes(seen.found, [(1, len(rows[0]), width) for rows in ids])

    return call_case(what, model, tok, (_PROMPT, layer), judge, around=watched, **options)


def _check_shapes(found: Any, expected: list[tuple[int, ...]]) -> None:
    check_kind(found, list, "expected a list of shapes")
    shapes = [tuple(s) if isinstance(s, list | tuple) else s for s in found]
    if shapes == expected:
        return
    likely = "Append one shape, as a tuple, in every call of the hook."
    if shapes == [s[1:] for s in expected]:
        likely = "You took output[0] of a plain tensor: that is batch element 0. Take it of a tuple only."
    elif shapes == [(*s[:2], _D) for s in expected]:
        likely = "You hooked another block: we made this block's output one wider than d_model to tell. Off by one?"
    elif shapes and shapes == expected[: len(shapes)]:
        likely = f"You recorded {len(shapes)} of {len(expected)} passes: keep the hook on until generation is over."
    raise AssertionError(f"wrong shapes.\n  expected {expected}\n  found    {shapes}\n  {likely}")


def _check_generation(model: Any, tok: Any, seen: list[list[list[int]]], n_new: int) -> None:
    first, *later = seen
    prompt, lengths = tok.decode(first[0]), [len(ids[0]) for ids in seen]
    check(
        len(first) == 1 and _PROMPT in prompt,
        f"the first forward pass read {prompt!r}; expected one row with the prompt {_PROMPT!r}.",
    )
    check_prompt(first[0], [{"role": "user", "content": _PROMPT}], tok, "the first forward pass", {})
    check(
        all(n == 1 for n in lengths[1:]),
        f"the forward passes read {lengths} tokens; expected the whole prompt once and then one token a pass. Is the "
        "cache switched off, or do you generate more than once?",
    )
    expected, fed = greedy(model, first[0], n_new), [ids[0][0] for ids in later]
    check(
        len(seen) == len(expected),
        f"{len(seen)} forward passes for max_new_tokens={n_new}; expected {len(expected)}: the prefill gives the first "
        "new token. Is max_new_tokens handed on?",
    )
    check(
        fed == expected[:-1],
        f"the tokens generated are {fed}, greedy decoding gives {expected[:-1]}. Pass do_sample=False: this model's "
        "generation_config says do_sample=True.",
    )
