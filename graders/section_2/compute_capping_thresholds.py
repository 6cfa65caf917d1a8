"""Section 2, the safe range along the Assistant Axis."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from scipy.stats import norm
from torch import Tensor

from graders.harness import oracles
from graders.harness.expect import apart, check, check_close, grader, tolerance
from graders.harness.hooked import check_hooks, hooks, running
from graders.section_2.answers import Answer, in_order, recorded
from personalab.lm.models import n_blocks
from personalab.lm.tiny import FAMILIES, load_tiny_model

_QUESTIONS = [
    "What is the moon?",
    "What should I do when I feel afraid of the sea?",
    "Tell me about the city.",
    "Who tells the truth?",
    "What do you think?",
]
_LAYER = 2
_CURE = "Remove every hook you register, in `finally:`."


@grader
def test_compute_capping_thresholds(
    compute_capping_thresholds: Callable[..., dict[float, tuple[float, float, float]]],
    model: Any = None,
    tokenizer: Any = None,
) -> None:
    """Quantiles of a normal fit to centred projections of the answers (on tiny models only: a real one is slow)."""
    axis = torch.randn(32, generator=torch.Generator().manual_seed(1))
    unit = axis / axis.norm()
    # its own projection is far from 0, and from the answers'
    mean_vector = torch.randn(32, generator=torch.Generator().manual_seed(2)) + 9 * unit
    for i, family in enumerate(FAMILIES):
        tiny, tok = load_tiny_model(family)
        questions = _QUESTIONS[: 5 - i % 2]
        quantiles = None if i % 2 else [0.9, 0.25, 0.02]
        run = partial(_run, compute_capping_thresholds, tiny, tok, (0.3 + i) * unit, mean_vector, questions)
        _check_values(tiny, tok, (0.3 + i) * unit, mean_vector, questions, *run(quantiles, family), family)


def _run(
    function: Callable[..., Any],
    model: Any,
    tok: Any,
    axis: Tensor,
    mean_vector: Tensor,
    questions: list[str],
    quantiles: list[float] | None,
    what: str,
) -> tuple[dict[float, tuple[float, float, float]], list[Answer]]:
    """Call the function; check what it returns in form, and what it asked."""
    before, kept = hooks(model), (axis.clone(), mean_vector.clone())
    options = {} if quantiles is None else {"quantiles": list(quantiles)}
    with torch.random.fork_rng(), recorded(model, tok) as answers, running(what):
        torch.manual_seed(0)
        found = function(model, tok, axis, mean_vector, _LAYER, list(questions), **options)
    check_hooks(model, before, f"{what}, after the call", _CURE)
    check(
        torch.equal(axis, kept[0]) and torch.equal(mean_vector, kept[1]),
        f"{what}: you changed the axis or the mean vector in place. Write `a / a.norm()`, no `/=` or `-=`.",
    )
    _check_form(found, quantiles or [0.5, 0.1, 0.05, 0.01], f"{what}, quantiles={quantiles or 'as by default'}")
    return found, in_order(answers, questions, tok, what)


def _check_form(found: Any, quantiles: list[float], what: str) -> None:
    check(isinstance(found, dict), f"{what}: expected a dict by quantile, found {type(found).__name__}.")
    check(
        set(found) == set(quantiles),
        f"{what}: expected the keys {quantiles}, found {list(found)}. Use the quantiles as given, as floats.",
    )
    for q, entry in found.items():
        check(
            isinstance(entry, tuple) and len(entry) == 3 and all(isinstance(x, float) for x in entry),
            f"{what}: expected three floats (threshold, mean, std) for quantile {q}, found {entry!r}. Turn "
            "tensors into floats with .item().",
        )
        check(
            all(abs(x) < float("inf") for x in entry),
            f"{what}: expected finite numbers for quantile {q}, found {entry}. Is a mean taken over no tokens, or no "
            "answers?",
        )
        _, mean, std = entry
        _, first_mean, first_std = next(iter(found.values()))
        check(
            (mean, std) == (first_mean, first_std),
            f"{what}: expected the same mean and std for all quantiles, found {found}. One normal fit serves them all.",
        )


def _texts(model: Any, tok: Any, answers: list[Answer], questions: list[str], layer: int) -> list[list[_Read]]:
    """Each answer read again as text, and as the ids generated: hidden states and where the answer lies in them.

    One list for each right convention, with one entry a question.
    """
    conventions: list[list[_Read]] = []
    for question, answer in zip(questions, answers, strict=True):
        text = tok.decode(answer.new, skip_special_tokens=True)
        ids, spans = oracles.spans(oracles.messages("", question, text), tok)
        states = oracles.hidden(model, ids, layer).double()
        n, end = len(answer.prompt), len(answer.prompt) + len(answer.new)
        own = oracles.hidden(model, [*answer.prompt, *answer.new, tok.eos_token_id], layer).double()
        reads = [_Read(states, a, b) for a, b in spans] + [_Read(own, n, end), _Read(own, n, end + 1)]
        # spans of a text that ends with its marker are fewer: the last one stands for what is missing
        conventions.append([*reads, *[reads[-1]] * (8 - len(reads))])
    return [list(reads) for reads in zip(*conventions, strict=True)]


class _Read(NamedTuple):
    """Hidden states of one conversation, and the answer's span."""

    states: Float[Tensor, "tokens d"]
    start: int
    end: int

    def mean(self) -> Float[Tensor, "d"]:
        """Mean over the answer."""
        return self.states[self.start : self.end].mean(0)


