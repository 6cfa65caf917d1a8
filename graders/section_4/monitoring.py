"""Section 4: monitoring a trait, in answers and in the last prompt token before any answer."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from graders.harness import oracles
from graders.harness.expect import Tolerance, apart, check, grader, on_tiny_models, tolerance
from graders.harness.hooked import check_hooks, failing, hooks, running
from graders.harness.probes import attempt, bystander
from graders.harness.prompts import prompts
from graders.harness.readings import load_family, refuses_system_prompts
from personalab.lm.models import decoder_blocks, n_blocks
from personalab.lm.tiny import FAMILIES

_SYSTEMS = ["You are a pirate.", "", "You are a judge.", "You are a pirate.", "You are an old tree."]
_QUESTIONS = ["Where is the gold?", "How do tides work?", "Is it fair to lie?", "What do you want?", "Who are you?"]
_RESPONSES = [
    "Under the oak, matey.",
    "The moon pulls on the sea, and the sea follows." + " It never rests." * 4,
    "No.",
    "Rest, rum and a fair wind, in that order.",
    "I have stood here for a thousand years, and two more.",
]
_LONG = "the sea" + " and the city" * 80
_HEADER, _BEFORE = "a token of the header is included", "you read the token before the last"
_CURE = "Remove it in `finally`, so that an error can't skip that."

Values = Callable[[], list[Tensor]]
Example = tuple[list[Tensor], Mapping[str, Values]]  # the activations that are right, and those of typical mistakes


@grader
def test_compute_trait_projections(
    compute_trait_projections: Callable[..., list[float]], model: Any = None, tokenizer: Any = None
) -> None:
    """Projection of each answer's mean on the unit trait vector, at `hidden_states[layer]`."""
    long = [["You are a poet."], ["Tell me everything."], [_LONG]]
    _grade(compute_trait_projections, _answer, 3, long, _HEADER, model, tokenizer)


@grader
def test_last_prompt_projections(
    last_prompt_projections: Callable[..., list[float]], model: Any = None, tokenizer: Any = None
) -> None:
    """Projection of the last prompt token, the header of the answer included, at `hidden_states[layer]`."""
    long = [_SYSTEMS[2:4], [_QUESTIONS[2], "Go on: " + _LONG]]
    _grade(last_prompt_projections, _prompt, 2, long, _BEFORE, model, tokenizer)


def _grade(
    function: Callable[..., Any],
    read: Callable[..., Example],
    n_lists: int,
    long: list[list[str]],
    subtle: str,
    model: Any,
    tokenizer: Any,
) -> None:
    """A function of `n_lists` lists of texts on every family, in bfloat16 on `long` ones, and on the notebook's model.

    Args:
        read: the right activations for one example, `read(model, tok, layer, *texts)`.
        subtle: the mistake that changes least. On the notebook's model, in half precision, it shows along the vector
            in which it differs, where along another rounding may hide it.
    """
    if on_tiny_models():
        _grade_on_tiny_models(function, read, n_lists, long)
    if model is not None:
        width, layer = model.config.get_text_config().hidden_size, n_blocks(model) // 2
        lists = [texts[2:] for texts in _lists("", 5)[:n_lists]]  # the shortest of them first
        one = partial(function, model, tokenizer, *[texts[:1] for texts in lists], _vector(width), layer)
        if refuses_system_prompts(tokenizer, one):
            print("Your model's template has no role for system prompts: your function was graded on others only.")
            return
        right, mistakes = read(model, tokenizer, layer, *[texts[0] for texts in lists])
        telling = 3 * F.normalize(mistakes[subtle]()[0] - right[0], dim=0).float()
        _check_values(function, read, model, tokenizer, lists, telling, layer, "your model")


