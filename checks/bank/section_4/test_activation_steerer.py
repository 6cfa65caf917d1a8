# Over 300 lines on purpose: one file an exercise, and its table of solutions is the content.
import contextlib
from unittest import mock

import einops
import numpy as np
import torch

from checks.bank import right, wrong
from checks.bank.section_4.steerer_parts import (
    Base,
    everywhere,
    last,
    like,
    new_passes,
    prompt_end,
    prompt_pass,
    tensor_of,
)
from personalab.lm.models import decoder_blocks


@right
class WithHooks(Base):
    pass


@wrong("entered again.*expected a RuntimeError")
class AsInTheChapter:
    """Starts afresh where it is entered again (ARENA 4.4's way)."""

    def __init__(self, model, steering_vector, coeff=1.0, layer=19, positions="all"):
        assert positions in ("all", "prompt", "response"), "positions must be 'all', 'prompt' or 'response'"
        self.model = model
        self.coeff = float(coeff)
        self.layer = layer
        self.positions = positions.lower()
        self.vector = steering_vector.clone()
        self._handle = None

    def _hook_fn(self, module, inputs, output):
        hidden = output[0] if isinstance(output, tuple) else output
        steer = self.coeff * self.vector.to(device=hidden.device, dtype=hidden.dtype)
        hidden = hidden.clone()
        if self.positions == "all":
            hidden += steer
        elif self.positions == "prompt":
            if hidden.shape[1] == 1:
                return output
            hidden += steer
        elif self.positions == "response":
            hidden[:, -1, :] += steer
        return (hidden,) + output[1:] if isinstance(output, tuple) else hidden  # noqa: RUF005

    def __enter__(self):
        self.remove()
        self._handle = decoder_blocks(self.model)[self.layer].register_forward_hook(self._hook_fn)
        return self

    def __exit__(self, *exc):
        self.remove()

    def remove(self):
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


@right
class ArenaStyle(AsInTheChapter):
    """Assert, a hook method, a `remove` method; and what this course asks for besides."""

    def __enter__(self):
        if self._handle is not None:
            raise RuntimeError("already active")
        return super().__enter__()


@right
class BeforeTheNextBlock(Base):
    """A pre-hook on what reads the block's output."""

    def block(self):
        blocks = decoder_blocks(self.model)
        return blocks[self.layer + 1] if self.layer + 1 < len(blocks) else self.model.model.norm

    def __enter__(self):
        super().__enter__()
        self.handle.remove()
        self.handle = self.block().register_forward_pre_hook(self.pre_hook)

    def pre_hook(self, module, args):
        return (self.steer(args[0], self.push(args[0])), *args[1:])


@right
class WithAMask(Base):
    """A mask over positions; refuses bad positions on entering; in front of other hooks."""

    def check(self, positions):
        pass

    def __enter__(self):
        super().check(self.positions)
        super().__enter__()
        self.handle.remove()
        self.handle = self.block().register_forward_hook(self.hook, prepend=True)

    def steer(self, hidden, push):
        n = hidden.shape[1]
        mask = torch.full((1, n, 1), float(self.positions == "all" or (self.positions == "prompt" and n > 1)))
        if self.positions == "response":
            mask[:, -1] = 1
        return hidden + (mask * push.float()).to(hidden.dtype)


@right
class AnExitStack:
    """Whatever is undone on leaving stands on a stack; the block's `forward` is replaced for a while."""

    def __init__(self, model, steering_vector, coeff=1.0, layer=19, positions="all"):
        if positions not in {"all", "prompt", "response"}:
            raise ValueError(f"positions={positions!r}: use all, prompt or response")
        self.block, self.positions = decoder_blocks(model)[layer], positions
        self.push, self.stack = steering_vector.double() * coeff, None

    def __enter__(self):
        if self.stack:
            raise RuntimeError("make a second one")
        self.stack, plain = contextlib.ExitStack(), self.block.forward
        steered = mock.patch.object(self.block, "forward", lambda *a, **k: self.changed(plain(*a, **k)))
        self.stack.enter_context(steered)

    def __exit__(self, *exc):
        self.stack.close()
        self.stack = None

    def changed(self, output):
        hidden = tensor_of(output)
        last = torch.arange(hidden.shape[1]) == hidden.shape[1] - 1
        where = {"all": last | True, "prompt": last | True if len(last) > 1 else ~last, "response": last}
        pushed = einops.repeat(self.push.to(hidden), "d -> b s d", b=len(hidden), s=len(last))
        return like(output, torch.where(where[self.positions][None, :, None], hidden + pushed, hidden))


