# Over 300 lines on purpose: one file an exercise, and its table of solutions is the content.
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from scipy.optimize import brentq

import utils
from checks.bank import right, wrong
from personalab.lm.models import decoder_blocks


def unit_rows(caps):
    return torch.stack([c.vector.float() / c.vector.float().norm() for c in caps])


class Base:
    """A right solution in parts that the wrong ones below replace: one padded pass for the caps, one for its own."""

    def __call__(self, model, tokenizer, caps, conversations, generator):
        self.model, self.caps, self.generator = model, caps, generator
        self.ids, self.counted = self.batch(conversations, tokenizer)
        self.targets, self.thresholds, self.first = [None] * len(caps), [None] * len(caps), {}
        self.one_pass(self.given_vectors(), self.note)
        self.own = self.directions(unit_rows(caps))
        self.one_pass(self.own, self.match)
        return self.result()

    def batch(self, conversations, tokenizer):
        return utils.turn_batch(conversations, tokenizer)

    def given_vectors(self):
        return unit_rows(self.caps)

    def basis(self, like):
        return torch.linalg.qr(like)[0]

    def noise(self, shape):
        return torch.randn(shape, generator=self.generator)

    def avoided(self, given):
        """An orthonormal basis, as columns, of what the directions must not see."""
        return torch.linalg.qr(torch.cat([given, torch.stack(list(self.first.values()))]).T)[0]

    def free_noise(self, given):
        q, noise = self.avoided(given), self.noise(given.T.shape)
        return noise - q @ (q.T @ noise)

    def directions(self, given):
        return (self.basis(self.free_noise(given)) @ torch.linalg.qr(given.T)[1]).T

    def note(self, i, p):
        self.targets[i] = self.amount(p - self.caps[i].threshold)
        return self.caps[i].threshold

    def amount(self, over):
        return over.clamp(min=0).mean()

    def match(self, i, p):
        low, high = p.min() - self.target(i) - 50, p.max()
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if self.amount(p - middle) > self.target(i) else (low, middle)
        self.thresholds[i] = high.item()
        return self.thresholds[i]

    def target(self, i):
        return self.targets[i]

    def one_pass(self, vectors, threshold):
        def make(i):
            def hook(module, args, output):
                hidden = output[0] if isinstance(output, tuple) else output
                self.first.setdefault(i, hidden[0, 0].float().cpu())
                p = hidden.float() @ vectors[i].to(hidden.device)
                tau = threshold(i, p.cpu()[self.counted])
                hidden = self.act(hidden, p, vectors[i].to(hidden.device), tau)
                return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

            return hook

        handles = []
        try:
            for i, cap in enumerate(self.caps):
                handles.append(decoder_blocks(self.model)[cap.block].register_forward_hook(make(i)))
            with torch.no_grad():
                self.model(self.ids.to(self.model.device), use_cache=False)
        finally:
            self.clean(handles)

    def clean(self, handles):
        for handle in handles:
            handle.remove()

    def act(self, hidden, p, v, tau):
        return hidden - ((p - tau).clamp(min=0)[..., None] * v).to(hidden.dtype)

    def result(self):
        return [utils.Cap(c.block, v, t) for c, v, t in zip(self.caps, self.own, self.thresholds, strict=True)]


def solution(cls):
    """Graders call functions."""

    def matched_random_caps(model, tokenizer, caps, conversations, generator):
        return cls()(model, tokenizer, caps, conversations, generator)

    return matched_random_caps


def right_one(cls):
    return right(solution(cls))


def wrong_one(words):
    return lambda cls: wrong(words)(solution(cls))


one_pass_each = right_one(Base)


