# Over 300 lines on purpose: one file an exercise, and its table of solutions is the content.
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


@right
class AsInTheChapter:
    """ARENA 4.4's way: assert, a hook method, a `remove` method; a second `__enter__` starts afresh."""

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
class BeforeTheNextBlock(Base):
    """A pre-hook on what reads the block's output; entered twice, it adds twice."""

    def __enter__(self):
        self.handles = getattr(self, "handles", [])
        blocks = decoder_blocks(self.model)
        reader = blocks[self.layer + 1] if self.layer + 1 < len(blocks) else self.model.model.norm
        self.handles.append(reader.register_forward_pre_hook(self.pre_hook))

    def __exit__(self, *exc):
        self.handles.pop().remove()

    def pre_hook(self, module, args):
        return (self.steer(args[0], self.push(args[0])), *args[1:])


@right
class WithAMask(Base):
    """A mask over positions; refuses bad positions on entering; in front of other hooks; entered twice, acts once."""

    depth = 0

    def check(self, positions):
        pass

    def __enter__(self):
        super().check(self.positions)
        self.depth += 1
        if self.depth == 1:
            self.handle = self.block().register_forward_hook(self.hook, prepend=True)

    def __exit__(self, kind, error, trace):
        self.depth -= 1
        if self.depth == 0:
            super().__exit__()

    def steer(self, hidden, push):
        n = hidden.shape[1]
        mask = torch.full((1, n, 1), float(self.positions == "all" or (self.positions == "prompt" and n > 1)))
        if self.positions == "response":
            mask[:, -1] = 1
        return hidden + (mask * push.float()).to(hidden.dtype)


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
