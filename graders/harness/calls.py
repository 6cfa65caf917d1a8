"""A call of a learner's code as data: what it gave, and what it did to the model and to its arguments besides."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jinja2.exceptions import TemplateError

from graders.harness.cases import Case, attempt
from graders.harness.differences import same
from graders.harness.expect import check
from graders.harness.hooked import HINT, check_hooks, failing, hooks, observed
from graders.harness.probes import bystander
from personalab.lm.models import decoder_blocks

AFTER_ERROR = "After an error in the forward pass"
LISTS = ["the lists you were given were changed. Work on copies."] * 3


@dataclass(frozen=True)
class Called:
    """What a call gave, and what it did besides.

    Attributes:
        hooks: what `check_hooks` says of the model afterwards; "" where all is well.
        changed: whether each argument was changed in place.
        passes: how many forward passes it made.
        noted: what the context around the call has noted.
        options: names of those that were changed in place.
    """

    found: Any
    hooks: str
    changed: list[bool]
    passes: int
    noted: Any = None
    options: tuple[str, ...] = ()


def called(
    model: Any,
    function: Callable[..., Any],
    *args: Any,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    fails_after: int | None = None,
    cure: str = "Remove it in `finally`, so that an error can't skip that.",
    **options: Any,
) -> Called:
    """Call the function with copies of the arguments and options, other people's hooks on the model.

    Args:
        around: makes a context for the call.
        fails_after: so many forward passes succeed, the next fails, and the error is what was found.
        cure: what to do about a hook left behind.
    """
    given, named, left = copy.deepcopy(args), copy.deepcopy(options), ""
    with ExitStack() as stack:
        for block in decoder_blocks(model):
            stack.enter_context(bystander(block))
        before = hooks(model)
        with torch.random.fork_rng(), around() as noted, observed(model, []) as seen:
            torch.manual_seed(0)
            if fails_after is None:
                found = function(*given, **named)
            else:
                with failing(model, fails_after):
                    found = attempt(lambda: function(*given, **named))
        try:
            check_hooks(model, before, "", cure)
        except AssertionError as error:
            left = str(error)
    changes = [not same(a, b) for a, b in zip(args, given, strict=True)]
    return Called(found, left, changes, len(seen), noted, tuple(n for n in options if not same(options[n], named[n])))


def check_called(seen: Called, what: str, changes: Sequence[str], when: str = "after a normal run") -> None:
    """No hook left behind, no argument changed.

    Args:
        changes: for the first arguments, what to say if one was changed.
    """
    check(not seen.hooks, f"{what}, {when}{seen.hooks}")
    for changed, message in zip(seen.changed, changes, strict=False):
        check(not changed, f"{what}: {message}")
    for name in seen.options:
        check(
            False, f"{what}: you changed the caller's `{name}`. Build one of your own, as in `[*{name}, ...]`: no +=."
        )


def call_case(
    what: str,
    model: Any,
    tok: Any,
    args: Sequence[Any],
    judge: Callable[[Called], None],
    changes: Sequence[str] = LISTS,
    *,
    side: str = "",
    when: str = "after a normal run",
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    cure: str = "Remove it in `finally`, so that an error can't skip that.",
    hint: str = HINT,
    **options: Any,
) -> Case:
    """A call of `work(model, tok, *args, **options)`, and what it gave.

    Where the learner's code hands a system prompt to a template without such a role (Gemma 2's), nothing is judged: no
    Qwen model's template is like that, so such code is right. It is graded on other models.

    Args:
        changes, when: as in `check_called`; `hint`: the case's.
        side: the tokenizer's padding side, if it matters.
    """

    def observe(work: Callable[..., Any]) -> Called | None:
        tok.padding_side = side or tok.padding_side
        try:
            return called(model, partial(work, model, tok), *args, around=around, cure=cure, **options)
        except TemplateError:
            if _takes_system_prompts(tok):
                raise
            return None

    def judge_call(seen: Called | None) -> None:
        if seen is not None:
            check_called(seen, what, changes, when)
            judge(seen)
        elif what.startswith("your model"):
            print("Your model's template has no role for system prompts: your function was graded on others only.")

    return Case(what, observe, judge_call, hint)


def _takes_system_prompts(tok: Any) -> bool:
    try:
        tok.apply_chat_template([{"role": "system", "content": "-"}, {"role": "user", "content": "-"}], tokenize=False)
    except TemplateError:
        return False
    return True


def failing_case(
    model: Any, tok: Any, args: Sequence[Any], what: str = AFTER_ERROR, after: int = 0, **options: Any
) -> Case:
    """A forward pass of the call fails, `after` others, and the model is left as it was; `options` for `called`."""
    return Case(
        what,
        lambda work: called(model, partial(work, model, tok), *args, fails_after=after, **options).hooks,
        lambda left: check(not left, what + left),
        HINT,
    )
