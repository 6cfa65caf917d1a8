"""What goes on when a learner's code lets the model write, and what the model is to say there."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from graders.harness.hooked import Pass, observed

Rows = list[list[int]]
Script = Callable[[Rows], list[Rows]]  # prompts -> for each, the ids that may come at each step; then the end marker


@dataclass(frozen=True)
class Row:
    """One row of a call: ids it was to continue, without padding, and ids that came, up to the end marker."""

    prompt: list[int]
    new: list[int]
    padded_right: bool


@dataclass(frozen=True)
class Call:
    """One `model.generate`.

    Attributes:
        n_new: how many tokens it made, end marker and padding included.
        passes: what the watched blocks put out, if any are watched.
    """

    rows: list[Row]
    n_new: int
    passes: list[Pass]


class _Scripted(LogitsProcessor):
    """Row by row only the ids allowed at each step, then the end marker."""

    def __init__(self, rows: list[Rows], n_prompt: int, end: int) -> None:
        self.rows, self.n_prompt, self.end = rows, n_prompt, end

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        allowed = torch.full_like(scores, float("-inf"))
        n = input_ids.shape[1] - self.n_prompt
        for row, steps in enumerate(self.rows):
            ids = steps[n] if n < len(steps) else [self.end]
            # it says so whatever a model's sampling leaves out, and whatever a NaN makes of its scores
            allowed[row, ids] = scores[row, ids].nan_to_num(nan=0.0, neginf=-1e4)
        return allowed


class Calls(list[Call]):
    """What the model wrote, in order; a loop of the learner's own ends where another prompt begins, or on `settle`."""

    def __init__(self, heard: Callable[[Call], None]) -> None:
        super().__init__()
        self._heard = heard
        self.generating, self.loop = False, cast("_Loop | None", None)

    def add(self, call: Call) -> None:
        """One more, and who is told hears of it."""
        self.append(call)
        self._heard(call)

    def settle(self) -> None:
        """The loop that goes on, if any, is at its end."""
        loop, self.loop = self.loop, None
        if loop is not None:
            self.add(loop.call())


class _Loop:
    """A loop of the learner's own: passes that continue prompts, and what each row is to say."""

    def __init__(self, prompts: Rows, steps: list[Rows], end: int) -> None:
        self.prompts, self.steps, self.end = prompts, steps, end
        self.new: Rows = [[] for _ in prompts]
        self.passes: list[Pass] = []

    def goes_on(self, rows: Rows) -> bool:
        """Whether a pass over these ids is its next: each row's last id, or without a cache everything again."""

        def follows(ids: list[int], prompt: list[int], new: list[int]) -> bool:
            if self.end in new:  # whatever is put there
                return len(ids) == 1 or ids[: len(prompt)] == prompt != ids
            return ids in (new[-1:], prompt + new)

        return len(rows) == len(self.new) and all(map(follows, rows, self.prompts, self.new))

    def say(self, logits: Tensor) -> None:
        """Nothing is left of the pass but the next id of each row."""
        logits[:, -1] = float("-inf")
        for row, (new, steps) in enumerate(zip(self.new, self.steps, strict=True)):
            new.append(steps[len(new)][0] if len(new) < len(steps) else self.end)
            logits[row, -1, new[-1]] = 0

    def call(self) -> Call:
        """As if `model.generate` had made it."""
        rows = [Row(p, _up_to(self.end, new), False) for p, new in zip(self.prompts, self.new, strict=True)]
        return Call(rows, max(map(len, self.new)), self.passes)


