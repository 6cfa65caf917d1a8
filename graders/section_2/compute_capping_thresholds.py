"""Section 2, the safe range along the Assistant Axis."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from scipy.stats import norm
from torch import Tensor

from graders.harness import Called, Case, call_case, check, check_close, check_kind, grader, tolerance
from graders.harness import readings as rd
from graders.harness.expect import apart, listed, real
from graders.harness.intercepted import Row, Rows, intercepted
from graders.harness.prompts import check_question
from personalab.lm.tiny import FAMILIES, load_tiny_model

_QUESTIONS = [
    "What is the moon?",
    "What should I do when I feel afraid of the sea?",
    "Tell me about the city.",
    "Who tells the truth?",
    "What do you think?",
]
_LAYER = 2
_IN_PLACE = "you changed the axis or the mean vector in place. Write `a / a.norm()`, no `/=` or `-=`."

Found = dict[float, tuple[float, float, float]]


@grader
def test_compute_capping_thresholds(model: Any = None, tokenizer: Any = None) -> Iterator[Case]:
    """Quantiles of a normal fit to centred projections of the answers (on tiny models only: a real one is slow)."""
    axis = torch.randn(32, generator=torch.Generator().manual_seed(1))
    unit = axis / axis.norm()
    # its own projection is far from 0, and from the answers'
    centre = torch.randn(32, generator=torch.Generator().manual_seed(2)) + 9 * unit
    for i, family in enumerate(FAMILIES):
        quantiles = None if i % 2 else [0.9, 0.25, 0.02]
        yield _case(family, (0.3 + i) * unit, centre, _QUESTIONS[: 5 - i % 2], quantiles)


def _case(family: str, axis: Tensor, centre: Tensor, questions: list[str], quantiles: list[float] | None) -> Case:
    model, tok = load_tiny_model(family)
    options: dict[str, Any] = {} if quantiles is None else {"quantiles": list(quantiles)}

    def judge(seen: Called) -> None:
        _check_form(seen.found, quantiles or [0.5, 0.1, 0.05, 0.01])
        reads = _read(model, tok, _in_order(seen.noted, questions, tok), questions)
        _check_values(seen.found, _Fit(reads, axis.double(), centre.double()))

    args, changes = (axis, centre, _LAYER, questions), [_IN_PLACE, _IN_PLACE, "", "you changed the questions in place."]
    what, around = f"{family}, quantiles={quantiles or 'as by default'}", partial(_recorded, model, tok)
    return call_case(what, model, tok, args, judge, changes, when="after the call", around=around, **options)


@contextmanager
def _recorded(model: Any, tok: Any) -> Iterator[list[Row]]:
    """Every answer that `model.generate` gives inside the `with`.

    Whole words only, so that an answer's text has one tokenisation, and a length of its own for each question.
    """
    vocabulary = tok.get_vocab()
    first = [i for w, i in vocabulary.items() if w in ("The", "What", "You", "Tell", "one", "two", "four")]
    later = [i for w, i in vocabulary.items() if w[0] == "Ġ" and w[1:].isalpha() and len(w) > 1]
    answers: list[Row] = []

    def script(prompts: Rows) -> list[Rows]:
        lengths = [3 + 2 * ((len(answers) + row) % 4) for row in range(len(prompts))]
        return [[first, *[later] * (n - 1)] for n in lengths]

    with intercepted(model, tok, script, heard=lambda call: answers.extend(call.rows)):
        yield answers


def _in_order(answers: list[Row], questions: list[str], tok: Any) -> list[Row]:
    """One answer a question: the last it was given; each asked in the chat template, without a system prompt."""
    ordered = []
    for question in questions:
        asked = [a for a in answers if question in tok.decode(a.prompt)]
        check(
            asked,
            f"expected the model to answer {question!r}, but `model.generate` was never given that question. Answer "
            "every evaluation question with model.generate.",
        )
        check_question(asked[-1].prompt, question, tok, "a question")
        ordered.append(asked[-1])
    return ordered


def _check_form(found: Any, quantiles: list[float]) -> None:
    check_kind(found, dict, "expected a dict by quantile")
    same_keys = f"expected the keys {quantiles}, found {list(found)}. Use the quantiles as given, as floats."
    check(set(found) == set(quantiles), same_keys)
    for q, entry in found.items():
        entry = listed(entry)
        check(
            isinstance(entry, tuple | list) and len(entry) == 3 and all(map(real, entry)),
            f"expected three floats (threshold, mean, std) for quantile {q}, found {entry!r}. Turn tensors into floats "
            "with .item().",
        )
        check(
            all(abs(float(x)) < float("inf") for x in entry),
            f"expected finite numbers for quantile {q}, found {entry}. Is a mean taken over no tokens, or no answers?",
        )
        check(
            list(entry[1:]) == list(next(iter(found.values()))[1:]),
            f"expected the same mean and std for all quantiles, found {found}. One normal fit serves them all.",
        )


def _read(model: Any, tok: Any, answers: list[Row], questions: list[str]) -> list[list[rd.Reading]]:
    """Each answer, read as the ids generated and read again as text."""
    texts = [tok.decode(answer.new, skip_special_tokens=True) for answer in answers]
    found = [[again] for again in rd.read(model, tok, [("", *e) for e in zip(questions, texts, strict=True)])]
    for readings, answer in zip(found, answers, strict=True):
        n, ids = len(answer.prompt), [*answer.prompt, *answer.new, tok.eos_token_id]
        spans = [(n, len(ids) - 1), (n, len(ids))]
        readings.insert(0, rd.Reading(model, tok, [], ids, rd.stream(model, ids), [spans]))
    return found


@dataclass(frozen=True)
class _Fit:
    """(mean, std) of the answers' projections, under each right convention, and as they would be with a mistake.

    Attributes:
        reads: for each answer, its right readings.
    """

    reads: Sequence[list[rd.Reading]]
    axis: Float[Tensor, "d"]
    centre: Float[Tensor, "d"]

    @property
    def unit(self) -> Float[Tensor, "d"]:
        return self.axis / self.axis.norm()

    def columns(self, rows: Callable[[rd.Reading, int], list[Tensor]]) -> list[list[Tensor]]:
        """One list for each convention, with one entry an answer."""
        each = [[row for reading in readings for row in rows(reading, _LAYER)] for readings in self.reads]
        return [list(column) for column in zip(*each, strict=False)]

    def fit(
        self,
        along: Tensor | None = None,
        centre: Tensor | None = None,
        rows: rd.Rows = rd.right,
        which: slice = slice(None),
    ) -> list[Tensor]:
        along, centre = self.unit if along is None else along, self.centre if centre is None else centre
        return _fits([(torch.stack(column[which]) - centre) @ along for column in self.columns(rows)])

    def over_tokens(self) -> list[Tensor]:
        """Of all tokens' projections."""
        return _fits([(torch.cat(column) - self.centre) @ self.unit for column in self.columns(rd.token_states)])

    def with_std_of(self, other: Callable[[], list[Tensor]]) -> list[Tensor]:
        """The right mean, with another standard deviation."""
        return [torch.stack([a[0], b[1]]) for a, b in zip(self.fit(), other(), strict=True)]

    def std_over_dimensions(self) -> list[Tensor]:
        found = []
        for column in self.columns(rd.right):
            m = torch.stack(column) - self.centre
            stds = (m.std(), m.norm(dim=1).std(), m.std(dim=1).mean(), m.std(dim=0).mean(), m.std(dim=0).norm())
            found += [torch.stack([(m @ self.unit).mean(), std]) for std in stds]
        return found


