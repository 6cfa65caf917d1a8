"""Lines over blocks: what is drawn, marked and said."""

from __future__ import annotations

import numpy as np
import pytest

from personalab.figures import by_block
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
    by_block.plot_by_block(panels, "AUC", chosen={"evil": 1}, reference=0.5, title="What they tell apart")
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
