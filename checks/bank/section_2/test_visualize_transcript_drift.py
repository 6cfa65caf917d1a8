import matplotlib.pyplot as plt
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