def _grade_on_tiny_models(
    function: Callable[..., Any], read: Callable[..., Example], n_lists: int, long: list[list[str]]
) -> None:
    for family in FAMILIES:
        tiny, tok = load_family(family)
        lists, vector = _lists(family, 5)[:n_lists], _vector(32)
        one = partial(function, tiny, tok, *[texts[:1] for texts in lists], vector, 1)
        if refuses_system_prompts(tok, one):
            continue
        for layer, side in ((1, "left"), (3, "right")):
            tok.padding_side = side
            what = f"{family}, layer={layer}, tokenizer.padding_side={side!r}"
            _check_values(function, read, tiny, tok, lists, vector, layer, what)
    tiny, tok = load_family("llama")
    _check_failure(function, tiny, (tiny, tok, *_lists("llama", 2)[:n_lists], _vector(32), 2))
    tiny, tok = load_family("llama", dtype=torch.bfloat16)
    _check_values(function, read, tiny, tok, long, _vector(32), 2, "bfloat16 model, float32 vector")


def _lists(family: str, n: int) -> list[list[str]]:
    """Exchanges of unequal length. Only where all right solutions agree (Gemma 2) is a system prompt empty."""
    systems = _SYSTEMS if family == "gemma2" else [s or "You are a nurse." for s in _SYSTEMS]
    return [systems[:n], _QUESTIONS[:n], _RESPONSES[:n]]


def _vector(width: int) -> Float[Tensor, "d"]:
    """Of norm 3, so that a forgotten division, and one too many, both show."""
    return 3 * F.normalize(torch.randn(width, generator=torch.Generator().manual_seed(4)), dim=0)


def _run(
    function: Callable[..., Any], model: Any, tok: Any, lists: list[list[str]], vector: Tensor, layer: int, what: str
) -> list[float]:
    """Call the function, and check all that does not depend on the values."""
    given, kept = copy.deepcopy(lists), vector.clone()
    with ExitStack() as stack:
        for block in decoder_blocks(model):
            stack.enter_context(bystander(block))
        before = hooks(model)
        with running(what):
            found = function(model, tok, *given, vector, layer)
        check_hooks(model, before, f"{what}: after a normal run", _CURE)
    check(torch.equal(vector, kept), f"{what}: the trait vector was changed in place. Normalise a copy.")
    check(given == lists, f"{what}: the lists you were given were changed. Work on copies.")
    check(isinstance(found, list), f"{what}: expected a list, found {type(found).__name__}. Use .tolist().")
    n = len(lists[0])
    check(len(found) == n, f"{what}: expected {n} values, one an example, found {len(found)}.")
    for i, value in enumerate(found):
        check(isinstance(value, float), f"{what}, example {i}: expected a float, found {type(value).__name__}.")
    return found


def _check_values(
    function: Callable[..., Any],
    read: Callable[..., Example],
    model: Any,
    tok: Any,
    lists: list[list[str]],
    vector: Tensor,
    layer: int,
    what: str,
) -> None:
    found = _run(function, model, tok, lists, vector, layer, what)
    examples = [read(model, tok, layer, *texts) for texts in zip(*lists, strict=True)]
    allowed = tolerance(model.dtype, exact=1e-4)
    numbers = [_number(value, examples, i, vector, allowed) for i, value in enumerate(found)]
    for i, number in enumerate(numbers):
        check(
            number.is_right(),
            f"{what}, example {i}: {apart(number.right, number.found)}; {number.slack:.2g} of difference is allowed. "
            + ("" if number.is_right() else _likely(numbers, number)),
        )


def _answer(model: Any, tok: Any, layer: int, system: str, question: str, response: str) -> Example:
    """Means over an answer, by what may count as the answer."""
    ids, accepted = oracles.spans(oracles.messages(system, question, response), tok)
    states = oracles.hidden(model, ids, layer).double()
    return [states[a:b].mean(0) for a, b in accepted], _answer_mistakes(model, ids, accepted, layer)


