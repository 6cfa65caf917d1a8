"""Figures: a picture and an interactive version each, both described in words."""

from __future__ import annotations

import base64
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.text import Text

from personalab.figures import assistant_axis, base, capping, report
from personalab.figures.labels import place_labels
from personalab.figures.persona_space import (
    group_styles,
    plot_persona_space,
    plot_similarity_line,
    plot_similarity_matrix,
)

NAMES = ["a", "b", "c"]


@pytest.fixture
def shown(monkeypatch):
    outputs = []
    for module in (base, assistant_axis):
        monkeypatch.setattr(module, "display", lambda bundle, **_: outputs.append(bundle))
    return outputs


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plot_similarity_matrix(torch.eye(3) - 0.1, NAMES, "title"),
        lambda: plot_persona_space(np.eye(3, 2), NAMES, {"g": NAMES[:2], "h": ["c", "not there"]}, [0.5, 0.2]),
        lambda: plot_persona_space(np.eye(3, 2), NAMES, {"g": NAMES}, [0.5, 0.2], np.array([1.0, 0.5])),
        lambda: plot_similarity_line({"a": 0.5, "b": -0.5}, {"g": ["a", "b"]}, intervals={"a": (0.4, 0.6)}),
        lambda: base.plot_null(np.arange(10) / 10, 0.5, "cosine"),
        lambda: assistant_axis.plot_drift({"a": [1.0, 2.0], "b": [0.5]}, risks={"a": [50, 25]}),
        lambda: assistant_axis.plot_sweep((-1, 0, 1), {"adherence": np.eye(3), "coherence": 100 * np.eye(3)}, "alpha"),
        lambda: assistant_axis.plot_drift({"coding": np.eye(3, 4), "therapy": np.ones((2, 4))}),
        lambda: assistant_axis.plot_sweep(
            (0, 1), {"a": np.eye(2, 3)}, "x", ((0, 1), {"a": np.eye(2)}), {"a": (1, "b")}
        ),
        lambda: capping.plot_ablation({"plain": np.ones(4), "cap": np.eye(4)[0]}, {"plain": 0.0, "cap": 3.0}, "out"),
        lambda: capping.plot_tradeoff(
            [
                {"id": name, "perplexity": 20.0, "out_of_persona": 0.5, "n": 48}
                for name in ("plain", "layers_1:2-p0.5", "steer_1-1.0")
            ],
            chosen="layers_1:2-p0.5",
        ),
        lambda: base.plot_rates({"plain": np.ones(5), "capped": np.zeros(5)}, "share out of persona"),
    ],
)
def test_every_figure_comes_as_picture_and_interactive(shown, draw):
    draw()
    static, interactive = shown
    assert base64.b64decode(static["image/png"]).startswith(b"\x89PNG")
    plotly = interactive["application/vnd.plotly.v1+json"]
    assert plotly["data"] and plotly["config"]["responsive"]
    assert "width" not in plotly["layout"] and plotly["layout"]["legend"]["y"] < 0  # off the axes
    assert interactive["image/png"] == base._fold()  # JupyterLab shows the figure itself to whoever points there
    assert len(static["text/plain"]) > 20 and static["text/plain"] in interactive["text/plain"]


def test_legends_stand_off_the_axes(monkeypatch):
    drawn = []
    for module in (base, report):
        monkeypatch.setattr(module, "show", lambda static, *_: drawn.append(static))
    base.plot_null(np.arange(10) / 10, 0.5, "cosine")
    report.plot_ranks({"projection difference": np.arange(3.0), "judge": np.arange(3.0)}, "evil")
    for figure in drawn:
        figure.canvas.draw()
        (ax,) = figure.axes
        assert not ax.get_legend().get_window_extent().overlaps(ax.get_window_extent())
        plt.close(figure)


def test_the_fold_is_a_line_that_fits_a_phone():
    width, height = np.frombuffer(base64.b64decode(base._fold())[16:24], ">u4")
    assert width < 300 and height < 40


def test_the_line_is_in_ascending_order_between_its_limits(shown):
    plot_similarity_line({"high": 0.9, "low": -0.9, "middle": 0.0})
    figure = shown[1]["application/vnd.plotly.v1+json"]
    assert figure["layout"]["yaxis"]["ticktext"] == ["low", "middle", "high"]
    low, high = figure["layout"]["xaxis"]["range"]
    assert low <= -1 and high >= 1


def test_a_long_line_names_its_ends(shown):
    plot_similarity_line({f"trait {i}": i / 240 for i in range(240)})
    axis = shown[1]["application/vnd.plotly.v1+json"]["layout"]["yaxis"]
    assert len(axis["ticktext"]) == len(axis["tickvals"]) == 40
    assert axis["ticktext"][0] == "trait 0" and axis["ticktext"][-1] == "trait 239"


def test_groups_of_personas_keep_their_colours_wherever_they_stand():
    styles = dict(
        (group, style)
        for (group, _), style in group_styles(
            {"new, mid-range": ["a"], "seen": ["b"], "default": ["c"]}, dict.fromkeys("abc")
        )
    )
    assert styles["new, mid-range"][0] == base.COLOURS["mid-range"]
    assert styles["default"][0] == base.COLOURS["default"]
    assert styles["seen"][0] == base.COLOURS["control"]
    assert len({marker for _, marker, _ in styles.values()}) == 3


def test_labels_overlap_neither_each_other_nor_the_frame():
    fig, ax = plt.subplots(figsize=(9, 6))
    points = np.random.default_rng(0).normal(0, 0.05, (12, 2))
    points = np.vstack([points, [[1, 1], [1, -1], [-1, 1]]])
    ax.scatter(*points.T)
    place_labels(ax, points, [f"a long name {i}" for i in range(len(points))])
    fig.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in ax.texts]  # without the lines that join them to their points
    frame = ax.get_window_extent()
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in boxes)
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    plt.close(fig)


def test_side_by_side_escapes_what_models_write_and_folds_behind_a_note(shown):
    user = {"role": "user", "content": "1 < 2?"}
    bad = {"role": "assistant", "content": "<script>alert(1)</script>"}
    assistant_axis.show_side_by_side([user, bad], [user, user | bad], ("plain", "capped"), note="Villains & co")
    (bundle,) = shown
    html = bundle["text/html"]
    assert "<script" not in html and html.count("&lt;script&gt;") == 2
    assert html.startswith("<details><summary>Villains &amp; co</summary>") and "1 &lt; 2?" in html
    assert bundle["text/plain"].startswith("Villains & co")


def test_a_sweeps_intervals_stay_within_its_scale_and_its_control_is_named(monkeypatch):
    drawn = []
    monkeypatch.setattr(assistant_axis, "show", lambda *figures: drawn.append(figures))
    scores = np.array([[0.0, 0, 0, 3], [3, 3, 3, 0]])
    assistant_axis.plot_sweep((0, 1), {"score (0-3)": scores}, "x", control=((0, 1), {"score (0-3)": scores}))
    ((_, interactive, alt),) = drawn
    for line in interactive.data:
        low, high = line.y - line.error_y.arrayminus, line.y + line.error_y.array
        assert low.min() >= 0 and high.max() <= 3 and line.name.endswith("n = 4 a point")
    assert "random directions" in alt


def test_a_share_of_none_has_no_interval_below_it():
    below, above = capping.wilson_margins([0.0, 1.0], [10, 10])
    assert below[0] == above[1] == 0 and above[0] > 0 and below[1] > 0
