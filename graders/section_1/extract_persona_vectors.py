"""Section 1: a persona's vector, the mean over its answers."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor

from graders.harness import Called, Case, Raised, attempt, call_case, check_kind, grader
from graders.harness import readings as rd
from graders.harness.expect import check, check_close, check_mean_dtype, check_tensor, on_tiny_models, tolerance
from graders.section_1.examples import QUESTIONS, RESPONSES
from personalab.lm.models import d_model as width_of
from personalab.lm.tiny import load_tiny_model

_PERSONAS = {"pirate": "You are a pirate.", "default": "", "judge": "You are a judge.", "mute": "You are silent."}
_CURE = "Leave it out with a warning (`warnings.warn`), or raise an error that names it."
_UNSCORED = "Keep an answer without a score, as in `scores.get(key, score_threshold)`: nobody scores the defaults"

Responses = dict[tuple[str, int], str]


@grader
def test_extract_persona_vectors(model: Any, tokenizer: Any, d_model: int, num_layers: int) -> Iterator[Case]:
    """Means over kept answers only: scores at or above the threshold, no empty ones (unscored ones are not graded)."""
    if on_tiny_models():
        tiny, tok = load_tiny_model("gemma2")
        responses = {(p, i): f"{p} says {RESPONSES[i]}" for p in ("pirate", "default", "judge") for i in range(4)}
        responses["judge", 1] = ""
        scores = dict.fromkeys(responses, 3) | {("pirate", 1): 2, ("pirate", 3): 0}
        kept = {"pirate": [0, 2], "default": [0, 1, 2, 3], "judge": [0, 2, 3]}
        some = {key: score for key, score in scores.items() if key[0] != "default" and key != ("judge", 3)}
        more, every = kept | {"pirate": [0, 1, 2]}, kept | {"pirate": [0, 1, 2, 3]}
        yield _case(tiny, tok, responses, kept, 2, "with scores", scores=scores)
        yield _case(tiny, tok, responses, more, 2, "with score_threshold=2", scores=scores, score_threshold=2)
        yield _case(tiny, tok, responses, kept, 2, "with scores of some answers only", scores=some)
        yield _case(tiny, tok, responses, every, 3, "without scores")
        yield _nobody_left(tiny, tok, responses)
    if model is not None:
        responses = {("pirate", 0): "Arr, matey!", ("pirate", 1): "The moon pulls on the sea."}
        yield _case(model, tokenizer, responses, {"pirate": [0, 1]}, 1, "your model")


def _case(
    model: Any, tok: Any, responses: Responses, kept: dict[str, list[int]], layer: int, what: str, **options: Any
) -> Case:
    """Each persona's vector against the mean over the answers kept."""
    personas = {name: _PERSONAS[name] for name in kept}
    scores = options.get("scores") or responses
    questions = QUESTIONS[: 1 + max(i for _, i in responses)]

    def judge(seen: Called) -> None:
        found = seen.found
        check_kind(found, dict, "expected a dict by persona")
        lost = [name for name in personas if name not in found]
        unscored = lost and not any(name == p for name in lost for p, _ in scores)
        guess = f" {_UNSCORED}." if unscored else " Keep the order of `personas`." if not lost else ""
        check(list(found) == list(personas), f"expected the personas {list(personas)}, found {list(found)}.{guess}")
        for name, system in personas.items():
            vector = check_tensor(found[name], (width_of(model),), f"the vector of {name!r}")
            spoken = [i for i in range(len(questions)) if responses[name, i]]
            readings = rd.read(model, tok, [(system, questions[i], responses[name, i]) for i in spoken])
            where = f"the vector of {name!r} (mean over answers {kept[name]})"
            scored = [i for i in spoken if (name, i) in scores]
            _check_vector(vector, dict(zip(spoken, readings, strict=True)), kept[name], layer, where, scored)

    changes = [f"you changed {name} in place." for name in ("personas", "questions", "responses")]
    return call_case(what, model, tok, (personas, questions, responses), judge, changes, layer=layer, **options)


def _check_vector(
    vector: Tensor, readings: dict[int, rd.Reading], kept: list[int], layer: int, where: str, scored: list[int]
) -> None:
    subsets = {
        f"answers without a score are dropped. {_UNSCORED}": [i for i in kept if i in scored],
        "the scores are ignored: every answer is averaged": list(readings),
        "the threshold is exclusive: keep scores >= score_threshold, not >": kept[1:],
        "the last kept answer is missing": kept[:-1],
    }

    def over(which: list[int]) -> Callable[[], list[Tensor]]:
        return lambda: rd.mean_over([readings[i] for i in which], layer)(rd.right)

    def over_tokens() -> list[Tensor]:
        tokens = zip(*(rd.token_states(readings[i], layer) for i in kept), strict=False)
        return [torch.cat(states).mean(0) for states in tokens]

    wrong = {why: over(which) for why, which in subsets.items() if which and which != kept}
    wrong["you average over all tokens of all answers, so long ones count more: take one mean an answer"] = over_tokens
    wrong |= {
        "an empty answer is counted, as zeros: it has no activation, so leave it out": lambda: [
            len(kept) / (len(kept) + n) * v for n in range(1, 3) for v in over(kept)()
        ],
        "you add up over the answers instead of averaging": lambda: [len(kept) * v for v in over(kept)()],
        **rd.mistakes(rd.mean_over([readings[i] for i in kept], layer), rd.HIDDEN_STATES_INDEX, rd.POOLING),
    }
    dtype = next(iter(readings.values())).states.dtype
    check_close(vector, over(kept)(), where, wrong, tolerance(dtype))
    check_mean_dtype(vector, dtype, where)


def _nobody_left(model: Any, tok: Any, responses: Responses) -> Case:
    """A persona without answers is left out with a warning, or named in an error."""
    what = "A persona whose answers are all empty"
    questions, personas = QUESTIONS[:4], {name: _PERSONAS[name] for name in ("pirate", "mute")}
    silent = responses | {("mute", i): "" for i in range(4)}

    def observe(work: Callable[..., Any]) -> tuple[Any, bool]:
        with _heard("mute") as said:
            found = attempt(lambda: work(model, tok, personas, questions, silent, layer=2))
        return found, said()

    def judge(observed: tuple[Any, bool]) -> None:
        found, said = observed
        if not isinstance(found, Raised):
            check("mute" not in found, f"{what} got a vector (NaN or invented). {_CURE}")
            check(said, f"{what} was left out without a word: nobody would know that it is missing. {_CURE}")
        else:
            check("mute" in found.text, f"{what} raised {found}, which does not name it ('mute'). {_CURE}")

    return Case(what, observe, judge)


@contextmanager
def _heard(name: str) -> Iterator[Callable[[], bool]]:
    """Whether anything warned inside the `with`: a warning, or a line printed or logged that holds the name."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught, redirect_stdout(text), redirect_stderr(text):
            warnings.simplefilter("always")
            yield lambda: any(issubclass(w.category, UserWarning) for w in caught) or name in text.getvalue()
    finally:
        logging.getLogger().removeHandler(handler)