def _answer_mistakes(model: Any, ids: list[int], accepted: list[tuple[int, int]], layer: int) -> dict[str, Values]:
    """Activations of typical mistakes, each computed only when a check fails."""
    start, end = accepted[0]
    ends = sorted({b for _, b in accepted})

    def states(at: int = layer) -> Float[Tensor, "tokens d"]:
        return oracles.hidden(model, ids, at).double()

    def means(at: int, first: int = start) -> list[Tensor]:
        return [states(at)[first:b].mean(0) for b in ends] if 0 <= at <= n_blocks(model) else []

    return {
        f"you read hidden_states[layer {'+-'[step < 0]} 1]: `layer` is a hidden_states index here, so it is the "
        "output of block layer - 1": partial(means, layer + step)
        for step in (1, -1)
    } | {
        "you average over the prompt as well as the answer": lambda: [states().mean(0), states()[:end].mean(0)],
        "you average over the prompt instead of the answer": lambda: [states()[:start].mean(0)],
        "you add the activations up instead of averaging": lambda: [states()[start:b].sum(0) for b in ends],
        "you take the last token only: take the mean over the answer": lambda: [states()[b - 1] for b in ends],
        "you take the last prompt token: take the mean over the answer": lambda: [states()[start - 1]],
        "the answer's first token is lost": partial(means, layer, start + 1),
        _HEADER: partial(means, layer, start - 1),
    }


def _right_prompts(system: str, question: str, tok: Any) -> list[list[int]]:
    """Token ids of every right rendering of a prompt; a system prompt may have to be merged into the user's turn."""
    user = {"role": "user", "content": question}
    found = prompts([{"role": "system", "content": system}, user] if system else [user], tok)
    return found or prompts([{"role": "user", "content": f"{system}\n\n{question}"}], tok)


def _prompt(model: Any, tok: Any, layer: int, system: str, question: str) -> Example:
    """The last token of a prompt, by its right renderings."""
    right = _right_prompts(system, question, tok)
    last = [oracles.hidden(model, ids, layer)[-1].double() for ids in right]
    return last, _prompt_mistakes(model, tok, system, question, right, layer)


def _prompt_mistakes(
    model: Any, tok: Any, system: str, question: str, right: list[list[int]], layer: int
) -> dict[str, Values]:
    """Activations of typical mistakes, each computed only when a check fails."""

    def states(ids: list[int], at: int = layer) -> Float[Tensor, "tokens d"]:
        return oracles.hidden(model, ids, at).double()

    def headless() -> list[Tensor]:
        conversation = oracles.messages(system, question, "-")[:-1]
        texts = oracles.renderings(conversation, tok)
        return [states(tok(t, add_special_tokens=False)["input_ids"])[-1] for t in texts]

    def answered() -> list[Tensor]:
        """Last token of the prompt and up to three tokens of the model's own answer, or of an empty one."""
        found = []
        for ids in right:
            seen = list(ids)
            for _ in range(3):
                seen.append(int(model(input_ids=torch.tensor([seen], device=model.device)).logits[0, -1].argmax()))
                found.append(states(seen)[-1])
        empty = oracles.renderings(oracles.messages(system, question, ""), tok)
        return found + [states(tok(t, add_special_tokens=False)["input_ids"])[-1] for t in empty]

    @torch.inference_mode()
    def padded() -> list[Tensor]:
        found = []
        for ids, n in itertools.product(right, range(1, 16)):
            row = torch.tensor([[*ids, *[tok.pad_token_id] * n]], device=model.device)
            mask = torch.tensor([[1] * len(ids) + [0] * n], device=model.device)
            output = model(input_ids=row, attention_mask=mask, output_hidden_states=True)
            found += [output.hidden_states[layer][0, -1].double().cpu(), states(row[0].tolist())[-1]]
        return found

    return {
        f"you read hidden_states[layer {'+-'[step < 0]} 1]: `layer` is a hidden_states index here, so it is the "
        "output of block layer - 1": lambda step=step: [states(ids, layer + step)[-1] for ids in right]
        for step in (1, -1)
        if 0 <= layer + step <= n_blocks(model)
    } | {
        "the header of the assistant's turn is missing: use add_generation_prompt=True": headless,
        "you read a token of the answer: read the last token of the prompt, before any output": answered,
        "you read a padding token: index -1 is the last prompt token only with padding on the left": padded,
        "you average over the prompt: read its last token": lambda: [states(ids).mean(0) for ids in right],
        _BEFORE: lambda: [states(ids)[-2] for ids in right],
        "the BOS token is there twice: tokenise with add_special_tokens=False": lambda: [
            states([tok.bos_token_id, *ids])[-1] for ids in right if tok.bos_token_id is not None
        ],
        "the system prompt is left out": lambda: [states(ids)[-1] for ids in _right_prompts("", question, tok)],
    }


