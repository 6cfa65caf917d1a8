# Over 300 lines on purpose: one file an exercise, and its table of solutions is the content.
import contextlib

import einops
import numpy as np
import torch

from checks.bank import right, wrong
from personalab.lm.models import decoder_blocks


def tensor_of(output):
    return output[0] if isinstance(output, tuple) else output


def like(output, hidden):
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def capped(hidden, vector, threshold, unit=True, along=True, amount=lambda p, t: (p - t).clamp(min=0)):
    v = vector.to(hidden.device).float()
    u = v / v.norm()
    excess = amount(hidden.float() @ (u if unit else v), threshold)
    return hidden - (excess[..., None] * (u if along else v)).to(hidden.dtype)


class Base:
    """A right capper in parts that the wrong ones below replace."""

    def __init__(self, model, vectors, thresholds, layer_indices):
        self.check(vectors, thresholds, layer_indices)
        self.model, self.handles = model, []
        self.vectors, self.thresholds, self.layers = vectors, thresholds, layer_indices

    def check(self, *lists):
        if len({len(x) for x in lists}) > 1:
            raise ValueError("The lists differ in length.")

    def interventions(self):
        return list(zip(self.vectors, self.thresholds, self.layers, strict=False))

    def __enter__(self):
        for vector, threshold, layer in self.interventions():
            self.handles.append(decoder_blocks(self.model)[layer].register_forward_hook(self.hook(vector, threshold)))
        return self

    def __exit__(self, *exc):
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def hook(self, vector, threshold):
        return lambda module, args, output: like(output, self.cap(tensor_of(output), vector, threshold))

    def cap(self, hidden, vector, threshold):
        return capped(hidden, vector, threshold)


@right
class WithHooks(Base):
    pass


@right
class OneHookABlockInPlace:
    """One hook on each block, in front of others, all its vectors in turn, in place; asserts equal lengths."""

    def __init__(self, model, vectors, thresholds, layer_indices):
        assert len(vectors) == len(thresholds) == len(layer_indices), "equal lengths, please"
        self.model, self.by_block, self.handles = model, {}, []
        for v, t, k in zip(vectors, thresholds, layer_indices, strict=True):
            self.by_block.setdefault(k, []).append((v.double() / v.double().norm(), t))

    def __enter__(self):
        for k, pairs in self.by_block.items():
            self.handles.append(decoder_blocks(self.model)[k].register_forward_hook(self.make(pairs), prepend=True))

    def __exit__(self, kind, error, trace):
        while self.handles:
            self.handles.pop().remove()

    def make(self, pairs):
        def hook(module, args, output):
            hidden = tensor_of(output)
            for u, t in pairs:
                p = torch.einsum("btd,d->bt", hidden.double(), u)
                hidden -= torch.einsum("bt,d->btd", torch.where(p > t, p - t, 0.0), u).to(hidden.dtype)

        return hook


@right
class BeforeTheNextBlock(Base):
    """Pre-hooks on what reads the block's output."""

    def __enter__(self):
        for vector, threshold, layer in self.interventions():
            blocks = decoder_blocks(self.model)
            reader = blocks[layer + 1] if layer + 1 < len(blocks) else self.model.model.norm
            self.handles.append(reader.register_forward_pre_hook(self.pre_hook(vector, threshold)))

    def pre_hook(self, vector, threshold):
        return lambda module, args: (capped(args[0], vector, threshold), *args[1:])


@right
class WithTheEngine:
    """From the library; the lengths are compared on entering."""

    def __init__(self, *args):
        self.args = args

    def __enter__(self):
        from utils import Cap, applied

        model, *lists = self.args
        caps = [Cap(k, v, t) for v, t, k in zip(*lists, strict=True)]
        self.context = applied(model, caps)
        self.context.__enter__()

    def __exit__(self, *exc):
        return self.context.__exit__(*exc)


@wrong("only the first row")
class FirstRow(Base):
    def cap(self, hidden, vector, threshold):
        return torch.cat([capped(hidden[:1], vector, threshold), hidden[1:]])