def _fits(projections: Float[Tensor, "n"]) -> list[Float[Tensor, "2"]]:
    """Mean and standard deviation, the latter with n - 1 and with n."""
    return [torch.stack([projections.mean(), projections.std(correction=c)]) for c in (1, 0)]


def _check_values(
    model: Any,
    tok: Any,
    axis: Tensor,
    mean_vector: Tensor,
    questions: list[str],
    found: dict[float, tuple[float, float, float]],
    answers: list[Answer],
    what: str,
) -> None:
    unit, centre = (axis / axis.norm()).double(), mean_vector.double()
    reads = _texts(model, tok, answers, questions, _LAYER)
    right = [
        fit for convention in reads for fit in _fits(torch.stack([(r.mean() - centre) @ unit for r in convention]))
    ]
    _, mean, std = next(iter(found.values()))
    mistakes = _mistakes(_Fitter(model, tok, answers, questions, axis.double(), centre))
    pair, allowed = torch.tensor([mean, std], dtype=torch.float64), tolerance(model.dtype, exact=1e-4)
    check_close(pair, right, f"{what}, layer={_LAYER}: (mean, std)", mistakes, allowed)
    projections = torch.stack([(r.mean() - centre) @ unit for r in reads[0]])
    for q, (threshold, _, _) in found.items():
        _check_threshold(q, threshold, mean, std, projections, what)


def _check_threshold(q: float, threshold: float, mean: float, std: float, values: Tensor, what: str) -> None:
    right = mean + std * float(norm.ppf(q))
    if abs(threshold - right) < 1e-3 * std:
        return
    mistakes = {
        "the normal quantile's sign is wrong, ppf(1 - q): a small q lies far below the mean": mean - (right - mean),
        "you take the quantile of the values themselves: fit a normal, mean + std * norm.ppf(q)": (
            values.quantile(q).item()
        ),
        "you use q itself as the number of standard deviations: use norm.ppf(q)": mean + std * q,
        "you subtract q standard deviations: use norm.ppf(q)": mean - std * q,
        "you leave out the mean: mean + std * norm.ppf(q)": right - mean,
        "you leave out the std: mean + std * norm.ppf(q)": mean + float(norm.ppf(q)),
        "you use the variance: mean + std * norm.ppf(q)": mean + std**2 * float(norm.ppf(q)),
        "you use the cumulative function, norm.cdf: its inverse is norm.ppf": mean + std * float(norm.cdf(q)),
        "you use the standard error of the mean: how single answers vary counts, so no division by the root of n": (
            mean + std / len(values) ** 0.5 * float(norm.ppf(q))
        ),
    }
    # a quantile of the values depends on where answers end, the others are exact
    guesses = [why for why, value in mistakes.items() if abs(threshold - value) < 1e-2 * std]
    guess = f"It looks as if {guesses[0]}." if guesses else "The threshold is mean + std * norm.ppf(q)."
    raise AssertionError(
        f"{what}: wrong threshold for quantile {q}, with mean {mean:.4f} and std {std:.4f}: {apart(right, threshold)}. "
        f"{guess}"
    )


