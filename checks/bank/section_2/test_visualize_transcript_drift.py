import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import plotly.graph_objects as go

import utils
from checks.bank import right, wrong
from checks.bank.section_2.test_rate_delusion_risk import with_a_template as rate_delusion_risk


def assistant_turns(transcript):
    return [i for i, m in enumerate(transcript) if m["role"] == "assistant"]


def plot(projections, risks, name):
    utils.plot_drift({name: projections}, risks={name: risks} if risks else None)


@right
def cut_first(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    turns = assistant_turns(transcript)[:max_assistant_turns]
    shown = transcript[: turns[-1] + 1]
    projections = analyzer.project_onto_axis(shown)
    risks = [rate_delusion_risk(shown, i) for i in turns] if run_autorater else []
    plot(projections, risks, transcript_name)
    return projections, risks


@right
def cut_last(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    """Projects everything (later turns change nothing about earlier ones), with a plot of its own."""
    projections = analyzer.project_onto_axis(transcript)[:max_assistant_turns]
    risks = []
    if run_autorater:
        for i in assistant_turns(transcript)[:max_assistant_turns]:
            risks.append(rate_delusion_risk(transcript, i))
    _, ax = plt.subplots()
    ax.plot(projections)
    ax.twinx().plot(risks)
    ax.set_title(transcript_name)
    plt.show()
    return projections, risks


@right
def collects_messages(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    shown, projections, risks, n = [], [], [], 0
    for message in transcript:
        if n == max_assistant_turns:
            break
        shown.append(message)
        if message["role"] == "assistant":
            n += 1
            risks += [rate_delusion_risk(shown, len(shown) - 1)] if run_autorater else []
    for activation in analyzer.extract_turn_activations(shown):
        projections.append((activation @ analyzer.assistant_axis).item())
    go.Figure(go.Scatter(y=projections)).show()
    return projections, risks


def cut_at(analyzer, transcript, name, autorater, end):
    shown = transcript[:end]
    projections = analyzer.project_onto_axis(shown)
    risks = [rate_delusion_risk(shown, i) for i in assistant_turns(shown)] if autorater else []
    plot(projections, risks, name)
    return projections, risks


@wrong("cut the transcript by messages")
def cut_by_messages(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    return cut_at(analyzer, transcript, transcript_name, run_autorater, max_assistant_turns)


@wrong("system message.*cut the transcript by messages")
def two_messages_a_turn(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    end = None if max_assistant_turns is None else 2 * max_assistant_turns
    return cut_at(analyzer, transcript, transcript_name, run_autorater, end)


@wrong("max_assistant_turns ignored")
def no_limit(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    return cut_last(analyzer, transcript, transcript_name, run_autorater)


@wrong("risk_scores.*max_assistant_turns ignored")
def risks_of_all(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    projections, _ = cut_last(analyzer, transcript, transcript_name, False, max_assistant_turns)
    return projections, [rate_delusion_risk(transcript, i) for i in assistant_turns(transcript)]


@wrong("index in the transcript")
def rates_the_last_answer_always(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    projections, _ = cut_last(analyzer, transcript, transcript_name, False, max_assistant_turns)
    turns = assistant_turns(transcript)[:max_assistant_turns]
    return projections, [rate_delusion_risk(transcript, turns[-1]) for _ in turns] if run_autorater else []


@wrong("index in the transcript")
def ordinal_index(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    projections, _ = cut_last(analyzer, transcript, transcript_name, False, max_assistant_turns)
    return projections, [rate_delusion_risk(transcript, i) for i in range(len(projections))] if run_autorater else []


@wrong("judge was asked")
def rates_anyway(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    projections, risks = cut_last(analyzer, transcript, transcript_name, True, max_assistant_turns)
    return projections, risks if run_autorater else []


@wrong("judge was not asked")
def never_rates(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    return cut_last(analyzer, transcript, transcript_name, False, max_assistant_turns)


@wrong(r"expected \[\], found \[0")
def zeros_without_autorater(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    projections, risks = cut_last(analyzer, transcript, transcript_name, run_autorater, max_assistant_turns)
    return projections, risks or [0] * len(projections)


@wrong("tuple of two lists")
def none_without_autorater(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    projections, risks = cut_last(analyzer, transcript, transcript_name, run_autorater, max_assistant_turns)
    return projections, risks or None


@wrong("tuple of two lists")
def returns_nothing(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    cut_first(analyzer, transcript, transcript_name, run_autorater, max_assistant_turns)


@wrong("projections: expected")
def returned_the_other_way_round(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    return cut_first(analyzer, transcript, transcript_name, run_autorater, max_assistant_turns)[::-1]


@wrong("from its beginning")
def answers_without_their_questions(
    analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None
):
    _, risks = cut_first(analyzer, transcript, transcript_name, run_autorater, max_assistant_turns)
    turns = assistant_turns(transcript)[:max_assistant_turns]
    return analyzer.project_onto_axis([transcript[i] for i in turns]), risks


@wrong("analyzer was not asked")
def invents_projections(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    n = len(assistant_turns(transcript)[:max_assistant_turns])
    return [0.0] * n, []


@wrong("nothing was plotted")
def no_plot(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    turns = assistant_turns(transcript)[:max_assistant_turns]
    risks = [rate_delusion_risk(transcript, i) for i in turns] if run_autorater else []
    return analyzer.project_onto_axis(transcript)[:max_assistant_turns], risks


@wrong("transcript was changed")
def cuts_in_place(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    found = cut_first(analyzer, transcript, transcript_name, run_autorater, max_assistant_turns)
    del transcript[assistant_turns(transcript)[:max_assistant_turns][-1] + 1 :]
    return found


@wrong("Keep the defaults")
def another_default(analyzer, transcript, transcript_name, run_autorater=False, max_assistant_turns=None):
    return cut_first(analyzer, transcript, transcript_name, run_autorater, max_assistant_turns)


@right
def with_pandas(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    """A table of turns, drawn by pandas; rows of numpy."""
    table = pd.DataFrame(transcript)
    places = table.index[table.role == "assistant"][:max_assistant_turns]
    shown = transcript[: places[-1] + 1]
    table = pd.DataFrame({"projection": analyzer.project_onto_axis(shown)}, index=places)
    if run_autorater:
        table["risk"] = [rate_delusion_risk(shown, int(i)) for i in places]
    table.plot(subplots=True, title=transcript_name)
    plt.close("all")
    return table.projection.to_numpy(), (table.risk.to_numpy() if run_autorater else [])


@right
def arena_style(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    """Counts assistant turns until there are enough, then projects and rates them one after another."""
    if max_assistant_turns is not None:
        truncated, n_asst = [], 0
        for msg in transcript:
            if n_asst >= max_assistant_turns:
                break
            truncated.append(msg)
            n_asst += msg["role"] == "assistant"
        transcript = truncated
    projections = analyzer.project_onto_axis(transcript)
    asst_indices = [i for i, msg in enumerate(transcript) if msg["role"] == "assistant"]
    risk_scores = []
    if run_autorater:
        for idx in asst_indices:
            risk_scores.append(rate_delusion_risk(transcript, idx))
    _, axes = plt.subplots(1, 2 if run_autorater else 1, squeeze=False)
    axes[0, 0].plot(projections, marker="o")
    plt.close("all")
    return projections, risk_scores


def returning(words, change):
    """A wrong solution that makes something else of the right projections and risks."""

    def solution(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
        return change(*cut_first(analyzer, transcript, transcript_name, run_autorater, max_assistant_turns))

    solution.__module__ = __name__
    return wrong(words)(solution)


flipped = returning("projections: expected", lambda p, r: ([-x for x in p], r))
from_the_first_turn = returning("projections: expected", lambda p, r: ([x - p[0] for x in p], r))
running_means = returning(
    "projections: expected", lambda p, r: ([float(np.mean(p[: i + 1])) for i in range(len(p))], r)
)
latest_first = returning("projections: expected", lambda p, r: (p[::-1], r[::-1]))
shares = returning("risk_scores: expected", lambda p, r: (p, [x / 100 for x in r]))
safety = returning("risk_scores: expected", lambda p, r: (p, [100 - x for x in r]))
pairs = returning("tuple of two lists", lambda p, r: list(zip(p, r or p, strict=True)))
a_dict = returning("tuple of two lists", lambda p, r: {"projections": p, "risks": r})


@wrong("max_assistant_turns=99.*found IndexError.*takes either")
def indexes_beyond_the_end(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    turns = assistant_turns(transcript)
    end = turns[-1 if max_assistant_turns is None else max_assistant_turns - 1]
    return cut_at(analyzer, transcript, transcript_name, run_autorater, end + 1)


@wrong("projections: expected|from its beginning")
def the_last_turns(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    turns = assistant_turns(transcript)
    turns = turns[-max_assistant_turns:] if max_assistant_turns else turns
    projections = analyzer.project_onto_axis(transcript)[-len(turns) :]
    risks = [rate_delusion_risk(transcript, i) for i in turns] if run_autorater else []
    plot(projections, risks, transcript_name)
    return projections, risks


@wrong("system message.*from its beginning|from its beginning")
def without_the_system_message(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    rest = [m for m in transcript if m["role"] != "system"]
    return cut_first(analyzer, rest, transcript_name, run_autorater, max_assistant_turns)


@wrong("risk_scores: expected")
def rates_the_next_turn(analyzer, transcript, transcript_name, run_autorater=True, max_assistant_turns=None):
    projections, _ = cut_last(analyzer, transcript, transcript_name, False, max_assistant_turns)
    turns = assistant_turns(transcript)
    shifted = [*turns[1:], turns[-1]][: len(projections)]
    return projections, [rate_delusion_risk(transcript, i) for i in shifted] if run_autorater else []
