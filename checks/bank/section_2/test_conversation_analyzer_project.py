# Over 300 lines on purpose: one file an exercise, and its table of solutions is the content.
from contextlib import suppress

import numpy as np
import torch
import torch.nn.functional as F
from einops import reduce

import utils
from checks.bank import right, wrong
from personalab.lm.chat import render, render_prompt
from personalab.lm.models import decoder_blocks


class Base:
    """A right analyzer in parts that the wrong ones below replace."""

    shift = 0

    def __init__(self, model, tokenizer, layer, assistant_axis):
        self.model, self.tokenizer, self.layer = model, tokenizer, layer
        self.axis = self.unit(assistant_axis)

    def unit(self, axis):
        return F.normalize(axis.float().cpu(), dim=0)

    def encode(self, messages):
        return utils.turn_spans(messages, self.tokenizer)

    @staticmethod
    def tensor(output):
        return output[0] if isinstance(output, tuple) else output

    @torch.no_grad()
    def states(self, ids):
        kept = []
        handle = decoder_blocks(self.model)[self.layer + self.shift].register_forward_hook(
            lambda m, a, output: kept.append(self.tensor(output))
        )
        try:
            self.model(torch.tensor([ids], device=self.model.device))
        finally:
            handle.remove()
        return kept[0][0].float().cpu()

    def mean(self, states, start, end):
        return states[start:end].mean(0)

    def extract_turn_activations(self, messages):
        ids, spans = self.encode(messages)
        states = self.states(ids)
        return [self.mean(states, *span) for span in spans]

    def project_onto_axis(self, messages):
        return [(a @ self.axis).item() for a in self.extract_turn_activations(messages)]


@right
class ContentOnly(Base):
    pass


@right
class EndMarkerIncluded(Base):
    def mean(self, states, start, end):
        return states[start : end + 1].mean(0)


@right
class Float64(Base):
    def mean(self, states, start, end):
        return states[start:end].double().mean(0).float()

    def project_onto_axis(self, messages):
        return [torch.dot(a, self.axis).tolist() for a in self.extract_turn_activations(messages)]


@right
class CapturedHiddenStates(Base):
    """Without a hook of its own."""

    def states(self, ids):
        return self.tensor_states(ids).float().cpu()

    @torch.no_grad()
    def tensor_states(self, ids):
        if self.model.model.layers[self.layer].__dict__.get("forward"):
            return Base.states(self, ids)  # such capturing knows no tuples
        output = self.model(torch.tensor([ids]), output_hidden_states=True)
        return output.hidden_states[self.layer + 1][0]


class _Stop(Exception):
    pass


@right
class StopsEarly(Base):
    """Leaves the forward pass as soon as it has what it came for."""

    @torch.no_grad()
    def states(self, ids):
        kept = []

        def hook(module, args, output):
            kept.append(self.tensor(output)[0].float().cpu())
            raise _Stop

        with decoder_blocks(self.model)[self.layer].register_forward_hook(hook), suppress(_Stop):
            self.model(torch.tensor([ids]))
        return kept[0]


@wrong("one forward pass.*found 3")
class PassATurn(Base):
    def extract_turn_activations(self, messages):
        found = []
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                ids, spans = self.encode(messages[: i + 1])
                found.append(self.mean(self.states(ids), *spans[-1]))
        return found


@wrong("one forward pass.*found 3")
class ProjectsTurnByTurn(Base):
    def project_onto_axis(self, messages):
        n = len(self.encode(messages)[1])
        return [(self.extract_turn_activations(messages)[k] @ self.axis).item() for k in range(n)]


@wrong("normal run.*left behind")
class HookStays(Base):
    def __init__(self, *args):
        super().__init__(*args)
        self.kept = []

    def states(self, ids):
        decoder_blocks(self.model)[self.layer].register_forward_hook(
            lambda m, a, output: self.kept.append(self.tensor(output))
        )
        with torch.no_grad():
            self.model(torch.tensor([ids]))
        return self.kept.pop()[0].float()


@wrong("After an error in the forward pass.*left behind")
class HookStaysAfterAnError(Base):
    def states(self, ids):
        kept = []
        handle = decoder_blocks(self.model)[self.layer].register_forward_hook(
            lambda m, a, output: kept.append(self.tensor(output).detach())
        )
        with torch.no_grad():
            self.model(torch.tensor([ids]))
        handle.remove()
        return kept[0][0].float()


@wrong("gone from")
class ClearsHooks(Base):
    def states(self, ids):
        states = super().states(ids)
        for block in decoder_blocks(self.model):
            block._forward_hooks.clear()
        return states