class _Number(NamedTuple):
    """A projection found, the nearest right one, how far it may lie from it, and what mistakes would give."""

    found: float
    right: float
    slack: float
    mistakes: dict[str, list[float] | Callable[[], list[float]]]

    def is_right(self) -> bool:
        return abs(self.found - self.right) <= self.slack

    def distance(self, mistake: str) -> float:
        """From what the mistake would give; infinite where that is too far, or not much nearer than what is right."""
        values = self.mistakes.get(mistake, [])
        nearest = min((abs(self.found - v) for v in (values() if callable(values) else values)), default=float("inf"))
        return nearest if nearest <= min(self.slack, abs(self.found - self.right) / 4) else float("inf")


def _number(found: float, examples: list[Example], i: int, vector: Tensor, allowed: Tolerance) -> _Number:
    """`found` beside the projections on the unit vector that are right for example `i`."""
    norm = vector.double().norm().item()
    unit, right = vector.double() / norm, examples[i][0]
    expected = [(a @ unit).item() for a in right]
    mistakes: dict[str, list[float] | Callable[[], list[float]]] = {
        "you do not divide by the norm of the trait vector": [e * norm for e in expected],
        "you divide by the squared norm of the trait vector: a·v/‖v‖, not a·v/‖v‖²": [e / norm for e in expected],
        "the sign is flipped: higher means more of the trait": [-e for e in expected],
        "this is the cosine: do not divide by the norm of the activation": [
            e / a.norm().item() for e, a in zip(expected, right, strict=True)
        ],
        "this is another example's value: keep the order of the inputs": [
            (a @ unit).item() for j, (other, _) in enumerate(examples) if j != i for a in other
        ],
    }
    mistakes |= {why: partial(_on_axis, values, unit) for why, values in examples[i][1].items()}
    slack = allowed.along(max(a.norm().item() for a in right), len(unit))
    return _Number(found, min(expected, key=lambda e: abs(found - e)), slack, mistakes)


def _likely(numbers: list[_Number], wrong: _Number) -> str:
    """The mistake nearest to the wrong number that explains all the others too: one alone may match by chance."""
    near: dict[str, float] = {}
    for why in wrong.mistakes:
        distance = wrong.distance(why)
        if distance < float("inf") and all(n.is_right() or n.distance(why) < float("inf") for n in numbers):
            near[why] = distance
            if distance <= 1e-4 * abs(wrong.right):  # no need to compute the others
                break
    if near:
        return f"It looks as if {min(near, key=lambda why: near[why])}."
    return "Compare with a hand calculation on one short example."


def _on_axis(values: Values, unit: Float[Tensor, "d"]) -> list[float]:
    return [(a @ unit).item() for a in values()]


def _check_failure(function: Callable[..., Any], model: Any, arguments: tuple[Any, ...]) -> None:
    before = hooks(model)
    with failing(model, after=0):
        attempt(lambda: function(*arguments))
    check_hooks(model, before, "After an error in the forward pass", _CURE)