@right
class RowByRow(Base):
    """A loop over rows; numpy's numbers."""

    def __init__(self, model, steering_vector, coeff=1.0, layer=19, positions="all"):
        super().__init__(model, steering_vector, np.float64(coeff), layer, positions)

    def steer(self, hidden, push):
        row_of = super().steer
        return torch.stack([row_of(row[None], push)[0] for row in hidden])


def mode(words, meant, instead):
    """A wrong solution that takes one mode for another rule."""

    class Solution(Base):
        def steer(self, hidden, push):
            return instead(hidden, push) if self.positions == meant else super().steer(hidden, push)

    return wrong(words)(Solution)


all_as_prompt = mode('positions="all".*acts as positions="prompt"', "all", prompt_pass)
all_as_response = mode('positions="all".*acts as positions="response"', "all", last)
all_but_last = mode(
    "last position of each pass is left out", "all", lambda h, p: torch.cat([h[:, :-1] + p, h[:, -1:]], dim=1)
)
prompt_as_all = mode('positions="prompt".*acts as positions="all"', "prompt", everywhere)
prompt_as_response = mode('positions="prompt".*acts as positions="response"', "prompt", last)
prompt_end_only = mode('positions="prompt".*only the last position of the prompt', "prompt", prompt_end)
prompt_while_decoding = mode('positions="prompt".*only new tokens', "prompt", new_passes)
response_as_all = mode('positions="response".*acts as positions="all"', "response", everywhere)
response_as_prompt = mode('positions="response".*acts as positions="prompt"', "response", prompt_pass)
response_while_decoding = mode('positions="response".*only new tokens', "response", new_passes)
response_never = mode("nothing is added", "response", lambda h, p: h)


@wrong('positions="prompt", two prompts.*only the first pass')
class FirstPassIsThePrompt(Base):
    """A flag, so that a second prompt in the same `with` passes for new tokens."""

    def __enter__(self):
        self.begun = False
        return super().__enter__()

    def steer(self, hidden, push):
        if self.positions != "prompt":
            return super().steer(hidden, push)
        first, self.begun = not self.begun, True
        return hidden + push if first else hidden


@wrong('positions="prompt", two prompts.*only the first pass')
class LengthOfTheFirstPrompt(Base):
    """Passes as long as the first one are prompts."""

    length = None

    def steer(self, hidden, push):
        if self.positions != "prompt":
            return super().steer(hidden, push)
        self.length = self.length or hidden.shape[1]
        return hidden + push if hidden.shape[1] == self.length else hidden


@wrong('positions="prompt".*acts as positions="response"')
class PromptAndResponseSwapped(Base):
    def __init__(self, model, steering_vector, coeff=1.0, layer=19, positions="all"):
        swapped = {"prompt": "response", "response": "prompt"}
        super().__init__(model, steering_vector, coeff, layer, swapped.get(positions, positions))


def pushes(words, push):
    """A wrong solution that adds another vector."""

    class Solution(Base):
        def push(self, hidden):
            return push(self.vector, self.coeff).to(hidden)

    return wrong(words)(Solution)


nothing = pushes("nothing is added", lambda v, c: 0 * v)
coeff_ignored = pushes("coeff is ignored", lambda v, c: v)
coeff_zero_taken_for_missing = pushes("coeff=0.*coeff or 1.0", lambda v, c: (c or 1.0) * v)
sign = pushes("sign is wrong", lambda v, c: -c * v)
normalised = pushes("normalised first", lambda v, c: c * v / v.norm())
twice = pushes("added twice", lambda v, c: 2 * c * v)
changes_the_vector = pushes("`steering_vector` in place", lambda v, c: v.mul_(c))


@wrong("only the first row")
class FirstRow(Base):
    def steer(self, hidden, push):
        return torch.cat([super().steer(hidden[:1], push), hidden[1:]])


@wrong("only the first row|found .*Error.*plain tensor")
class OutputZeroOfATensor(Base):
    def hook(self, module, args, output):
        hidden = output[0].clone()
        hidden += self.push(hidden)
        output[0].copy_(hidden)