@right
def block_by_block(model, tokenizer, caps, conversations, generator):
    """Conversation by conversation, caps in the order of their blocks, thresholds from sorted values."""

    def projections(cap, v, earlier):
        found = []
        with ExitStack() as stack:
            stack.enter_context(utils.applied(model, earlier))
            for conversation in conversations:
                ids, spans = utils.turn_spans(conversation, tokenizer)
                kept = []

                def keep(module, args, output, kept=kept):
                    kept.append(output[0] if isinstance(output, tuple) else output)

                handle = decoder_blocks(model)[cap.block].register_forward_hook(keep)
                try:
                    with torch.inference_mode():
                        model(input_ids=torch.tensor([ids], device=model.device))
                finally:
                    handle.remove()
                hidden = kept[0][0].float().cpu()
                found += [hidden[a:b] @ v for a, b in spans]
        return torch.cat(found)

    def beginning(block):
        kept = []
        handle = decoder_blocks(model)[block].register_forward_hook(
            lambda module, args, output: kept.append(output[0] if isinstance(output, tuple) else output)
        )
        try:
            with torch.inference_mode():
                model(input_ids=torch.tensor([utils.turn_spans(conversations[0], tokenizer).ids], device=model.device))
        finally:
            handle.remove()
        return kept[0][0, 0].float().cpu()

    units = unit_rows(caps)
    # a random frame in what the vectors and the first token leave free, which takes the vectors' coordinates
    rows = torch.cat([units, F.normalize(torch.stack([beginning(b) for b in {c.block for c in caps}]), dim=1)])
    free = torch.linalg.svd(rows, full_matrices=True)[2][len(rows) :]
    frame = torch.linalg.qr(torch.randn(len(free), len(caps), generator=generator))[0].T @ free
    values, bases = torch.linalg.eigh(units @ units.T)
    own = bases @ values.clamp(min=0).sqrt().diag() @ frame
    done, thresholds = [], {}
    for i in sorted(range(len(caps)), key=lambda i: caps[i].block):
        before = [caps[j] for j in done]
        target = F.relu(projections(caps[i], units[i], before) - caps[i].threshold).sum()
        mine = [utils.Cap(caps[j].block, own[j], thresholds[j]) for j in done]
        p = projections(caps[i], own[i], mine).sort(descending=True).values
        k = 1
        while k < len(p) and p[:k].sum() - k * p[k] < target:
            k += 1
        thresholds[i] = ((p[:k].sum() - target) / k).item()
        done.append(i)
    return [utils.Cap(c.block, own[i], thresholds[i]) for i, c in enumerate(caps)]


@right_one
class Cholesky(Base):
    """A random orthonormal basis by Gram and Schmidt, and Cholesky's factor of the cosines."""

    def directions(self, given):
        rows = []
        spanned = list(self.avoided(given).T)
        for _ in given:
            v = self.noise(given.shape[1:])
            for _ in range(2):
                for u in [*spanned, *rows]:
                    v = v - (v @ u) * u
            rows.append(v / v.norm())
        gram = (given @ given.T).double()
        return (torch.linalg.cholesky(gram + 1e-9 * torch.eye(len(given))).float() @ torch.stack(rows)).contiguous()


@right_one
class EndMarkersCount(Base):
    def batch(self, conversations, tokenizer):
        ids, spoken = utils.turn_batch(conversations, tokenizer)
        return ids, spoken | torch.cat([torch.zeros(len(spoken), 1, dtype=torch.bool), spoken[:, :-1]], dim=1)


@right_one
class HighestWhereNothingIsRemoved(Base):
    def match(self, i, p):
        if self.targets[i] > 0:
            return super().match(i, p)
        self.thresholds[i] = 1e9  # any that nothing reaches
        return self.thresholds[i]


@wrong_one("same thresholds|keep the given thresholds|percentile")
class SameThresholds(Base):
    def match(self, i, p):
        self.thresholds[i] = self.caps[i].threshold
        return self.thresholds[i]


@wrong_one("percentile")
class SamePercentile(Base):
    """The control that this course had."""

    def note(self, i, p):
        self.targets[i] = (p < self.caps[i].threshold).float().mean()
        return self.caps[i].threshold

    def match(self, i, p):
        self.thresholds[i] = p.quantile(self.targets[i].item(), interpolation="lower").item()
        return self.thresholds[i]


@wrong_one("measured alone")
class PlainTargets(Base):
    def one_pass(self, vectors, threshold):
        self.on = threshold == self.match
        super().one_pass(vectors, threshold)

    def act(self, hidden, p, v, tau):
        return super().act(hidden, p, v, tau) if self.on else hidden


@wrong_one("not in force when you choose|measure every cap alone")
class PlainPasses(Base):
    def act(self, hidden, p, v, tau):
        return hidden


def real_tokens(conversations, tokenizer):
    ids, _ = utils.turn_batch(conversations, tokenizer)
    lengths = torch.tensor([[len(utils.turn_spans(c, tokenizer).ids)] for c in conversations])
    return ids, torch.arange(ids.shape[1])[None] < lengths


@wrong_one("all tokens")
class AllTokens(Base):
    def batch(self, conversations, tokenizer):
        return real_tokens(conversations, tokenizer)


@wrong_one("but the first|all tokens")
class AllButTheFirst(Base):
    def batch(self, conversations, tokenizer):
        ids, counted = real_tokens(conversations, tokenizer)
        counted[:, 0] = False
        return ids, counted


