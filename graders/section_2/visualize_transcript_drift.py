"""Section 2: projections and risks over a transcript, as numbers and in a figure."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import matplotlib.pyplot as plt
import plotly.io
import torch
import torch.nn.functional as F
from IPython.utils.capture import capture_output
from matplotlib.figure import Figure
from plotly.basedatatypes import BaseFigure
from torch import Tensor

from graders.harness import Case, check, difference, exchange, grader, prompt_of
from graders.harness.expect import listed
from graders.harness.probes import Conversation
from graders.section_2.rate_delusion_risk import in_tags, risk

_SCORES = {0: (5, 4), 1: (4, 4), 2: (3, 5), 3: (2, 2), 4: (1, 2)}  # of the judge, by assistant turn
_RISKS = [risk(*_SCORES[k]) for k in _SCORES]
_LINES = [2.5, 1.5, -0.5, -3.0, -4.5]  # projections, by assistant turn
_ANSWERS = [f"Answer {word}, and so on." for word in ("alpha", "beta", "gamma", "delta", "epsilon")]
_EXCHANGES: Conversation = [
    m
    for k, answer in enumerate(_ANSWERS)
    for m in ({"role": "user", "content": f"Question {'abcde'[k]}?"}, {"role": "assistant", "content": answer})
]
_TRANSCRIPTS: dict[str, Conversation] = {
    "a transcript of five turns": _EXCHANGES,
    "a transcript with a system message": [{"role": "system", "content": "Be brief."}, *_EXCHANGES],
    "a transcript that ends with a question": [*_EXCHANGES, {"role": "user", "content": "And then?"}],
    "a transcript where the user writes twice in a row": [{"role": "user", "content": "Hello."}, *_EXCHANGES],
}
_HINT = (
    "The transcript has five assistant turns: max_assistant_turns=None means all of them, and so does a number that is "
    "larger. A slice, `turns[:max_assistant_turns]`, takes either."
)


class FakeAnalyzer:
    """In the place of a ConversationAnalyzer: a known projection for each answer; keeps the messages it was given."""

    def __init__(self) -> None:
        self.given: list[Conversation] = []
        self.layer = 0
        self.assistant_axis = F.one_hot(torch.tensor(0), 4).float()

    def project_onto_axis(self, messages: Conversation) -> list[float]:
        self.given.append(copy.deepcopy(list(messages)))
        return [_LINES[_ANSWERS.index(m["content"])] for m in messages if m["role"] == "assistant"]

    def extract_turn_activations(self, messages: Conversation) -> list[Tensor]:
        return [p * self.assistant_axis for p in self.project_onto_axis(messages)]


class Drift(NamedTuple):
    """What came of a call."""

    found: Any
    transcript: Conversation  # what has become of it
    analysed: list[Conversation]  # what the analyzer was given, call by call
    asked: int  # how often the judge was
    drawn: int  # figures made


@grader
def test_visualize_transcript_drift() -> Iterator[Case]:
    """As many projections and risks as assistant turns asked for, of the right turns, and a plot."""
    for what, transcript in _TRANSCRIPTS.items():
        for limit, autorater in ((2, True), (3, False)):
            yield _case(transcript, limit, autorater, what)
    what, transcript = next(iter(_TRANSCRIPTS.items()))
    yield from (_case(transcript, limit, True, what) for limit in (None, 1, 99))
    yield _case(transcript, None, False, what)
    what = "Keep the defaults run_autorater=True and max_assistant_turns=None (all turns). Without further arguments"
    yield Case(what, partial(_drift, transcript, {}), partial(_check_drift, transcript, None, True), _HINT)


def _case(transcript: Conversation, limit: int | None, autorater: bool, what: str) -> Case:
    what = f"For {what}, with max_assistant_turns={limit}, run_autorater={autorater}"
    options = {"run_autorater": autorater, "max_assistant_turns": limit}
    return Case(what, partial(_drift, transcript, options), partial(_check_drift, transcript, limit, autorater), _HINT)


def _drift(transcript: Conversation, options: dict[str, Any], work: Any) -> Drift:
    analyzer, given = FakeAnalyzer(), copy.deepcopy(transcript)
    with _figures() as drawn:
        asked = exchange(_judge, lambda: work(analyzer, given, "a name", **options))
    return Drift(asked.found, given, analyzer.given, len(asked.prompts), len(drawn))


def _judge(messages: Conversation, model: str) -> str:
    """Scores of the last answer in the prompt."""
    prompt = prompt_of(messages)
    return in_tags(*_SCORES[max((k for k, answer in enumerate(_ANSWERS) if answer in prompt), default=0)])


def _check_drift(transcript: Conversation, limit: int | None, autorater: bool, observed: Drift) -> None:
    n, found = min(limit or 5, 5), observed.found
    found = tuple(map(listed, found)) if isinstance(found, tuple) else found
    check(observed.transcript == transcript, "the transcript was changed. Work on a copy.")
    check(
        isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, list) for part in found),
        f"expected a tuple of two lists (projections, risk_scores), found {found!r:.200}.",
    )
    check(observed.analysed, "the analyzer was not asked. Call analyzer.project_onto_axis(messages).")
    for messages in observed.analysed:
        right = transcript[: len(messages)]
        check(
            messages == right,
            "expected the analyzer to be given the transcript from its beginning, all roles included, since an "
            "answer's activations depend on everything before it. It was given others: "
            f"{difference(right, messages, 'messages')}.",
        )
    _check_line(list(map(float, found[0])), _LINES[:n], "projections", transcript, limit)
    if autorater:
        check(observed.asked, "the judge was not asked. Call rate_delusion_risk for every turn shown.")
    else:
        check(not observed.asked, f"the judge was asked {observed.asked} times; expected none.")
    _check_line(found[1], _RISKS[:n] if autorater else [], "risk_scores", transcript, limit)
    check(observed.drawn, "nothing was plotted. Call utils.plot_drift.")


def _check_line(found: list[Any], expected: list[Any], what: str, transcript: Conversation, limit: int | None) -> None:
    if found == expected:
        return
    by_messages = [sum(m["role"] == "assistant" for m in transcript[:k]) for k in (limit or 0, 2 * (limit or 0))]
    guess = "One entry an assistant turn, in order."
    if not expected:
        guess = "Return [] in its place when the autorater is off."
    elif len(found) != len(expected):
        if len(found) in by_messages and limit:
            guess = "It looks as if you cut the transcript by messages: count assistant turns."
        elif len(found) == len(_ANSWERS):
            guess = "Is max_assistant_turns ignored here?"
    elif what == "risk_scores":
        guess = "latest_asst_idx is a message's index in the transcript. Does your rate_delusion_risk pass its check?"
    raise AssertionError(f"{what}: {difference(expected, found)}. {guess}")


@contextmanager
def _figures() -> Iterator[list[object]]:
    """Figures made meanwhile, which are neither shown nor kept."""
    drawn: list[object] = []
    backend, renderer, before = plt.get_backend(), plotly.io.renderers.default, set(plt.get_fignums())

    def counted(kind: type) -> Any:
        inner = kind.__init__  # type: ignore[misc]

        def init(self: object, *args: Any, **kwargs: Any) -> None:
            drawn.append(kind)
            inner(self, *args, **kwargs)

        return mock.patch.object(kind, "__init__", init)

    plt.switch_backend("agg")
    plotly.io.renderers.default = "json"
    try:
        with capture_output(), counted(Figure), counted(BaseFigure), mock.patch.object(Figure, "savefig"):
            yield drawn
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
        plotly.io.renderers.default = renderer
        plt.switch_backend(backend)
