"""One answer, generated while `coefficient * vector` is added to a block's output: what is read, and what is said."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from graders.harness.calls import Called, call_case, failing_case
from graders.harness.cases import Case, check_kind
from graders.harness.expect import check, check_close, tolerance
from graders.harness.hooked import Pass, changed, observed
from graders.harness.prompts import prompts
from personalab.lm.models import d_model, n_blocks
from personalab.lm.tiny import FAMILIES, load_tiny_model

PROMPT = "What should I do when I feel afraid?"
_TOKENS = 6
_SHARP = 1e5  # our choice: the closest choice between two tokens is then 36 logits wide, far above rounding


def vector_of(width: int = 32, seed: int = 0) -> Float[Tensor, "d"]:
    """About as long as a tiny model's activations, and of no particular norm."""
    return 1.3 * torch.randn(width, generator=torch.Generator().manual_seed(seed))


def sharp(family: str, blocks: int = 4) -> tuple[Any, Any]:
    """A tiny model of whole words (and the end marker) whose sampling has one outcome at any usual temperature."""
    model, tok = load_tiny_model(family, n_blocks=blocks)
    vocabulary = tok.get_vocab()
    words = [i for w, i in vocabulary.items() if w[0] == "Ġ" and w[1:].isalpha() and len(w) > 1]
    head = nn.Linear(32, len(vocabulary))
    bias = torch.full((len(vocabulary),), -1e9)
    bias[[*words, tok.eos_token_id]] = 0
    with torch.no_grad():
        head.weight.copy_(_SHARP * model.lm_head.weight)
        head.bias.copy_(bias)
    model.lm_head = head
    if hasattr(model.config, "final_logit_softcapping"):
        model.config.final_logit_softcapping = None  # it would make ties of large logits
    return model, tok


def _pushes(n_tokens: int, n_prompt: int, push: Float[Tensor, "d"], where: str) -> Float[Tensor, "tokens d"]:
    """What is added at each position of a whole sequence, read in one pass instead of many."""
    position = torch.arange(n_tokens)[:, None]
    masks = {
        "all": position >= 0,
        "prompt": position < n_prompt,
        "response": position >= n_prompt - 1,
        "new tokens": position >= n_prompt,
        "prompt's end": position == n_prompt - 1,
    }
    return masks[where] * push.cpu().float()


@torch.inference_mode()
def _whole(
    model: Any, ids: Sequence[int], block: int, push: Float[Tensor, "tokens d"], watch: Sequence[int] = ()
) -> tuple[Float[Tensor, "blocks tokens d"], Float[Tensor, "tokens vocab"]]:
    """States and logits of the whole sequence in one pass without a cache, `push` added to the block's output."""
    add = changed(model, [(block, lambda hidden: hidden + push.to(hidden))])
    with add, observed(model, watch or range(n_blocks(model))) as passes:
        logits = model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False).logits[0]
    return torch.stack([s[0].float() for s in passes[0].states.values()]), logits.float().cpu()


def answer(
    model: Any, tok: Any, prompt: list[int], block: int, push: Tensor, where: str, n: int, markers: bool = False
) -> str:
    """The likeliest answer of up to `n` tokens, one whole pass each; the end marker's name only with `markers`."""
    new: list[int] = []
    while len(new) < n and model.generation_config.eos_token_id not in new:
        ids = [*prompt, *new]
        _, logits = _whole(model, ids, block, _pushes(len(ids), len(prompt), push, where))
        new.append(int(logits[-1].argmax()))
    return tok.decode(new, skip_special_tokens=not markers).strip()


def read(passes: list[Pass]) -> tuple[list[int], int, Float[Tensor, "blocks tokens d"]]:
    """All ids the model read, how many of them were the prompt, and every block's output at each."""
    ids: list[int] = []
    states: list[Tensor] = []
    for step in passes:
        if step.ids.shape[1] > 1:  # the prompt, or, without a cache, everything again
            ids, states = [], []
        ids += step.ids[0].tolist()
        states.append(torch.stack([s[0].float() for s in step.states.values()]))
    return ids, passes[0].ids.shape[1], torch.cat(states, dim=1)


