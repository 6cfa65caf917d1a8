"""Section 1, persona vectors: which answers enter the mean, and how."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graders import oracles
from graders.expect import check, check_close, check_full_precision, check_tensor, grader
from graders.section_1_activations import own_tolerance
from personalab.models import n_blocks
from personalab.tiny import load_tiny_model

Key = tuple[str, int]
Answers = Mapping[Key, str]

_PERSONAS = {"pirate": "You are a pirate.", "default": "", "judge": "You are a judge."}
_QUESTIONS = ["Where is the gold?", "How do tides work?", "Is it fair to lie?", "What do you want?"]
_ANSWERS = [
    "Under the oak, matey.",
    "The moon pulls on the sea, and the sea follows. " * 4,
    "No.",
    "Rest, rum and a fair wind, in that order.",
]
_RESPONSES = {(p, i): f"{p} says {answer}" for p in _PERSONAS for i, answer in enumerate(_ANSWERS)} | {("judge", 1): ""}
_SCORES = dict.fromkeys(_RESPONSES, 3) | {("pirate", 1): 2, ("pirate", 3): 0, ("judge", 3): 2}


@dataclass(frozen=True)
class _Case:
    """One call: the model, and what it is asked."""

    model: Any
    tok: Any
    layer: int = 2
    scores: Mapping[Key, int] | None = None
    threshold: int = 3
    tolerance: float = 1e-4

    def keeps(self, key: Key, threshold: int) -> bool:
        return self.scores is None or self.scores[key] >= threshold


@grader
def test_extract_persona_vectors(
    extract_persona_vectors: Callable[..., dict[str, Tensor]],
    model: Any,
    tokenizer: Any,
    d_model: int,
    num_layers: int,
) -> None:
    """Means over kept answers only: scores at or above the threshold, no empty ones."""
    tiny, tok = load_tiny_model("gemma2")  # its template leaves no doubt about an empty system prompt

    found = extract_persona_vectors(tiny, tok, dict(_PERSONAS), list(_QUESTIONS), dict(_RESPONSES), layer=3)
    _check_vectors(found, _Case(tiny, tok, layer=3), "without scores")

    asked = (tiny, tok, dict(_PERSONAS), list(_QUESTIONS), dict(_RESPONSES))
    found = extract_persona_vectors(*asked, layer=2, scores=dict(_SCORES), score_threshold=2)
    _check_vectors(found, _Case(tiny, tok, scores=_SCORES, threshold=2), "with scores and score_threshold=2")

    found = extract_persona_vectors(*asked, layer=2, scores=dict(_SCORES))
    _check_vectors(found, _Case(tiny, tok, scores=_SCORES), "with scores and the default threshold of 3")

    _check_nobody_left(extract_persona_vectors, tiny, tok)
    if model is not None:
        pirate, answers = {"pirate": _PERSONAS["pirate"]}, {("pirate", 0): _RESPONSES["pirate", 0]}
        layer = max(1, num_layers * 2 // 3)
        found = extract_persona_vectors(model, tokenizer, pirate, _QUESTIONS[:1], answers, layer=layer)
        case = _Case(model, tokenizer, layer, tolerance=own_tolerance(model))
        _check_vectors(found, case, "your model", pirate, answers, d_model)


def _check_vectors(
    found: Any,
    case: _Case,
    what: str,
    personas: Mapping[str, str] = _PERSONAS,
    responses: Answers = _RESPONSES,
    d_model: int = 32,
) -> None:
    check(isinstance(found, dict), f"{what}: expected a dict by persona, found {type(found).__name__}.")
    check(
        set(found) == set(personas),
        f"{what}: expected the personas {list(personas)}, found {list(found)}. Every one of them has an answer to "
        "keep: the threshold itself is enough (>=, not >).",
    )
    for name, system in personas.items():
        vector = check_tensor(found[name], (d_model,), f"{what}: the vector of {name!r}")
        check_full_precision(vector, f"{what}: the vector of {name!r}")
        given = {i: text for (p, i), text in responses.items() if p == name and text}
        kept = [i for i in given if case.keeps((name, i), case.threshold)]
        rows = _rows(case, system, given, case.layer)
        right = [r[[list(given).index(i) for i in kept]].mean(0) for r in rows]
        check_close(
            vector,
            right,
            f"{what}: the vector of {name!r}, the mean over its answers to questions {kept}",
            _mistakes(case, name, system, given, kept),
            case.tolerance,
        )


def _rows(case: _Case, system: str, given: Mapping[int, str], layer: int) -> list[Float[Tensor, "n d"]]:
    """Every answer's mean activation, a table for each right way to read an exchange."""
    answers = []
    for i, text in given.items():
        readings = oracles.readings(oracles.messages(system, _QUESTIONS[i], text), case.tok)
        states = [oracles.hidden(case.model, ids, layer).double() for ids, _ in readings]
        answers.append([h[a:b].mean(0) for h, (_, spans) in zip(states, readings, strict=True) for a, b in spans])
    return [torch.stack(rows) for rows in zip(*answers, strict=True)]