@wrong("only the first row|Error.*plain tensor")
class OutputZeroOfATensor(Base):
    def hook(self, vector, threshold):
        def hook(module, args, output):
            output[0].copy_(capped(output[0], vector, threshold))

        return hook


@wrong("found .*Error.*plain tensor")
class ReturnsOutputZero(Base):
    def hook(self, vector, threshold):
        return lambda module, args, output: (capped(output[0], vector, threshold), *output[1:])


@wrong("only the last position")
class LastPosition(Base):
    def cap(self, hidden, vector, threshold):
        return torch.cat([hidden[:, :-1], capped(hidden[:, -1:], vector, threshold)], dim=1)


@wrong("only the prompt's pass")
class PromptOnly(Base):
    def cap(self, hidden, vector, threshold):
        return capped(hidden, vector, threshold) if hidden.shape[1] > 1 else hidden


@wrong("only the new tokens' passes|nothing is capped")
class NewTokensOnly(Base):
    def cap(self, hidden, vector, threshold):
        return capped(hidden, vector, threshold) if hidden.shape[1] == 1 else hidden


@wrong("vector is not normalised")
class NotNormalised(Base):
    def cap(self, hidden, vector, threshold):
        return capped(hidden, vector, threshold, unit=False, along=False)


@wrong("projection is taken on a vector that is not normalised")
class ProjectionNotNormalised(Base):
    def cap(self, hidden, vector, threshold):
        return capped(hidden, vector, threshold, unit=False)


@wrong("removed lies along a vector that is not normalised")
class RemovalNotNormalised(Base):
    def cap(self, hidden, vector, threshold):
        return capped(hidden, vector, threshold, along=False)


@wrong("values under the threshold are moved")
class NotClamped(Base):
    def cap(self, hidden, vector, threshold):
        return capped(hidden, vector, threshold, amount=lambda p, t: p - t)


@wrong("direction is wrong")
class Floor(Base):
    def cap(self, hidden, vector, threshold):
        return capped(hidden, vector, threshold, amount=lambda p, t: (p - t).clamp(max=0))


@wrong("sign is wrong")
class Adds(Base):
    def cap(self, hidden, vector, threshold):
        return capped(hidden, vector, threshold, amount=lambda p, t: -(p - t).clamp(min=0))


@wrong("whole projection is removed")
class RemovesAll(Base):
    def cap(self, hidden, vector, threshold):
        return capped(hidden, vector, threshold, amount=lambda p, t: p * (p > t))


@wrong("absolute value")
class Band(Base):
    def cap(self, hidden, vector, threshold):
        return capped(hidden, vector, threshold, amount=lambda p, t: p - p.clamp(-abs(t), abs(t)))


@wrong("wrong values")
class MeanOverPositions(Base):
    def cap(self, hidden, vector, threshold):
        return capped(hidden, vector, threshold, amount=lambda p, t: (p.mean(1, True) - t).clamp(min=0).expand_as(p))


@wrong("hooks return nothing")
class ReturnsNothing(Base):
    def hook(self, vector, threshold):
        return lambda module, args, output: None


@wrong("closure made in a loop")
class LateBinding(Base):
    def __enter__(self):
        for vector, threshold, layer in self.interventions():
            hook = lambda module, args, output: like(output, capped(tensor_of(output), vector, threshold))  # noqa: B023, E731
            self.handles.append(decoder_blocks(self.model)[layer].register_forward_hook(hook))


@wrong(r"layer \+ 1 is capped|found IndexError")
class BlockUp(Base):
    def interventions(self):
        return [(v, t, k + 1) for v, t, k in super().interventions()]


@wrong("layer - 1 is capped")
class BlockDown(Base):
    def interventions(self):
        return [(v, t, max(k - 1, 0)) for v, t, k in super().interventions()]


@wrong("only the first block")
class FirstBlock(Base):
    def interventions(self):
        return super().interventions()[:1]


@wrong("only the last block")
class LastBlock(Base):
    def interventions(self):
        return super().interventions()[-1:]


@wrong("keep the three lists in step")
class SortedBlocks(Base):
    def interventions(self):
        return list(zip(self.vectors, self.thresholds, sorted(self.layers), strict=False))


