"""Figures: a picture and an interactive version each, both described in words."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch

from personalab import plots

NAMES = ["a", "b", "c"]


@pytest.fixture
def shown(monkeypatch):
    outputs = []
    monkeypatch.setattr(plots, "display", lambda bundle, raw: outputs.append(bundle))
    return outputs


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.plot_similarity_matrix(torch.eye(3) - 0.1, NAMES, "title"),
        lambda: plots.plot_persona_space(np.eye(3, 2), NAMES, {"g": NAMES[:2], "h": ["c", "not there"]}, [0.5, 0.2]),
        lambda: plots.plot_persona_space(np.eye(3, 2), NAMES, {"g": NAMES}, [0.5, 0.2], np.array([1.0, 0.5])),
        lambda: plots.plot_similarity_line({"a": 0.5, "b": -0.5}, {"g": ["a", "b"]}, intervals={"a": (0.4, 0.6)}),
        lambda: plots.plot_null(np.arange(10) / 10, 0.5, "cosine"),
    ],
)
def test_every_figure_comes_as_picture_and_interactive(shown, draw):
    draw()
    static, interactive = shown
    assert base64.b64decode(static["image/png"]).startswith(b"\x89PNG")
    assert interactive["application/vnd.plotly.v1+json"]["data"]
    assert len(static["text/plain"]) > 20 and static["text/plain"] in interactive["text/plain"]


def test_the_line_is_in_ascending_order(shown):
    plots.plot_similarity_line({"high": 0.9, "low": -0.9, "middle": 0.0})
    figure = shown[1]["application/vnd.plotly.v1+json"]
    assert figure["layout"]["yaxis"]["categoryarray"] == ["low", "middle", "high"]