@dataclass(frozen=True)
class Wrong:
    """A mistake: what is added (of vector and coefficient), where (by default where it should be), blocks too far."""

    push: Callable[[Tensor, float], Tensor] = lambda vector, coefficient: coefficient * vector
    where: str = ""
    shift: int = 0


@dataclass(frozen=True)
class Situation:
    """A model, and what it is steered by."""

    what: str
    model: Any
    tok: Any
    vector: Float[Tensor, "d"]
    block: int
    coefficient: float
    options: Mapping[str, Any] = field(default_factory=dict)
    watch: Sequence[int] = ()
    around: Any = nullcontext

    @property
    def push(self) -> Tensor:
        return self.coefficient * self.vector


@dataclass(frozen=True)
class Exercise:
    """A function (model, tokenizer, prompt, vector, block, coefficient, max_new_tokens, temperature) -> answer.

    Attributes:
        names: of its arguments coefficient and block.
        where: positions at which a right solution may add the vector (keys of `_pushes`).
        mistakes: explanation -> mistake.
        cures: what to do about a hook left behind, and about an answer of the plain model.
        check_prompt: judges the ids that the model was to continue: (ids, tokenizer, what, is it a tiny model?).
    """

    names: tuple[str, str]
    where: tuple[str, ...]
    mistakes: Mapping[str, Wrong]
    cures: tuple[str, str]
    check_prompt: Callable[[list[int], Any, str, bool], None] = lambda ids, tok, what, tiny: None

    def on_tiny_models(self) -> Iterator[Case]:
        """Values and answers, everywhere; dtypes, temperatures, other people's hooks, failures."""
        name, block_name = self.names
        for i, family in enumerate(FAMILIES):
            model, tok = sharp(family)
            block = (1, 0, 2, 3, 1)[i]
            for coefficient in (1.5, -0.5, 0.0):
                what = f"{family}, {name}={coefficient}, {block_name}={block}"
                yield self.steered(Situation(what, model, tok, vector_of(seed=i), block, coefficient))
        model, tok = sharp("llama")
        end = model.lm_head.weight[model.generation_config.eos_token_id].detach().clone()
        yield self.steered(Situation("llama, steered to end at once", model, tok, end, n_blocks(model) - 1, 100.0))
        half = load_tiny_model("llama", dtype=torch.bfloat16)  # what the notebook has where the CPU gains from it
        yield self.steered(Situation("bfloat16 model, float32 vector", *half, vector_of(), 1, 1.5), False)
        yield self._temperature(0.0)
        yield self._temperature(1e-5)
        yield self._temperature(100.0)
        yield self._temperature(0.7)
        model, tok = sharp("qwen2")
        alike = partial(changed, model, [(1, lambda hidden: hidden)])
        what = "With a second hook on the block"
        yield self.called(Situation(what, model, tok, vector_of(), 1, 1.0, around=alike), lambda reply: None)
        args, options = (PROMPT, vector_of(), 1, 1.0), {"max_new_tokens": _TOKENS, "cure": self.cures[0]}
        for after, which in ((0, "first"), (2, "third")):
            what = f"After an error in the {which} pass of a generation"
            yield failing_case(model, tok, args, what, after, **options)

    def on_yours(self, model: Any, tok: Any) -> Case:
        """Three tokens of the notebook's own model; its first position is often larger than all others together."""
        block = n_blocks(model) // 2
        ids = prompts([{"role": "user", "content": PROMPT}], tok)[0]
        plain, _ = _whole(model, ids, block, torch.zeros(len(ids), d_model(model)), [block])
        vector = vector_of(d_model(model)) * plain[0].pow(2).mean(-1).sqrt().median()
        return self.steered(
            Situation("your model", model, tok, vector, block, 1.0, {"max_new_tokens": 3}, [block]), False, tiny=False
        )

    def called(self, given: Situation, judge: Callable[[Called], None]) -> Case:
        """One call: what must hold after each, and then `judge` of its text and, as what was noted, its passes."""

        @contextmanager
        def watching() -> Iterator[list[Pass]]:
            with given.around(), observed(given.model, given.watch or range(n_blocks(given.model))) as passes:
                yield passes

        def judged(seen: Called) -> None:
            check_kind(seen.found, str, "expected a str")
            check(seen.noted, "expected the model to generate, but it never ran.")
            judge(seen)

        return call_case(
            given.what,
            given.model,
            given.tok,
            (PROMPT, given.vector, given.block, given.coefficient),
            judged,
            ["", f"you changed `steering_vector` in place. Write `{self.names[0]} * vector`, no `*=`."],
            when="after a normal call",
            around=watching,
            cure=self.cures[0],
            **{"max_new_tokens": _TOKENS} | dict(given.options),
        )

    def steered(self, given: Situation, text: bool = True, tiny: bool = True) -> Case:
        """The blocks' outputs at every position, and the answer's text."""
        first, near = 0 if tiny else 1, tolerance(given.model.dtype, exact=1e-4)

        def judge(seen: Called) -> None:
            ids, n_prompt, found = read(seen.noted)
            self.check_prompt(ids[:n_prompt], given.tok, given.what, tiny)

            def states(wrong: Wrong) -> list[Tensor]:
                """Of every right choice of positions, or of the mistaken one."""
                block, push = given.block + wrong.shift, wrong.push(given.vector, given.coefficient)
                if not 0 <= block < n_blocks(given.model):
                    return []
                added = [_pushes(len(ids), n_prompt, push, w) for w in ((wrong.where,) if wrong.where else self.where)]
                return [_whole(given.model, ids, block, each, given.watch)[0][:, first:] for each in added]

            mistakes = {why: partial(states, wrong) for why, wrong in self.mistakes.items()}
            check_close(found[:, first:], states(Wrong()), "what the blocks put out", mistakes, near)
            if text:
                self._check_text(seen.found.strip(), ids[:n_prompt], given)

        return self.called(given, judge)

    def _check_text(self, found: str, prompt: list[int], given: Situation) -> None:
        say = partial(answer, given.model, given.tok, prompt, given.block)
        right = []
        for where in self.where:
            right.append(say(given.push, where, _TOKENS))
            if found == right[-1]:
                return
        if PROMPT in found:
            guess = "The prompt is in the reply: decode only the ids after the prompt, `output[0, n_prompt:]`."
        elif found in [say(given.push, where, _TOKENS, markers=True) for where in self.where]:
            guess = "Special tokens are in the reply: decode with skip_special_tokens=True."
        elif any(r and (found.startswith(r) or r.startswith(found)) for r in right):
            guess = f"Its length is wrong: return up to max_new_tokens={_TOKENS} tokens, all of them."
        elif found == say(0 * given.push, "all", _TOKENS):
            guess = f"It is the answer of the model without steering: return the one generated {self.cures[1]}."
        else:
            guess = f"Return the text of the new tokens that `generate` gave {self.cures[1]}, nothing else."
        raise AssertionError(f"wrong reply.\n  expected: {right[0]!r}\n  found:    {found!r}\n  {guess}")

    def _temperature(self, temperature: float) -> Case:
        model, tok = load_tiny_model("llama")
        cold = temperature < 0.1
        if not cold:  # no token is likely, at any usual temperature
            model.lm_head.weight.data *= 0.1
        given = Situation(f"temperature={temperature}", model, tok, vector_of(), 1, 0.5, {"temperature": temperature})

        def judge(seen: Called) -> None:
            ids = seen.noted[0].ids[0].tolist()
            right = [answer(model, tok, ids, 1, given.push, where, _TOKENS) for where in self.where]
            found = seen.found.strip()
            expected = f"the likeliest answer {right[0]!r}" if cold else "a random answer, not the likeliest"
            cure = "Pass `temperature` on to generate, with do_sample=True; 0 means greedy, do_sample=False."
            check((found in right) == cold, f"expected {expected}, found {found!r}. {cure}")

        return self.called(given, judge)