@wrong("only one of the two acts")
class OneVectorABlock(Base):
    def interventions(self):
        return list({k: (v, t, k) for v, t, k in super().interventions()}.values())


@wrong("changed the caller's vectors")
class NormalisesInPlace(Base):
    def interventions(self):
        for v in self.vectors:
            v /= v.norm()
        return super().interventions()


@wrong("bfloat16.*dtype")
class NeverCasts(Base):
    def cap(self, hidden, vector, threshold):
        u = vector / vector.norm()
        return hidden - (hidden @ u - threshold).clamp(min=0)[..., None] * u


@wrong("bfloat16.*dtype|bfloat16.*wrong values")
class BecomesFloat32(Base):
    def cap(self, hidden, vector, threshold):
        return capped(hidden.float(), vector, threshold)


@wrong("above everything.*wrong values")
class MovesALittle(Base):
    """Softplus: everything is pulled down a little."""

    def cap(self, hidden, vector, threshold):
        # Sharp where others would see it, soft only for a threshold far above.
        soft = 0.001 if threshold > 100 else 0.0
        return capped(hidden, vector, threshold, amount=lambda p, t: (p - t).clamp(min=0) + soft)


@wrong("accepted")
class LengthsIgnored(Base):
    def check(self, *lists):
        pass


@wrong("found IndexError")
class LengthsNotForeseen(Base):
    def check(self, *lists):
        pass

    def interventions(self):
        n = max(len(self.vectors), len(self.thresholds), len(self.layers))
        return [(self.vectors[i], self.thresholds[i], self.layers[i]) for i in range(n)]


@wrong("refused.*left behind")
class RefusesTooLate(Base):
    def check(self, *lists):
        pass

    def interventions(self):
        return zip(self.vectors, self.thresholds, self.layers, strict=True)


@wrong("after the `with` block.*left behind")
class LeavesHooks(Base):
    def __exit__(self, *exc):
        pass


@wrong("after the `with` block.*left behind")
class RemovesTheLastOnly(Base):
    def __exit__(self, *exc):
        self.handles[-1].remove()


@wrong("After an error.*left behind")
class LeavesHooksAfterAnError(Base):
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
    def __init__(self, *args):
        super().__init__(*args)
        super().__enter__()

    def __enter__(self):
        return self


@wrong("other people's hooks.*gone")
class ClearsAllHooks(Base):
    def __exit__(self, *exc):
        for layer in self.layers:
            decoder_blocks(self.model)[layer]._forward_hooks.clear()


@right
class WithEinops(Base):
    """Normalises in double precision; works on all rows at once."""

    def cap(self, hidden, vector, threshold):
        u = (vector.double() / vector.double().norm()).to(hidden.device)
        p = einops.einsum(hidden.double(), u, "b t d, d -> b t")
        over = torch.where(p > threshold, p - threshold, torch.zeros_like(p))
        return hidden - einops.einsum(over, u, "b t, d -> b t d").to(hidden.dtype)


@right
class RowByRow(Base):
    """A loop over rows and positions, thresholds of numpy's."""

    def interventions(self):
        return [(v, np.float64(t), int(k)) for v, t, k in super().interventions()]

    def cap(self, hidden, vector, threshold):
        u, out = (vector.float() / vector.float().norm()).to(hidden.device), hidden.clone()
        for row in out:
            for state in row:
                over = float(state.float() @ u) - threshold
                if over > 0:
                    state -= (over * u).to(state.dtype)
        return out


@right
class AnExitStack(Base):
    def __enter__(self):
        self.stack = contextlib.ExitStack()
        for vector, threshold, layer in self.interventions():
            handle = decoder_blocks(self.model)[layer].register_forward_hook(self.hook(vector, threshold))
            self.stack.callback(handle.remove)

    def __exit__(self, *exc):
        self.stack.close()