@wrong("found .*Error.*plain tensor")
class ReturnsOutputZero(Base):
    def hook(self, module, args, output):
        return (output[0] + self.push(output[0]), *output[1:])


@wrong("nothing is added")
class ReturnsNothing(Base):
    def hook(self, module, args, output):
        super().hook(module, args, output)


@wrong("returns a tuple.*expected your hook to return a tuple")
class DropsTheRestOfATuple(Base):
    def hook(self, module, args, output):
        return self.steer(tensor_of(output), self.push(tensor_of(output)))


@wrong("returns a tuple.*found .*Error")
class TensorsOnly(Base):
    def hook(self, module, args, output):
        return self.steer(output, self.push(output))


@wrong("changed in place")
class InPlace(Base):
    def steer(self, hidden, push):
        return hidden.copy_(super().steer(hidden, push))


@wrong('positions="response".*changed in place')
class InPlaceAtTheLastPosition(Base):
    def steer(self, hidden, push):
        if self.positions == "response":
            hidden[:, -1] += push
            return hidden
        return super().steer(hidden, push)


@wrong("added twice")
class AddsInPlaceAndReturnsASum(Base):
    def steer(self, hidden, push):
        if self.positions == "all":
            hidden += push
        return super().steer(hidden, push)


@wrong("coeff=0.0.*exactly")
class KeepsTheNorm(Base):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)

    def steer(self, hidden, push):
        moved = super().steer(hidden, push)
        return moved if self.coeff else moved * hidden.norm() / (moved.norm() + 1e-3)


@wrong("coeff=0.0.*exactly|wrong values")
class AlwaysRescales(Base):
    def steer(self, hidden, push):
        moved = super().steer(hidden, push)
        return moved / moved.norm(dim=-1, keepdim=True) * hidden.norm(dim=-1, keepdim=True)


@wrong(r"layer \+ 1 is steered|found IndexError")
class BlockUp(Base):
    def block(self):
        return decoder_blocks(self.model)[self.layer + 1]


@wrong("layer - 1 is steered")
class BlockDown(Base):
    def block(self):
        return decoder_blocks(self.model)[max(self.layer - 1, 0)]


@wrong("wrong values|layer - 1")
class BeforeTheBlock(Base):
    def __enter__(self):
        self.handle = self.block().register_forward_pre_hook(lambda m, a: (self.steer(a[0], self.push(a[0])), *a[1:]))


@wrong("another default")
class OtherDefaultPositions(Base):
    def __init__(self, model, steering_vector, coeff=1.0, layer=19, positions="response"):
        super().__init__(model, steering_vector, coeff, layer, positions)


@wrong("another default")
class OtherDefaultLayer(Base):
    def __init__(self, model, steering_vector, coeff=1.0, layer=20, positions="all"):
        super().__init__(model, steering_vector, coeff, layer, positions)


@wrong("bfloat16.*dtype")
class NeverCasts(Base):
    def push(self, hidden):
        return self.coeff * self.vector


@wrong("bfloat16.*dtype|bfloat16.*wrong values")
class BecomesFloat32(Base):
    def hook(self, module, args, output):
        hidden = tensor_of(output).float()
        return like(output, self.steer(hidden, self.push(hidden)))


@wrong("Two steerers.*acts|found .*Error")
class OnlyOneAtATime(Base):
    active = None

    def __enter__(self):
        if OnlyOneAtATime.active is not None:
            OnlyOneAtATime.active.handle.remove()
        OnlyOneAtATime.active = self
        return super().__enter__()

    def __exit__(self, *exc):
        OnlyOneAtATime.active = None
        super().__exit__()


@wrong("other people's hooks.*gone|inner one left.*none acts")
class ClearsAllHooks(Base):
    def __exit__(self, *exc):
        self.handle = None
        self.block()._forward_hooks.clear()


@wrong("found it accepted")
class AnyPositions(Base):
    def check(self, positions):
        pass


@wrong("found it accepted")
class CaseIgnored(Base):
    """Lower-cases, so that "Response" counts."""

    def __init__(self, model, steering_vector, coeff=1.0, layer=19, positions="all"):
        super().__init__(model, steering_vector, coeff, layer, positions.lower())


