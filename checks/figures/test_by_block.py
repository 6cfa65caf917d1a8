"""Lines over blocks: what is drawn, marked and said."""

from __future__ import annotations

import numpy as np
import pytest

from personalab.figures import by_block
from personalab.figures.base import COLOURS
from personalab.measure.separation import Curve

VALUES = np.array([0.5, 0.9, 0.7])
CURVE = Curve(VALUES, VALUES - 0.1, VALUES + 0.1)


@pytest.fixture
def shown(monkeypatch):
    calls = []
    monkeypatch.setattr(by_block, "show", lambda static, interactive, alt: calls.append((static, interactive, alt)))
    return calls


def test_a_panel_a_trait_with_its_curves_and_its_mark(shown):
    panels = {"evil": {"re-read": CURVE, "identical": CURVE}, "sycophantic": {"re-read": CURVE}}
    by_block.plot_by_block(
        panels, "AUC", chosen={"evil": 1}, reference=0.5, reference_name="no separation", title="What they tell apart"
    )
    (static, interactive, alt) = shown[0]
    assert [ax.get_title() for ax in static.axes] == ["evil", "sycophantic"]
    lines = static.axes[0].get_lines()
    np.testing.assert_allclose(lines[0].get_ydata(), VALUES)
    assert list(lines[0].get_xdata()) == [0, 1, 2]
    assert len(interactive.data) == 3 and interactive.data[0].y.tolist() == VALUES.tolist()
    assert "evil: re-read peaks at block 1 with 0.90" in alt and "chosen: block 1" in alt


def test_blocks_may_be_some_only(shown):
    by_block.plot_by_block({"all": {"effect": CURVE}}, "score", blocks=[6, 12, 18])
    static, interactive, alt = shown[0]
    assert list(static.axes[0].get_lines()[0].get_xdata()) == [6, 12, 18] == list(interactive.data[0].x)
    assert "block 12" in alt


def test_curves_differ_in_more_than_colour_and_the_legend_is_off_the_data(shown):
    names = ("own prompts", "re-read", "identical")
    by_block.plot_by_block(
        {"evil": dict.fromkeys(names, CURVE)},
        "AUC",
        chosen={"evil": 2},
        chosen_name="picked",
        reference=0.5,
        reference_name="no separation",
        colours={"re-read": "treated", "identical": "control"},
    )
    static, interactive, alt = shown[0]
    lines = {line.get_label(): line for line in static.axes[0].containers}
    assert set(lines) == set(names)
    drawn = [lines[name].lines[0] for name in names]
    assert len({line.get_linestyle() for line in drawn}) == len({line.get_marker() for line in drawn}) == 3
    assert [line.get_color() for line in drawn[1:]] == [COLOURS["treated"], COLOURS["control"]]
    assert [trace.line.color for trace in interactive.data[1:]] == [COLOURS["treated"], COLOURS["control"]]
    assert len({trace.line.dash for trace in interactive.data}) == 3
    (legend,) = static.legends  # the figure's, below the panels
    assert {*names, "picked", "no separation"} == {text.get_text() for text in legend.get_texts()}
    assert static.axes[0].get_legend() is None and "picked: block 2" in alt


def test_a_trait_has_its_own_colour_and_an_interval_is_drawn_at_some_of_many_blocks(shown):
    values = np.linspace(0.4, 0.9, 30)
    level = np.full(30, 0.5)
    curves = {"evil": Curve(values, values - 0.1, values + 0.1), "words": Curve(level, level - 0.1, level + 0.1)}
    by_block.plot_by_block({"all": curves}, "AUC")
    static, interactive, alt = shown[0]
    evil, words = static.axes[0].containers
    assert evil.lines[0].get_color() == COLOURS["evil"]
    for container, trace, n in ((evil, interactive.data[0], 10), (words, interactive.data[1], 1)):
        assert len(container.lines[0].get_xdata()) == 30
        assert len(container.lines[2][0].get_segments()) == (np.array(trace.error_y.array) > 0).sum() == n
    assert "words lies at 0.50" in alt


def test_few_blocks_have_all_their_intervals_side_by_side(shown):
    by_block.plot_by_block({"all": {"vector": CURVE, "random": CURVE}}, "gain", blocks=[2, 5, 8])
    bars = [{float(s[0, 0]) for s in c.lines[2][0].get_segments()} for c in shown[0][0].axes[0].containers]
    assert [len(at) for at in bars] == [3, 3] and not bars[0] & bars[1]