@wrong_one("to be removed from an assistant's token")
class PaddingCounts(Base):
    def batch(self, conversations, tokenizer):
        ids, spoken = utils.turn_batch(conversations, tokenizer)
        return ids, torch.ones_like(spoken)


@wrong_one("last answer only")
class LastAnswers(Base):
    def batch(self, conversations, tokenizer):
        ids, spoken = utils.turn_batch(conversations, tokenizer)
        for row, conversation in zip(spoken, conversations, strict=True):
            row[: utils.turn_spans(conversation, tokenizer).spans[-1][0]] = False
        return ids, spoken


@wrong_one("first conversation only")
class FirstConversation(Base):
    def batch(self, conversations, tokenizer):
        return utils.turn_batch(conversations[:1], tokenizer)


@wrong_one("mean square|above the threshold only|to be removed")
class MeanSquare(Base):
    def amount(self, over):
        return over.clamp(min=0).pow(2).mean()


@wrong_one("above the threshold only|percentile|to be removed")
class MeanOfThoseAbove(Base):
    def amount(self, over):
        return over[over > 0].mean() if (over > 0).any() else torch.tensor(0.0)


@wrong_one("largest removal")
class Largest(Base):
    def amount(self, over):
        return over.clamp(min=0).max()


@wrong_one("given vectors are not normalised")
class RawTargets(Base):
    def given_vectors(self):
        return [c.vector.float() for c in self.caps]


@wrong_one("to be removed")
class OneTargetForAll(Base):
    def target(self, i):
        return torch.stack(self.targets).mean()


@wrong_one("what the first one does")
class FirstTargetForAll(Base):
    def target(self, i):
        return self.targets[0]


@wrong_one("nothing is removed")
class NothingRemoved(Base):
    def match(self, i, p):
        self.thresholds[i] = p.max().item() + 1e3
        return self.thresholds[i]


@wrong_one("drawn one by one")
class DrawnOneByOne(Base):
    def directions(self, given):
        return F.normalize(self.free_noise(given), dim=0).T


@wrong_one("orthogonal to each other|drawn one by one")
class OrthogonalToEachOther(Base):
    def directions(self, given):
        return self.basis(self.free_noise(given)).T


@wrong_one("one direction everywhere")
class OneDirection(Base):
    def directions(self, given):
        return F.normalize(self.free_noise(given)[:, 0], dim=0).expand_as(given)


@wrong_one("first token's residual stream")
class TheFirstTokenIsSeen(Base):
    def avoided(self, given):
        return torch.linalg.qr(given.T)[0]


@wrong_one("orthogonal to every given vector")
class NotOrthogonal(Base):
    def directions(self, given):
        q, r = torch.linalg.qr(given.T)
        return (self.basis(self.noise(q.shape)) @ r).T


@wrong_one("should be a control for")
class TheAxisItself(Base):
    def directions(self, given):
        return -given


@wrong_one("norm 1")
class NotNormalised(Base):
    def directions(self, given):
        return super().directions(given * torch.stack([c.vector.norm() for c in self.caps])[:, None])


@wrong_one("generators of two seeds")
class SeedsTheGenerator(Base):
    def noise(self, shape):
        return torch.randn(shape, generator=self.generator.manual_seed(0))


@wrong_one("two generators of one seed")
class GlobalRandomNumbers(Base):
    def noise(self, shape):
        return torch.randn(shape)


@wrong_one("in the order given|to be removed")
class SortedByBlock(Base):
    def result(self):
        return sorted(super().result(), key=lambda c: c.block)


@wrong_one("one for each given")
class IdleCapsLeftOut(Base):
    def result(self):
        return [c for c, t in zip(super().result(), self.targets, strict=True) if t > 0]


@wrong_one("NaN")
class NotANumber(Base):
    def match(self, i, p):
        found = super().match(i, p)
        self.thresholds[i] = found * (self.targets[i] / self.targets[i]).item()
        return found


@wrong_one("between two that do.*to be removed|to be removed")
class IdleCapsAct(Base):
    def match(self, i, p):
        found = super().match(i, p)
        if self.targets[i] == 0:
            self.thresholds[i] = found = p.median().item()
        return found


@wrong_one("vector or threshold was changed")
class ChangesVectors(Base):
    def given_vectors(self):
        for cap in self.caps:
            cap.vector.div_(cap.vector.norm())
        return super().given_vectors()


@wrong_one("list of caps was changed")
class ChangesTheList(Base):
    def result(self):
        found = super().result()
        self.caps[:] = found
        return found


@wrong_one("expected a list")
class Tuples(Base):
    def result(self):
        return tuple(super().result())


