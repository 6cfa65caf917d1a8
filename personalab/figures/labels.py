"""Names beside points that overlap neither each other nor the points, and stay inside the frame."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

POINT = 5.0  # half the size of a marker, pixels
RADII = (9, 14, 22, 32, 44, 58, 74)  # how far a label may stand from its point, pixels
ANGLES = np.deg2rad([20, -20, 160, 200, 90, 270, 45, 135, 225, 315])
FAR = 20  # from here on a thin line joins the label to its point


def place_labels(ax: Axes, points: Float[np.ndarray, "n 2"], names: Sequence[str], size: int = 7) -> None:
    """Write each name beside its point (in data coordinates), the crowded ones first.

    Each takes the nearest place that is free; where none is, the one that overlaps least.
    """
    if not len(points):
        return
    ax.get_xlim()  # settles limits that a drawing has only asked for
    pixels = ax.transData.transform(points)
    frame = ax.get_window_extent()
    scale = ax.figure.dpi / 72
    taken = np.hstack([pixels - POINT, pixels + POINT])  # boxes: x0, y0, x1, y1
    crowding = (np.linalg.norm(pixels[:, None] - pixels[None], axis=2) < RADII[-1]).sum(axis=1)
    for i in np.argsort(-crowding, kind="stable"):
        width, height = 0.6 * size * len(names[i]) * scale, 1.2 * size * scale
        boxes = np.array([_box(pixels[i], r, a, width, height) for r, a in product(RADII, ANGLES)])
        outside = np.maximum([frame.x0, frame.y0] - boxes[:, :2], 0) + np.maximum(
            boxes[:, 2:] - [frame.x1, frame.y1], 0
        )
        cost = 100 * outside.sum(axis=1) + _overlaps(boxes, taken).sum(axis=1)
        best = int(np.argmin(cost > 0) if (cost == 0).any() else np.argmin(cost))
        taken = np.vstack([taken, boxes[best]])
        centre = (boxes[best, :2] + boxes[best, 2:]) / 2
        far = RADII[best // len(ANGLES)] >= FAR
        ax.annotate(
            names[i], points[i], xytext=(centre - pixels[i]) / scale, textcoords="offset points", fontsize=size,
            ha="center", va="center", arrowprops={"arrowstyle": "-", "color": "#888888", "lw": 0.5} if far else None,
        )  # fmt: skip


def _box(point: Float[np.ndarray, "2"], radius: float, angle: float, width: float, height: float) -> list[float]:
    """A label whose near edge is `radius` pixels from its point."""
    x, y = point + radius * np.array([np.cos(angle), np.sin(angle)])
    x += width / 2 * round(np.cos(angle))
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def _overlaps(boxes: Float[np.ndarray, "k 4"], taken: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "k m"]:
    """The area that every box shares with every taken one, square pixels."""
    low = np.maximum(boxes[:, None, :2], taken[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], taken[None, :, 2:])
    return np.prod(np.maximum(high - low, 0), axis=2)