def _fits(projections: list[Float[Tensor, "n"]]) -> list[Float[Tensor, "2"]]:
    """Mean and standard deviation, the latter with n - 1 and with n."""
    return [torch.stack([values.mean(), values.std(correction=c)]) for values in projections for c in (1, 0)]


def _mistakes(fit: _Fit) -> dict[str, Callable[[], list[Tensor]]]:
    """(mean, std) under this exercise's own mistakes, each computed only when a check fails."""
    axis, none = fit.axis, 0 * fit.centre
    return {
        "you do not centre: subtract mean_vector before you project": partial(fit.fit, centre=none),
        "you add mean_vector: subtract it": partial(fit.fit, centre=-fit.centre),
        "you project on the axis as given: divide it by its norm": partial(fit.fit, axis),
        "you divide by the squared norm of the axis: divide by its norm": partial(fit.fit, axis / axis.norm() ** 2),
        "you project on minus the axis: thresholds are on the +axis side": partial(fit.fit, -fit.unit),
        "you neither centre nor normalise the axis": partial(fit.fit, axis, none),
        "you pool all tokens: take one mean an answer, and the spread over answers": fit.over_tokens,
        "the std is taken over tokens: take one mean an answer, and the spread over answers": (
            partial(fit.with_std_of, fit.over_tokens)
        ),
        "the last question is left out": partial(fit.fit, which=slice(-1)),
        "the first question is left out": partial(fit.fit, which=slice(1, None)),
        "you return the variance: take its root": lambda: [torch.stack([m, s**2]) for m, s in fit.fit()],
        "the std is along the axis as given: use the unit axis for both": (
            partial(fit.with_std_of, partial(fit.fit, axis))
        ),
        "the std is taken over the wrong dimension: project first, then take the std over answers": (
            fit.std_over_dimensions
        ),
    }


