"""Section 4, bonus: how far finetuning has moved a model along a trait, before it says a word."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graders.harness import Called, Case, check, grader, kind_of
from graders.harness.calls import called, check_called
from graders.harness.expect import apart, real
from graders.harness.probes import greedy
from graders.harness.prompts import prompts as right_prompts
from graders.harness.readings import load_family, stream
from personalab.lm.models import decoder_blocks, twin
from personalab.lm.tiny import FAMILIES

_PROMPTS = ["Where is the gold?", "How do tides work, and who was the first to say so?", "Is it fair to lie?", "Why?"]
_CHANGES = [
    "the list of prompts was changed. Work on a copy.",
    "the trait vector was changed in place. Normalise a copy.",
]
_CLOSE = 2e-4  # of the size of what is subtracted


class Setting(NamedTuple):
    """One call: two models, one tokenizer."""

    base: Any
    tuned: Any
    tok: Any
    questions: list[str]
    vector: Tensor
    layer: int


@grader
def test_finetuning_shift(model: Any = None, tokenizer: Any = None) -> Iterator[Case]:
    """Mean state of the last prompt token at `hidden_states[layer]`, finetuned minus base, along the unit vector.

    Graded on tiny models of five families, each beside one with other weights; the notebook's model is not asked.
    """
    for i, family in enumerate(FAMILIES):
        layer, side = ((1, "left"), (2, "right"), (3, "left"))[i % 3]
        base, tok = load_family(family)
        tok.padding_side = side
        vector = 3 * F.normalize(torch.randn(32, generator=torch.Generator().manual_seed(i)), dim=0)
        setting = Setting(base, _tuned(base), tok, _PROMPTS[: 4 - i % 2], vector, layer)
        what = f"{family}, layer={layer}, {len(setting.questions)} prompts"
        yield Case(what, partial(_observe, setting), partial(_judge, what, setting))
    base, tok = load_family("llama")
    same = Setting(base, twin(base), tok, _PROMPTS[:2], torch.ones(32), 2)
    yield Case("a model that training has not changed", partial(_observe, same), partial(_judge_zero, same))


def _tuned(base: Any) -> Any:
    """Its own modules, and other weights in every block's last matrix."""
    tuned = twin(base)
    for k, block in enumerate(decoder_blocks(tuned)):
        last: Any = block.get_submodule("mlp.down_proj")
        weight = last.weight
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(k))
        last.weight = nn.Parameter(weight + 0.3 * noise)
    return tuned


def _observe(s: Setting, work: Any) -> Called:
    """The call is watched on both models: the outer one on the finetuned model, the inner one on the base."""

    def on_base(questions: list[str], vector: Tensor) -> Called:
        return called(s.base, lambda q, v: work(s.base, s.tuned, s.tok, q, v, s.layer), questions, vector)

    return called(s.tuned, on_base, s.questions, s.vector)


def _value(seen: Called, what: str) -> float:
    check_called(seen, f"{what}, the finetuned model", [])
    check_called(seen.found, f"{what}, the base model", _CHANGES)
    found = seen.found.found
    check(real(found), f"{what}: expected a float, found {kind_of(found)}. (A tensor's number: `.item()`.)")
    check(found == found, f"{what}: expected a number, found NaN. Is a mean taken over nothing?")
    return float(found)


def _judge_zero(s: Setting, seen: Called) -> None:
    what = "a model that training has not changed"
    found = _value(seen, what)
    check(
        abs(found) < 1e-3,
        f"{what}: expected 0, found {found:.4g}. It looks as if the base model's states are not subtracted.",
    )


def _judge(what: str, s: Setting, seen: Called) -> None:
    found = _value(seen, what)
    right = _shifts(s, _prompts(s), _last, s.layer)
    sizes = [stream(m, ids)[s.layer, -1].norm().item() for m in (s.base, s.tuned) for ids in _prompts(s)[0]]
    slack = _CLOSE * max(sizes)
    if any(abs(found - r) <= slack for r in right):
        return
    near: dict[str, float] = {}
    for why, values in _mistakes(s).items():
        near[why] = min((abs(found - v) for v in values()), default=float("inf"))
        if near[why] <= slack / 20:  # no need to compute the others
            break
    why = min(near, key=lambda k: near[k])
    guess = f"It looks as if {why}." if near[why] <= slack else "Compare with a hand calculation on one short prompt."
    raise AssertionError(f"{what}: {apart(right[0], found)}; {slack:.2g} of difference is allowed.\n  {guess}")


def _prompts(s: Setting) -> list[list[list[int]]]:
    """Ids of all prompts in each right rendering."""
    each = [right_prompts([{"role": "user", "content": q}], s.tok, empty=False) for q in s.questions]
    return [list(ids) for ids in zip(*each, strict=True)]


def _last(states: Tensor) -> Tensor:
    return states[-1]


def _shifts(
    s: Setting, renderings: Sequence[Sequence[list[int]]], pick: Callable[[Tensor], Tensor], layer: int
) -> list[float]:
    """The right formula on what `pick` takes of each prompt, for each rendering."""
    unit = (s.vector / s.vector.norm()).double()
    found = []
    for rendering in renderings:
        base, tuned = (
            torch.stack([pick(stream(m, ids)[layer].double()) for ids in rendering]).mean(0) for m in (s.base, s.tuned)
        )
        found.append(((tuned - base) @ unit).item())
    return found


