"""Hooks in a `with` block: a model's call inside the learner's work, what it must amount to, and what is left of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from graders.harness.calls import Called, called, check_called
from graders.harness.cases import Case, Raised, attempt
from graders.harness.expect import Tolerance, check, check_close, relative, tolerance
from graders.harness.hooked import HINT, Left, Pass, changed, check_left, failing, hooks, left, observed
from personalab.lm.models import decoder_blocks, n_blocks

Hidden = Float[Tensor, "rows tokens d"]
Rules = Sequence[tuple[int, Callable[[Hidden], Hidden]]]  # (block, what becomes of its output), in order
Context = AbstractContextManager[Any]

CLOSE = tolerance(torch.float32, exact=1e-4)
_TEXTS = ["You are a pirate. " * 3, "What is the moon?", "Tell me what you think about the sea and the city."]


def batch(tok: Any) -> dict[str, Tensor]:
    """Three rows of unequal length, padded on the left as for generation."""
    tok.padding_side = "left"
    return dict(tok(_TEXTS, return_tensors="pt", padding=True, return_token_type_ids=False))


def two_rows(model: Any) -> dict[str, Tensor]:
    """For the notebook's own model, whatever its tokenizer."""
    ids = torch.arange(100, 116, device=model.device)
    return {"input_ids": torch.stack([ids, ids.flip(0)])}


@torch.inference_mode()
def forward(model: Any, inputs: dict[str, Tensor]) -> Any:
    """One pass."""
    return model(**inputs)


def generate(model: Any, inputs: dict[str, Tensor]) -> Any:
    """Cached generation of five tokens."""
    return model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False)


@dataclass(frozen=True)
class HookCase:
    """One call of a model, inside the learner's context manager.

    Attributes:
        call: model -> anything, a pass or a generation.
        make: (learner's class, tensors given) -> the context manager.
        rules: what it must amount to.
        mistakes: explanation -> what it amounts to instead; one that needs a block which the model lacks is left out.
        given: tensors that must stay as they are; `make` gets copies.
        cures: what to do about a hook left behind, and about a tensor given that was changed.
        around: what stands around the call, such as other hooks; it may give a list, and put complaints there.
        watch: blocks whose outputs are compared, by default all.
        first: the first position compared: on real models that of the first token is larger than all others together.
    """

    what: str
    model: Any
    call: Callable[[Any], Any]
    make: Callable[..., Context]
    rules: Rules
    mistakes: Mapping[str, Rules] = field(default_factory=dict)
    given: tuple[Tensor, ...] = ()
    cures: tuple[str, str] = ("", "")
    tolerance: Tolerance = CLOSE
    around: Callable[[], Context] = nullcontext
    watch: Sequence[int] = ()
    first: int = 0

    def case(self) -> Case:
        return Case(self.what, self._observe, self._judge, HINT)

    def _observe(self, work: Any) -> Called:
        def run(*given: Tensor) -> None:
            inside(self.make(work, *given), partial(self.call, self.model))

        @contextmanager
        def watching() -> Iterator[tuple[list[Pass], list[str]]]:
            with self.around() as notes, observed(self.model, self._watched) as passes:
                yield passes, [] if notes is None else notes

        return called(self.model, run, *self.given, around=watching, cure=self.cures[0])

    def _judge(self, seen: Called) -> None:
        check_called(seen, self.what, [self.cures[1]] * len(self.given), "after the `with` block")
        states, notes = self._named(seen.noted[0]), seen.noted[1]
        check(not notes, "".join(notes[:1]))
        n, right = n_blocks(self.model), self._under(self.rules)
        mistakes = {
            why: partial(self._flat_under, rules)
            for why, rules in self.mistakes.items()
            if all(0 <= block < n for block, _ in rules)
        }
        pairs = {name: (states.get(name), state) for name, state in right.items()}
        wrong = [n for n, (a, b) in pairs.items() if a is None or relative(a, b) > self.tolerance.allowed(1.0)]
        what = "what the blocks put out" + (f" (wrong from {wrong[0]} on)" if wrong else "")
        check_close(_flat(states), [_flat(right)], what, mistakes, self.tolerance)

    def _under(self, rules: Rules) -> dict[str, Hidden]:
        """What the model reads under these rules."""
        with changed(self.model, rules), observed(self.model, self._watched) as passes:
            self.call(self.model)
        return self._named(passes)

    def _flat_under(self, rules: Rules) -> Float[Tensor, "values"]:
        return _flat(self._under(rules))

    @property
    def _watched(self) -> Sequence[int]:
        return self.watch or range(n_blocks(self.model))

    def _named(self, passes: list[Pass]) -> dict[str, Hidden]:
        return {
            f"pass {i}, block {block}": state[:, self.first :].float()
            for i, step in enumerate(passes)
            for block, state in step.states.items()
        }