def _check_values(found: Found, fit: _Fit) -> None:
    _, mean, std = next(iter(found.values()))
    values = (torch.stack(fit.columns(rd.right)[0]) - fit.centre) @ fit.unit
    wrong = _mistakes(fit) | rd.mistakes(lambda rows: fit.fit(rows=rows), rd.HIDDEN_STATES_INDEX, rd.POOLING)
    pair, allowed = torch.tensor([mean, std], dtype=torch.float64), tolerance(torch.float32, exact=1e-4)
    check_close(pair, fit.fit(), f"layer={_LAYER}: (mean, std)", wrong, allowed)
    for q, (threshold, _, _) in found.items():
        _check_threshold(q, threshold, mean, std, values)


def _check_threshold(q: float, threshold: float, mean: float, std: float, values: Tensor) -> None:
    z = float(norm.ppf(q))
    right = mean + std * z
    if abs(threshold - right) < 1e-3 * std:
        return
    mistakes = {
        "the normal quantile's sign is wrong, ppf(1 - q): a small q lies far below the mean": mean - std * z,
        "you take the quantile of the values themselves: fit a normal, mean + std * norm.ppf(q)": (
            values.quantile(q).item()
        ),
        "you use q itself as the number of standard deviations: use norm.ppf(q)": mean + std * q,
        "you subtract q standard deviations: use norm.ppf(q)": mean - std * q,
        "you leave out the mean: mean + std * norm.ppf(q)": std * z,
        "you leave out the std: mean + std * norm.ppf(q)": mean + z,
        "you use the variance: mean + std * norm.ppf(q)": mean + std**2 * z,
        "you use the cumulative function, norm.cdf: its inverse is norm.ppf": mean + std * float(norm.cdf(q)),
        "you use the standard error of the mean: how single answers vary counts, so no division by the root of n": (
            mean + std / len(values) ** 0.5 * z
        ),
    }
    # a quantile of the values depends on where answers end, the others are exact
    guesses = [f"It looks as if {why}." for why, value in mistakes.items() if abs(threshold - value) < 1e-2 * std]
    raise AssertionError(
        f"wrong threshold for quantile {q}, with mean {mean:.4f} and std {std:.4f}: {apart(right, threshold)}. "
        f"{[*guesses, 'The threshold is mean + std * norm.ppf(q).'][0]}"
    )