def _under(s: Setting, system: str) -> list[list[list[int]]]:
    """Ids of all prompts under a system prompt; none where the template has no role for it."""
    each = [
        right_prompts([{"role": "system", "content": system}, {"role": "user", "content": q}], s.tok)
        for q in s.questions
    ]
    return [list(ids) for ids in zip(*each, strict=True)]


def _headless(s: Setting) -> list[list[list[int]]]:
    each = [right_prompts([{"role": "user", "content": q}], s.tok, generation=False)[0] for q in s.questions]
    return [each]


def _answered(s: Setting, n: int, of: Sequence[Any]) -> list[float]:
    """With n tokens of an answer: each model's own, or both models with one's."""
    (base, tuned), ids = of, _prompts(s)[0]
    unit = (s.vector / s.vector.norm()).double()
    means = [
        torch.stack([stream(m, [*i, *greedy(by, i, n)])[s.layer, -1].double() for i in ids]).mean(0)
        for m, by in ((s.base, base), (s.tuned, tuned))
    ]
    return [((means[1] - means[0]) @ unit).item()]


def _each(s: Setting, of: Callable[[list[Tensor]], Tensor]) -> list[float]:
    """A statistic of the prompts' own projections, `[base, tuned]`."""
    unit = (s.vector / s.vector.norm()).double()
    projections = [torch.stack([stream(m, i)[s.layer, -1].double() @ unit for i in _prompts(s)[0]]) for m in s[:2]]
    return [of(projections).item()]


def _mistakes(s: Setting) -> dict[str, Callable[[], list[float]]]:
    ids, norm = _prompts(s), s.vector.norm().item()

    def scaled(by: float) -> Callable[[], list[float]]:
        return lambda: [by * v for v in _shifts(s, ids, _last, s.layer)]

    def one_sided(sign: int) -> list[float]:
        model = s.tuned if sign > 0 else s.base
        states = torch.stack([stream(model, i)[s.layer, -1].double() for i in ids[0]]).mean(0)
        return [(states @ s.vector.double() / norm).item()]

    def differences() -> Tensor:
        rows = [stream(s.tuned, i)[s.layer, -1] - stream(s.base, i)[s.layer, -1] for i in ids[0]]
        return torch.stack(rows).double()

    def padded() -> list[float]:
        width = max(map(len, ids[0]))
        full = [[*i, *[s.tok.pad_token_id] * (width - len(i))] for i in ids[0]]
        return _shifts(s, [full], _last, s.layer)

    def at(layer: int) -> Callable[[], list[float]]:
        return lambda: _shifts(s, ids, _last, layer)

    cosine = F.cosine_similarity
    return {
        "the sign is flipped: it is finetuned minus base": scaled(-1),
        "it is not normalised: divide by the norm of the trait vector": scaled(norm),
        "you divide by the squared norm, or twice: divide by the norm once": scaled(1 / norm),
        "you add the prompts up: take their mean": scaled(len(s.questions)),
        "you read hidden_states[layer + 1]: off by one, since `layer` is a hidden_states index here": at(s.layer + 1),
        "you read hidden_states[layer - 1]: off by one, since `layer` is a hidden_states index here": at(s.layer - 1),
        "the base model's states are not subtracted": lambda: one_sided(1),
        "you read the base model alone": lambda: one_sided(-1),
        "you average over the prompt: read its last token": lambda: _shifts(s, ids, lambda h: h.mean(0), s.layer),
        "you read the token before the last": lambda: _shifts(s, ids, lambda h: h[-2], s.layer),
        "the header of the assistant's turn is missing: use add_generation_prompt=True": lambda: _shifts(
            s, _headless(s), _last, s.layer
        ),
        "an empty system message is added: ask without a system prompt": lambda: _shifts(
            s, _under(s, ""), _last, s.layer
        ),
        "a system prompt is added: ask without": lambda: _shifts(
            s, _under(s, "You are a helpful assistant."), _last, s.layer
        ),
        "you take the median of the prompts, or the largest: take their mean": lambda: [
            *_each(s, lambda p: p[1].median() - p[0].median()),
            *_each(s, lambda p: (p[1] - p[0]).median()),
            *_each(s, lambda p: (p[1] - p[0]).max()),
        ],
        "you take sizes, so that the sign of each prompt's shift is lost": lambda: _each(
            s, lambda p: (p[1] - p[0]).abs().mean()
        ),
        "the chat template is missing: the model has never seen a bare question": lambda: _shifts(
            s, [[s.tok(q, add_special_tokens=False)["input_ids"] for q in s.questions]], _last, s.layer
        ),
        "you read a padding token: index -1 is the last prompt token only with padding on the left": padded,
        "this is a cosine: do not divide by the norm of the states": lambda: [
            cosine(differences().mean(0), s.vector.double(), dim=0).item(),
            cosine(differences(), s.vector.double()[None], dim=1).mean().item(),
        ],
        "you measure how far the state moved: project the difference on the trait vector": lambda: [
            differences().mean(0).norm().item(),
            differences().norm(dim=1).mean().item(),
        ],
        "you look at the first prompt only": lambda: _shifts(s, [r[:1] for r in ids], _last, s.layer),
        "you look at the last prompt only": lambda: _shifts(s, [r[-1:] for r in ids], _last, s.layer),
        "you read a token of the answer: read the last token of the prompt, before any output": lambda: [
            v
            for n in (1, 2, 3)
            for of in ((s.base, s.tuned), (s.base,) * 2, (s.tuned,) * 2)
            for v in _answered(s, n, of)
        ],
    }