@wrong("it accepted.*in the middle of a generation")
class RefusesInTheHook(AnyPositions):
    def steer(self, hidden, push):
        Base.check(self, self.positions)
        return super().steer(hidden, push)


@wrong("found it accepted")
class APartOfAWord(Base):
    """Compares with `in` a text, so that "" counts."""

    def check(self, positions):
        if positions not in "all, prompt, response":
            raise ValueError(positions)


@wrong("refused.*left behind")
class RefusesTooLate(AnyPositions):
    def __enter__(self):
        super().__enter__()
        Base.check(self, self.positions)
        return self


@wrong("found KeyError")
class RefusesOtherwise(Base):
    def check(self, positions):
        {"all": 0, "prompt": 0, "response": 0}[positions]


@wrong("after the `with` block.*left behind")
class LeavesTheHook(Base):
    def __exit__(self, *exc):
        self.handle = None


@wrong("After an error.*left behind")
class LeavesTheHookAfterAnError(Base):
    def __exit__(self, kind, error, trace):
        if kind is None:
            super().__exit__()


@wrong("swallowed")
class Swallows(Base):
    def __exit__(self, *exc):
        super().__exit__()
        return True


@wrong("not entered.*left behind")
class HooksFromTheStart(Base):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        super().__enter__()

    def __enter__(self):
        return self


@wrong("entered again.*left behind.*overwrites")
class OverwritesItsHandle(Base):
    def __enter__(self):
        self.handle = self.block().register_forward_hook(self.hook)
        return self

    def __exit__(self, *exc):
        if self.handle is not None:
            self.handle.remove()
            self.handle = None


@wrong("entered again.*left behind")
class OverwritesAndRemovesTwice(OverwritesItsHandle):
    def __exit__(self, *exc):
        self.handle.remove()


@wrong("second `with`")
class OnceOnly(Base):
    def __exit__(self, *exc):
        self.handle.remove()

    def __enter__(self):
        if self.handle is not None:
            return self
        return super().__enter__()


@wrong("entered again.*expected a RuntimeError, found no error")
class EnteredTwiceActsOnce(Base):
    """Counts how often it was entered."""

    depth = 0

    def __enter__(self):
        self.depth += 1
        if self.depth == 1:
            super().__enter__()

    def __exit__(self, *exc):
        self.depth -= 1
        if self.depth == 0:
            super().__exit__()


@wrong("entered again.*expected a RuntimeError, found no error")
class EnteredTwiceAddsTwice(Base):
    def __enter__(self):
        self.handles = [*getattr(self, "handles", []), self.block().register_forward_hook(self.hook)]

    def __exit__(self, *exc):
        self.handles.pop().remove()


@wrong("entered again.*left behind")
class RefusedAfterRegistering(Base):
    def __enter__(self):
        before, self.handle = self.handle, self.block().register_forward_hook(self.hook)
        if before is not None:
            raise RuntimeError("already entered")


@wrong('positions="response".*wrong values')
class OnlyOneRowAtATime(Base):
    """Takes the last position of the whole batch, its last row's."""

    def steer(self, hidden, push):
        if self.positions != "response":
            return super().steer(hidden, push)
        flat = hidden.flatten(0, 1)
        return torch.cat([flat[:-1], flat[-1:] + push]).view(hidden.shape)


@wrong("wrong values")
class LaterBlocksToo(Base):
    def __enter__(self):
        super().__enter__()
        self.later = [b.register_forward_hook(self.hook) for b in decoder_blocks(self.model)[self.layer + 1 :]]

    def __exit__(self, *exc):
        super().__exit__()
        for handle in self.later:
            handle.remove()


@wrong("wrong values")
class FadesOut(Base):
    """Less with every pass."""

    passes = 0

    def push(self, hidden):
        self.passes = 0 if hidden.shape[1] > 1 else self.passes + 1
        return super().push(hidden) / (1 + self.passes)


first_position_spared = mode(
    'positions="all".*wrong values', "all", lambda h, p: torch.cat([h[:, :1], h[:, 1:] + p], dim=1)
)


@wrong("found AttributeError.*return the same kind")
class TupleAsList(Base):
    def hook(self, module, args, output):
        changed = super().hook(module, args, output)
        return list(changed) if isinstance(changed, tuple) else changed
