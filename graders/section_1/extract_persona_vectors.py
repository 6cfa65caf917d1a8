"""Section 1: a persona's vector, the mean over its answers."""

import warnings
from collections.abc import Callable, Iterator
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
_CURE = "Leave it out with a warning, or raise a ValueError that names it."

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
        more, every = kept | {"pirate": [0, 1, 2]}, kept | {"pirate": [0, 1, 2, 3]}
        yield _case(tiny, tok, responses, kept, 2, "with scores", scores=scores)
        yield _case(tiny, tok, responses, more, 2, "with score_threshold=2", scores=scores, score_threshold=2)
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
    questions = QUESTIONS[: 1 + max(i for _, i in responses)]

    def judge(seen: Called) -> None:
        found = seen.found
        check_kind(found, dict, "expected a dict by persona")
        check(list(found) == list(personas), f"expected the personas {list(personas)}, found {list(found)}.")
        for name, system in personas.items():
            vector = check_tensor(found[name], (width_of(model),), f"the vector of {name!r}")
            spoken = [i for i in range(len(questions)) if responses[name, i]]
            readings = rd.read(model, tok, [(system, questions[i], responses[name, i]) for i in spoken])
            where = f"the vector of {name!r} (mean over answers {kept[name]})"
            _check_vector(vector, dict(zip(spoken, readings, strict=True)), kept[name], layer, where)

    changes = [f"you changed {name} in place." for name in ("personas", "questions", "responses")]
    return call_case(what, model, tok, (personas, questions, responses), judge, changes, layer=layer, **options)


def _check_vector(vector: Tensor, readings: dict[int, rd.Reading], kept: list[int], layer: int, where: str) -> None:
    subsets = {
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
        "you add up over the answers instead of averaging": lambda: [len(kept) * v for v in over(kept)()],
        **rd.mistakes(rd.mean_over([readings[i] for i in kept], layer), rd.HIDDEN_STATES_INDEX, rd.POOLING),
    }
    dtype = next(iter(readings.values())).states.dtype
    check_close(vector, over(kept)(), where, wrong, tolerance(dtype))
    check_mean_dtype(vector, dtype, where)


def _nobody_left(model: Any, tok: Any, responses: Responses) -> Case:
    """A persona without answers is left out, or named in a ValueError."""
    what = "A persona whose answers are all empty"
    questions, personas = QUESTIONS[:4], {name: _PERSONAS[name] for name in ("pirate", "mute")}
    silent = responses | {("mute", i): "" for i in range(4)}

    def observe(work: Callable[..., Any]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return attempt(lambda: work(model, tok, personas, questions, silent, layer=2))

    def judge(found: Any) -> None:
        if not isinstance(found, Raised):
            check("mute" not in found, f"{what} got a vector (NaN or invented). {_CURE}")
        else:
            check("ValueError" in found.kinds, f"{what} ended in {found}. {_CURE}")
            check("mute" in found.text, f"{what} raised {found}, which does not name it ('mute'). {_CURE}")

    return Case(what, observe, judge)