def _flat(states: dict[str, Hidden]) -> Float[Tensor, "values"]:
    """All at once: several passes differ in shape."""
    return torch.cat([state.flatten() for state in states.values()])


@contextmanager
def tuple_out(model: Any, layer: int) -> Iterator[list[str]]:
    """Block `layer` gives `(hidden, extra)`, as in older versions of transformers; both must come out again."""
    extra, notes = object(), []

    def wrap(_module: nn.Module, _args: Any, output: Tensor) -> tuple[Tensor, object]:
        return output, extra

    def unwrap(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        whole = isinstance(args[0], tuple) and len(args[0]) == 2 and args[0][1] is extra
        if not whole:
            notes.append(
                "expected your hook to return a tuple with the same further elements, found "
                f"{type(args[0]).__name__}. Return `(hidden, *output[1:])` where you were given a tuple."
            )
        return (args[0][0], *args[1:]) if isinstance(args[0], tuple) else args

    block, following = decoder_blocks(model)[layer : layer + 2]
    with block.register_forward_hook(wrap), following.register_forward_pre_hook(unwrap):
        yield notes


@contextmanager
def tensor_kept(model: Any, layer: int) -> Iterator[list[str]]:
    """The tensor that a block returned still holds what it held."""
    kept: list[tuple[Tensor, Tensor]] = []
    notes: list[str] = []

    def keep(_module: nn.Module, _args: Any, output: Tensor) -> None:
        kept.append((output, output.clone()))

    with decoder_blocks(model)[layer].register_forward_hook(keep):
        yield notes
    if not all(torch.equal(output, copy) for output, copy in kept):
        notes.append(
            "the tensor that the block returned was changed in place. Others may hold it (caches, other hooks, "
            "autograd): change a copy, `hidden = hidden.clone()` or `hidden + ...`, no `+=` on the block's own."
        )


def left_case(
    what: str, model: Any, run: Callable[[Any], Any], cure: str, judge: Callable[[Any], None] = lambda outcome: None
) -> Case:
    """`run` does something with the learner's work: the model then carries what it did before, and `judge` agrees."""

    def observe(work: Any) -> tuple[Any, Left]:
        before = hooks(model)
        return run(work), left(model, before)

    def judged(found: tuple[Any, Left]) -> None:
        check_left(found[1], what, cure)
        judge(found[0])

    return Case(what, observe, judged, HINT)


def inside(context: Context, call: Callable[[], Any]) -> None:
    """A call in a `with` block."""
    with context:
        call()


def lifetime_cases(model: Any, call: Callable[[Any], Any], make: Callable[[Any], Context], cure: str) -> Iterator[Case]:
    """Nothing before the `with` block, and nothing after an error in it, which comes out."""

    def made(work: Any) -> None:
        make(work)

    def interrupted(work: Any, after: int) -> Any:
        with failing(model, after):
            return attempt(lambda: inside(make(work), partial(call, model)))

    def came_out(outcome: Any, what: str) -> None:
        found = outcome if isinstance(outcome, Raised) else "it swallowed"
        check(
            isinstance(outcome, Raised) and outcome.kinds[0] == "Interrupted",
            f"{what}: expected it to reach the caller, found {found}. Let `__exit__` return None, not True.",
        )

    yield left_case("Made but not entered", model, made, cure)
    for after, which in ((0, "first"), (2, "third")):
        what = f"After an error in the {which} pass inside the `with` block"
        yield left_case(what, model, partial(interrupted, after=after), cure, partial(came_out, what=what))


def refused_case(what: str, model: Any, make: Callable[[Any], Context], why: str) -> Case:
    """Bad arguments: a ValueError (or an assertion) from making or entering, and no hook left."""
    what = f"{what}, which must be refused"

    def judge(outcome: Any) -> None:
        refused = isinstance(outcome, Raised) and {"ValueError", "AssertionError"} & set(outcome.kinds)
        found = outcome if isinstance(outcome, Raised) else "it accepted"
        check(refused, f"{what}: expected a ValueError, found {found}. {why}")

    def run(work: Any) -> Any:
        return attempt(lambda: inside(make(work), lambda: None))

    return left_case(what, model, run, "Compare before you register anything.", judge)