def _mistakes(
    case: _Case, name: str, system: str, given: Mapping[int, str], kept: list[int]
) -> dict[str, Callable[[], list[Tensor]]]:
    def over(which: list[int], scale: float = 1.0, shift: int = 0, prompt: str = system) -> list[Tensor]:
        if not which or not 0 <= case.layer + shift <= n_blocks(case.model):
            return []
        subset = {i: given[i] for i in which}
        return [scale * rows.mean(0) for rows in _rows(case, prompt, subset, case.layer + shift)]

    n = len(kept)
    return {
        "the scores are ignored: every answer is averaged": partial(over, list(given)),
        "the threshold is exclusive: keep scores >= score_threshold, not >": partial(
            over, [i for i in given if case.keeps((name, i), case.threshold + 1)]
        ),
        "score_threshold is ignored, and 3 taken instead": partial(
            over, [i for i in given if case.keeps((name, i), 3)]
        ),
        "score_threshold is ignored, and 2 taken instead": partial(
            over, [i for i in given if case.keeps((name, i), 2)]
        ),
        "you divide by the number of questions (an empty or dropped answer counts as zeros): divide by the number of "
        "answers kept": partial(over, kept, n / len(_QUESTIONS)),
        "you add the answers up instead of averaging": partial(over, kept, n),
        "you average over all tokens of all answers, so long ones count more: take one mean an answer, then the mean "
        "over answers": lambda: [_token_mean(case, system, {i: given[i] for i in kept})],
        "the last kept answer is missing": partial(over, kept[:-1]),
        "the persona's system prompt is missing": partial(over, kept, prompt=""),
        "you read hidden_states[layer + 1]: `layer` is a hidden_states index here": partial(over, kept, shift=1),
        "you read hidden_states[layer - 1]: `layer` is a hidden_states index here": partial(over, kept, shift=-1),
    }


def _token_mean(case: _Case, system: str, given: Mapping[int, str]) -> Float[Tensor, "d"]:
    tokens = []
    for i, text in given.items():
        ids, spans = oracles.readings(oracles.messages(system, _QUESTIONS[i], text), case.tok)[0]
        tokens.append(oracles.hidden(case.model, ids, case.layer).double()[slice(*spans[0])])
    return torch.cat(tokens).mean(0)


def _check_nobody_left(function: Callable[..., Any], model: Any, tok: Any) -> None:
    """A persona without answers to keep is left out, or a ValueError names it."""
    personas = {"pirate": _PERSONAS["pirate"], "mute": "You are silent."}
    empty = dict(_RESPONSES) | {("mute", i): "" for i in range(len(_QUESTIONS))}
    refused = dict(_RESPONSES) | {("mute", i): "No." for i in range(len(_QUESTIONS))}
    scores = dict.fromkeys(refused, 3) | {("mute", i): 0 for i in range(len(_QUESTIONS))}
    advice = "Leave it out with a warning, or raise a ValueError that names it."
    for what, responses, given in (
        ("A persona whose answers are all empty", empty, None),
        ("A persona whose answers all score below the threshold", refused, scores),
    ):
        said = io.StringIO()
        with warnings.catch_warnings(record=True) as warned, redirect_stdout(said), redirect_stderr(said):
            warnings.simplefilter("always")
            try:
                found = function(model, tok, personas, list(_QUESTIONS), responses, layer=2, scores=given)
            except NotImplementedError:
                raise
            except ValueError as error:
                check("mute" in str(error), f"{what} ('mute') raised {error!r}, which does not name it.")
                continue
            except Exception as error:
                raise AssertionError(f"{what} ended in {type(error).__name__} ({error}). {advice}") from error
        check("mute" not in found, f"{what} got a vector (NaN or invented). {advice}")
        told = said.getvalue() + " ".join(str(w.message) for w in warned)
        check("mute" in told, f"{what} ('mute') disappeared without a word. {advice}")