class _Fitter:
    """(mean, std) as they would be with something changed, under each right convention."""

    def __init__(
        self, model: Any, tok: Any, answers: list[Answer], questions: list[str], axis: Tensor, centre: Tensor
    ) -> None:
        self.blocks, self.axis, self.centre = n_blocks(model), axis, centre
        self.unit = axis / axis.norm()
        self.read = partial(_texts, model, tok, answers, questions)

    def fit(
        self,
        along: Tensor | None = None,
        centre: Tensor | None = None,
        layer: int = _LAYER,
        mean: Callable[[_Read], Tensor] = _Read.mean,
        which: slice = slice(None),
    ) -> list[Tensor]:
        along, centre = self.unit if along is None else along, self.centre if centre is None else centre
        if not 0 <= layer <= self.blocks:
            return []
        return [
            pair
            for convention in self.read(layer)
            for pair in _fits(torch.stack([(mean(r) - centre) @ along for r in convention[which]]))
        ]

    def over_tokens(self) -> list[Tensor]:
        return [
            pair
            for convention in self.read(_LAYER)
            for pair in _fits(torch.cat([(r.states[r.start : r.end] - self.centre) @ self.unit for r in convention]))
        ]

    def right_mean_with_std_of(self, other: Callable[[], list[Tensor]]) -> list[Tensor]:
        return [torch.stack([a[0], b[1]]) for a, b in zip(self.fit(), other(), strict=True)]

    def variance(self) -> list[Tensor]:
        return [torch.stack([mean, std**2]) for mean, std in self.fit()]

    def std_over_dimensions(self) -> list[Tensor]:
        found = []
        for convention in self.read(_LAYER):
            m = torch.stack([r.mean() for r in convention]) - self.centre
            stds = (m.std(), m.norm(dim=1).std(), m.std(dim=1).mean(), m.std(dim=0).mean(), m.std(dim=0).norm())
            found += [torch.stack([(m @ self.unit).mean(), std]) for std in stds]
        return found


def _mistakes(fitter: _Fitter) -> dict[str, Callable[[], Tensor | list[Tensor]]]:
    """(mean, std) under typical mistakes, each computed only when a check fails."""
    fit, axis, centre = fitter.fit, fitter.axis, fitter.centre
    return {
        "you do not centre: subtract mean_vector before you project": partial(fit, centre=0 * centre),
        "you add mean_vector: subtract it": partial(fit, centre=-centre),
        "you project on the axis as given: divide it by its norm": partial(fit, axis),
        "you divide by the squared norm of the axis: divide by its norm": partial(fit, axis / axis.norm() ** 2),
        "you project on minus the axis: thresholds are on the +axis side": partial(fit, -fitter.unit),
        "you neither centre nor normalise the axis": partial(fit, axis, 0 * centre),
        "you read hidden_states[layer + 1]: off by one, since `layer` is a hidden_states index here, not a block's": (
            partial(fit, layer=_LAYER + 1)
        ),
        "you read hidden_states[layer - 1]: off by one, since `layer` is a hidden_states index here": (
            partial(fit, layer=_LAYER - 1)
        ),
        "you average over the prompt as well as the answer": (
            lambda: fit(mean=lambda r: r.states.mean(0)) + fit(mean=lambda r: r.states[: r.end].mean(0))
        ),
        "you average over the prompt instead of the answer": partial(fit, mean=lambda r: r.states[: r.start].mean(0)),
        "you take the last token only": partial(fit, mean=lambda r: r.states[r.end - 1]),
        "you take the prompt's last token": partial(fit, mean=lambda r: r.states[r.start - 1]),
        "you pool all tokens: take one mean an answer, and the spread over answers": fitter.over_tokens,
        "the std is taken over tokens: take one mean an answer, and the spread over answers": (
            lambda: fitter.right_mean_with_std_of(fitter.over_tokens)
        ),
        "the last question is left out": partial(fit, which=slice(-1)),
        "the first question is left out": partial(fit, which=slice(1, None)),
        "you return the variance: take its root": fitter.variance,
        "the std is along the axis as given: use the unit axis for both": (
            lambda: fitter.right_mean_with_std_of(partial(fit, axis))
        ),
        "the std is taken over the wrong dimension: project first, then take the std over answers": (
            fitter.std_over_dimensions
        ),
    }