@wrong_one("utils.Cap")
class Triples(Base):
    def result(self):
        return [[c.block, c.vector, c.threshold] for c in super().result()]


@wrong_one("left behind")
class HooksStay(Base):
    def clean(self, handles):
        pass


@wrong_one("After an error.*left behind")
class HooksStayAfterAnError(Base):
    def one_pass(self, vectors, threshold):
        kept, self.clean = [], lambda handles: kept.extend(handles)
        super().one_pass(vectors, threshold)
        for handle in kept:
            handle.remove()


@wrong_one("to be removed|found .*Error|first token")
class BlockAbove(Base):
    def one_pass(self, vectors, threshold):
        given, n = self.caps, len(decoder_blocks(self.model))
        self.caps = [replace(c, block=min(c.block + 1, n - 1)) for c in given]
        super().one_pass(vectors, threshold)
        self.caps = given


@right_one
class WithScipy(Base):
    """Thresholds by a root finder, as numbers of numpy's."""

    def match(self, i, p):
        values, target = p.double().numpy(), float(self.targets[i])
        top = float(values.max())
        if target <= 0:
            self.thresholds[i] = np.float64(top)
        else:
            low = float(values.min()) - target - 1
            found = brentq(lambda tau: np.clip(values - tau, 0, None).mean() - target, low, top, xtol=1e-9)
            self.thresholds[i] = np.float64(found)
        return self.thresholds[i]


@right_one
class WithEinops(Base):
    """Double precision, other ways to count and to write the same."""

    def amount(self, over):
        return reduce(F.relu(over.double()), "n -> ", "mean")

    def noise(self, shape):
        return rearrange(torch.randn(shape[1], shape[0], generator=self.generator), "k d -> d k")


@right_one
class ArenaStyle(Base):
    """Directions drawn and made orthogonal one after another, then turned into the vectors' angles."""

    def directions(self, given):
        basis = []
        taken = self.avoided(given)
        for _ in range(len(given)):
            direction = torch.randn(given.shape[1], generator=self.generator)
            for _ in range(2):
                direction = direction - taken @ (taken.T @ direction)
                for other in basis:
                    direction = direction - (direction @ other) * other
            basis.append(direction / direction.norm())
        coordinates = torch.linalg.qr(given.T)[1]
        return F.normalize(coordinates.T @ torch.stack(basis), dim=1)


@wrong_one("to be removed")
class MeanOverConversations(Base):
    """Each conversation counts once."""

    def batch(self, conversations, tokenizer):
        ids, spoken = super().batch(conversations, tokenizer)
        self.owner = torch.arange(len(spoken))[:, None].expand_as(spoken)[spoken]
        return ids, spoken

    def amount(self, over):
        over = over.clamp(min=0)
        return torch.stack([over[self.owner == k].mean() for k in self.owner.unique()]).mean()


@wrong_one("match the median|to be removed")
class Median(Base):
    def amount(self, over):
        return over.clamp(min=0).median()


@wrong_one("orthogonal to every given vector")
class OrthogonalToTheFirstVectorOnly(Base):
    def avoided(self, given):
        return super().avoided(given[:1])


@wrong_one("first token's residual stream")
class FirstTokenOfTheFirstBlockOnly(Base):
    def avoided(self, given):
        first = F.normalize(self.first[0], dim=0)
        return torch.linalg.qr(torch.cat([given, first[None]]).T)[0]


@wrong_one("to be removed")
class FivePercentTooMuch(Base):
    def target(self, i):
        return self.targets[i] * 1.05


@wrong_one("to be removed")
class CoarseThresholds(Base):
    """Five halvings."""

    def match(self, i, p):
        low, high = p.min() - self.target(i) - 50, p.max()
        for _ in range(5):
            middle = (low + high) / 2
            low, high = (middle, high) if self.amount(p - middle) > self.target(i) else (low, middle)
        self.thresholds[i] = high.item()
        return self.thresholds[i]


@wrong_one("to be removed|measure every cap alone|measured alone")
class ThresholdsInOnePass(Base):
    """Measures its own projections on the plain model."""

    def one_pass(self, vectors, threshold):
        self.plain = threshold == self.match
        super().one_pass(vectors, threshold)

    def act(self, hidden, p, v, tau):
        return hidden if self.plain else super().act(hidden, p, v, tau)


@wrong_one("to be removed|sum")
class SumMatchedAtTheFirst(Base):
    """The first cap removes all that the given ones remove together."""

    def target(self, i):
        return torch.stack(self.targets).sum() if i == 0 else torch.tensor(0.0)