@wrong("turn 0: wrong values")
class KeepsTheFirstConversation(Base):
    def states(self, ids):
        self.first = getattr(self, "first", None)
        if self.first is None:
            self.first = super().states(ids)
        else:
            super().states(ids)
        return torch.cat([self.first, self.first.new_zeros(len(ids), 32)])


@wrong("after an earlier call has failed")
class StaleAfterAnError(Base):
    def states(self, ids):
        self.kept = getattr(self, "kept", [])
        with (
            decoder_blocks(self.model)[self.layer].register_forward_hook(
                lambda m, a, output: self.kept.append(self.tensor(output).detach())
            ),
            torch.no_grad(),
        ):
            self.model(torch.tensor([ids]))
        states, self.kept = self.kept[0][0].float(), []
        return torch.cat([states, states.new_zeros(len(ids), 32)])


@wrong("block that follows")
class BlockTooHigh(Base):
    shift = 1


@wrong(r"block before.*hidden_states\[layer \+ 1\]")
class HiddenStatesIndex(CapturedHiddenStates):
    @torch.no_grad()
    def tensor_states(self, ids):
        return self.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[self.layer][0]


@wrong("of a tuple only")
class BatchElementZero(Base):
    @staticmethod
    def tensor(output):
        return output[0]


@wrong("blocks that return tuples.*older versions")
class TensorsOnly(Base):
    @staticmethod
    def tensor(output):
        return output


@wrong("whole conversation")
class WholeConversation(Base):
    def mean(self, states, start, end):
        return states.mean(0)


@wrong("prompt instead of the answer")
class PromptInstead(Base):
    def mean(self, states, start, end):
        return states[:start].mean(0)


@wrong("to the end of the conversation")
class ToTheEnd(Base):
    def mean(self, states, start, end):
        return states[start:].mean(0)


@wrong("user's turn is included")
class UserTurnIncluded(Base):
    def extract_turn_activations(self, messages):
        ids, spans = self.encode(messages)
        states, previous, found = self.states(ids), spans[0][0], []
        for _, end in spans:
            found.append(states[previous:end].mean(0))
            previous = end
        return found


@wrong("instead of averaging")
class Sums(Base):
    def mean(self, states, start, end):
        return states[start:end].sum(0)


@wrong("last token only")
class LastToken(Base):
    def mean(self, states, start, end):
        return states[end - 1]


@wrong("one too high")
class FirstTokenLost(Base):
    def mean(self, states, start, end):
        return states[start + 1 : end].mean(0)


@wrong("one too low")
class HeaderTokenIncluded(Base):
    def mean(self, states, start, end):
        return states[start - 1 : end].mean(0)


@wrong("another turn|prompt")
class FoundByText(Base):
    """Finds an answer by its first occurrence, which may be a quotation."""

    def encode(self, messages):
        ids, spans = super().encode(messages)
        text = self.tokenizer.decode(ids)
        starts, found = [], 0
        for i in range(len(ids)):
            starts.append(found)
            found += len(self.tokenizer.decode(ids[i]))
        fixed = []
        answers = [m["content"] for m in messages if m["role"] == "assistant"]
        for answer, (a, b) in zip(answers, spans, strict=True):
            first = next(i for i, s in enumerate(starts) if s >= text.index(answer))
            fixed.append((first, first + b - a))
        return ids, fixed


@wrong("5 messages|6 messages|2 messages")
class EveryMessage(Base):
    def encode(self, messages):
        ids, spans = super().encode(messages)
        return ids, [spans[0]] * len(messages)


@wrong("wrong values")
class SystemMessageDropped(Base):
    def encode(self, messages):
        return super().encode([m for m in messages if m["role"] != "system"])


@wrong("expected float32|average in bfloat16")
class HalfPrecisionMean(Base):
    @torch.no_grad()
    def states(self, ids):
        kept = []
        with decoder_blocks(self.model)[self.layer].register_forward_hook(
            lambda m, a, output: kept.append(self.tensor(output))
        ):
            self.model(torch.tensor([ids]))
        return kept[0][0]

    def mean(self, states, start, end):
        return states[start:end].mean(0).float()


@wrong("carries gradients")
class WithGradients(Base):
    def states(self, ids):
        return super().states(ids).clone().requires_grad_()


@wrong("not normalised")
class AxisNotNormalised(Base):
    def unit(self, axis):
        return axis.float()


@wrong("squared norm")
class SquaredNorm(Base):
    def unit(self, axis):
        return axis / axis.norm() ** 2


@wrong("cosine")
class Cosine(Base):
    def project_onto_axis(self, messages):
        return [F.cosine_similarity(a, self.axis, dim=0).item() for a in self.extract_turn_activations(messages)]