@contextmanager
def intercepted(
    model: Any,
    tok: Any,
    script: Script | None = None,
    watch: Sequence[int] | None = None,
    heard: Callable[[Call], None] = lambda call: None,
    loops: bool = False,
) -> Iterator[Calls]:
    """Every `model.generate` inside the `with`, in order; what it returns is its own.

    Args:
        script: what it is to say, by default what it would; an error that it raises is one of the model's.
        watch: blocks whose outputs are kept.
        heard: told of each call before the caller gets the answer.
        loops: with a script, passes outside it which continue a prompt that ends in an answer's header count as well.
    """
    calls, original = Calls(heard), model.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        calls.settle()
        given = args[0] if args else kwargs["input_ids" if "input_ids" in kwargs else "inputs"]
        mask = _mask(given, kwargs.get("attention_mask"), tok)
        prompts = [ids[seen].tolist() for ids, seen in zip(given, mask, strict=True)]
        if script is not None:
            scripted = _Scripted(script(prompts), given.shape[1], tok.eos_token_id)
            kwargs["logits_processor"] = LogitsProcessorList([*(kwargs.get("logits_processor") or []), scripted])
        calls.generating = True
        try:
            with observed(model, watch or []) as passes:
                output = original(*args, **kwargs)
        finally:
            calls.generating = False
        new = getattr(output, "sequences", output)[:, given.shape[1] :]
        right = [not seen[-1] or int(ids[-1]) == tok.pad_token_id for ids, seen in zip(given, mask, strict=True)]
        rows = [
            Row(p, _up_to(tok.eos_token_id, ids.tolist()), r) for p, ids, r in zip(prompts, new, right, strict=True)
        ]
        calls.add(Call(rows, new.shape[1], passes))
        return output

    model.__dict__["generate"] = generate
    try:
        with _looped(model, tok, script, watch or [], calls) if loops and script else nullcontext():
            yield calls
        calls.settle()
    finally:
        del model.__dict__["generate"]


@contextmanager
def _looped(model: Any, tok: Any, script: Script, watch: Sequence[int], calls: Calls) -> Iterator[None]:
    """Passes outside `model.generate` which continue a prompt that ends in the header of an answer."""
    turn = [{"role": "user", "content": "-"}]
    plain, ready = (tok.apply_chat_template(turn, tokenize=False, add_generation_prompt=g) for g in (False, True))
    header, thought = ready.removeprefix(plain).rstrip(), re.compile(r"\s*(<think>\s*</think>)?\s*$")
    with observed(model, watch) as passes:

        def settle(_module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
            if calls.generating:
                return
            ids, mask = passes[-1].ids, kwargs.get("attention_mask")
            seen = mask.bool() if mask is not None and mask.shape == ids.shape else _mask(ids, None, tok)
            rows = [row[s].tolist() for row, s in zip(ids, seen, strict=True)]
            if calls.loop is None or not calls.loop.goes_on(rows):
                calls.settle()
                if not all(thought.sub("", tok.decode(row)).endswith(header) for row in rows):
                    return
                calls.loop = _Loop(rows, script(rows), tok.eos_token_id)
            calls.loop.passes.append(passes[-1])
            calls.loop.say(output.logits)

        with model.register_forward_hook(settle, with_kwargs=True):
            yield


@dataclass
class Written:
    """One answer: the ids it continues, those that came, and the passes that made them."""

    prompt: list[int]
    steps: Rows
    new: list[int] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)

    def goes_on(self, ids: list[int]) -> bool:
        """Whether a pass over these ids is its next: the last id, or without a cache everything again."""
        return ids in (self.new[-1:], self.prompt + self.new)


@contextmanager
def written(model: Any, tok: Any, script: Script, watch: Sequence[int]) -> Iterator[list[Written]]:
    """Every answer of one row inside the `with`, by `model.generate` or by a loop of the learner's own.

    Args:
        script: one id a step, as whatever follows a pass is settled there.
        watch: blocks whose outputs are kept.
    """
    answers: list[Written] = []
    with observed(model, watch) as passes:

        def settle(_module: Any, _args: Any, output: Any) -> None:
            ids = passes[-1].ids[0].tolist()
            if not answers or not answers[-1].goes_on(ids):
                answers.append(Written(ids, script([ids])[0]))
            answer = answers[-1]
            answer.passes.append(passes[-1])
            n = len(answer.new)
            answer.new += answer.steps[n] if n < len(answer.steps) else [tok.eos_token_id]
            output.logits[:, -1] = float("-inf")
            output.logits[:, -1, answer.new[-1]] = 0

        with model.register_forward_hook(settle):
            yield answers


def _mask(given: Int[Tensor, "rows tokens"], mask: Tensor | None, tok: Any) -> Bool[Tensor, "rows tokens"]:
    """Without a mask, transformers masks what equals the padding token, unless that is the end marker too."""
    if mask is not None:
        return mask.bool()
    return given != tok.pad_token_id if tok.pad_token_id != tok.eos_token_id else torch.ones_like(given).bool()


def _up_to(end: int, ids: list[int]) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