@right
class ArenaStyle:
    def __init__(self, model, vectors, thresholds, layer_indices):
        if len(vectors) != len(thresholds) or len(vectors) != len(layer_indices):
            raise ValueError("vectors, thresholds and layer_indices must have the same length")
        self.model, self.layer_indices, self.thresholds = model, layer_indices, thresholds
        self.vectors = [v / v.norm() for v in vectors]
        self._handles = []

    def _make_hook(self, vector, threshold):
        def hook_fn(module, input, output):
            act = output[0] if isinstance(output, tuple) else output
            vec = vector.to(act.device, torch.float32)
            proj = torch.einsum("bld,d->bl", act.float(), vec)
            excess = (proj - threshold).clamp(min=0.0)
            act = act - torch.einsum("bl,d->bld", excess, vec).to(act.dtype)
            return (act, *output[1:]) if isinstance(output, tuple) else act

        return hook_fn

    def __enter__(self):
        layers = decoder_blocks(self.model)
        for vec, thresh, idx in zip(self.vectors, self.thresholds, self.layer_indices, strict=True):
            self._handles.append(layers[idx].register_forward_hook(self._make_hook(vec, thresh)))
        return self

    def __exit__(self, *args):
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


@wrong("wrong values")
class HalfOfTheExcess(Base):
    def cap(self, hidden, vector, threshold):
        return capped(hidden, vector, threshold, amount=lambda p, t: 0.5 * (p - t).clamp(min=0))


@wrong("wrong values")
class NormRestored(Base):
    """Rescales what it has capped to its former length."""

    def cap(self, hidden, vector, threshold):
        found = capped(hidden, vector, threshold)
        return found * (hidden.norm(dim=-1, keepdim=True) / found.norm(dim=-1, keepdim=True))


@wrong("wrong values")
class WorstPositionForAll(Base):
    def cap(self, hidden, vector, threshold):
        return capped(hidden, vector, threshold, amount=lambda p, t: (p.amax(1, True) - t).clamp(min=0).expand_as(p))


@wrong("wrong values")
class CosinesCapped(Base):
    def cap(self, hidden, vector, threshold):
        norms = hidden.float().norm(dim=-1)
        return capped(hidden, vector, threshold, amount=lambda p, t: (p / norms - t).clamp(min=0) * norms)


@wrong("wrong values")
class OnlyFromTheFirstPass(Base):
    """Keeps what it took from the prompt's last position, and goes on taking that."""

    def hook(self, vector, threshold):
        kept = {}

        def hook(module, args, output):
            hidden = tensor_of(output)
            if hidden.shape[1] > 1 or "removed" not in kept:
                found = capped(hidden, vector, threshold)
                kept["removed"] = (hidden - found)[:, -1:]
                return like(output, found)
            return like(output, hidden - kept["removed"])

        return hook


@wrong("wrong values|the first")
class FirstPositionSpared(Base):
    """Taken over from solutions that leave the first token alone."""

    def cap(self, hidden, vector, threshold):
        if hidden.shape[1] == 1:
            return capped(hidden, vector, threshold)
        return torch.cat([hidden[:, :1], capped(hidden[:, 1:], vector, threshold)], dim=1)


@wrong("wrong values|direction is wrong")
class VectorFlipped(Base):
    def cap(self, hidden, vector, threshold):
        return capped(hidden, -vector, threshold)


@wrong("wrong values")
class StrictlyPositiveOnly(Base):
    """Caps where the projection is above 0 and above the threshold."""

    def cap(self, hidden, vector, threshold):
        return capped(hidden, vector, threshold, amount=lambda p, t: (p - t).clamp(min=0) * (p > 0))


@wrong("wrong values|only one of the two acts")
class MeanOfVectorsAtABlock(Base):
    """Two vectors at one block become one."""

    def interventions(self):
        by_block = {}
        for v, t, k in super().interventions():
            by_block.setdefault(k, []).append((v / v.norm(), t))
        return [
            (torch.stack([v for v, _ in pairs]).mean(0), sum(t for _, t in pairs) / len(pairs), k)
            for k, pairs in by_block.items()
        ]


@wrong("left behind")
class EntersTwice(Base):
    """A second set of hooks whose handles are lost."""

    def __enter__(self):
        super().__enter__()
        self.handles = []
        return super().__enter__()