@wrong("sign is flipped")
class Flipped(Base):
    def unit(self, axis):
        return -super().unit(axis)


@wrong("changed in place")
class NormalisesInPlace(Base):
    def __init__(self, model, tokenizer, layer, assistant_axis):
        super().__init__(model, tokenizer, layer, assistant_axis)
        assistant_axis /= assistant_axis.norm()


@wrong("expected a float")
class Tensors(Base):
    def project_onto_axis(self, messages):
        return [a @ self.axis for a in self.extract_turn_activations(messages)]


@wrong("messages were changed")
class ChangesMessages(Base):
    def encode(self, messages):
        encoded = super().encode(messages)
        for message in messages:
            message["content"] = message["content"].upper()
        return encoded


@right
class WithNumpy(Base):
    """Projections as one row of numpy's."""

    def project_onto_axis(self, messages):
        found = torch.stack(self.extract_turn_activations(messages)).numpy().astype(np.float64)
        return found @ (self.axis.numpy().astype(np.float64))


@right
class PreHookOnTheNextBlock(Base):
    """Reads what the next block reads, with einops."""

    @torch.no_grad()
    def states(self, ids):
        kept, blocks = [], decoder_blocks(self.model)
        if "forward" in vars(blocks[self.layer]):
            return super().states(ids)  # what comes out of a wrapped block is undone in the next
        with blocks[self.layer + 1].register_forward_pre_hook(
            lambda m, args, kwargs: kept.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        ):
            self.model(torch.tensor([ids]))
        return kept[0][0].float()

    def mean(self, states, start, end):
        return reduce(states[start:end], "t d -> d", "mean")


class ByPrefixes(Base):
    def encode(self, messages):
        def n(text):
            return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

        ids = self.tokenizer(render(messages, self.tokenizer), add_special_tokens=False)["input_ids"]
        turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        return ids, [
            (n(render_prompt(messages[:i], self.tokenizer)), n(render(messages[: i + 1], self.tokenizer)))
            for i in turns
        ]


@wrong("qwen3.*empty think block")
class ArenaStyle(ByPrefixes):
    """The chapter's way to find turns. The text hands out `turn_spans`, right for any template."""


@wrong("qwen3.*empty think block")
class StartAtTheHeaderAndCount(ByPrefixes):
    """Thinking never mentioned: the start lies before the block, and the content's length is counted from there."""

    def encode(self, messages):
        ids, spans = Base.encode(self, messages)
        block = len(self.tokenizer("<think>\n\n</think>\n\n", add_special_tokens=False)["input_ids"])
        if "think" in self.tokenizer.chat_template:
            a, b = spans[-1]
            spans = [*spans[:-1], (a - block, b - block)] if len(messages) % 2 == 0 else spans
        return ids, spans


@wrong("wrong values")
class Medians(Base):
    def mean(self, states, start, end):
        return states[start:end].median(0).values


@wrong("wrong values")
class UnitTokens(Base):
    """Means of unit vectors."""

    def mean(self, states, start, end):
        return F.normalize(states[start:end], dim=1).mean(0)


@wrong("wrong values")
class Centred(Base):
    def mean(self, states, start, end):
        return states[start:end].mean(0) - states.mean(0)


@wrong("wrong values")
class RunningMean(Base):
    """Each turn with all of those before."""

    def extract_turn_activations(self, messages):
        found = super().extract_turn_activations(messages)
        return [torch.stack(found[: i + 1]).mean(0) for i in range(len(found))]


@wrong("expected a list")
class Stacked(Base):
    def extract_turn_activations(self, messages):
        return torch.stack(super().extract_turn_activations(messages))


@wrong("BOS token is there twice|wrong values")
class DoubleBos(Base):
    def encode(self, messages):
        ids, spans = super().encode(messages)
        bos = self.tokenizer.bos_token_id
        return (ids, spans) if bos is None else ([bos, *ids], [(a + 1, b + 1) for a, b in spans])


@wrong("another example's value|order of the inputs|wrong values")
class LatestFirst(Base):
    def project_onto_axis(self, messages):
        return super().project_onto_axis(messages)[::-1]


@wrong("entries, one an assistant turn")
class LastTurnOnly(Base):
    def project_onto_axis(self, messages):
        return super().project_onto_axis(messages)[-1:]


@wrong("one forward pass.*found 2")
class PassForEachUse(Base):
    """Runs the model once to see how many tokens there are."""

    def extract_turn_activations(self, messages):
        self.states(self.encode(messages)[0])
        return super().extract_turn_activations(messages)
