from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._figure import whole_figure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

# Where a label's centre may go, seen from its point: 16 directions at growing distances, to the right first.
_ANGLES = np.deg2rad([0, 180, 45, 135, -45, -135, 90, -90, 22.5, 157.5, -22.5, -157.5, 67.5, 112.5, -67.5, -112.5])
_PREFERENCE = np.arange(len(_ANGLES)) / 100  # in label heights: decides between equally near places
_DISTANCES = np.array([0.7, 1.5, 2.5, 4.0, 6.0, 9.0])  # in label heights


def label_points(
    ax: Axes, x: np.ndarray, y: np.ndarray, labels: Iterable[str], *, fontsize: float, avoid: np.ndarray | None = None
) -> list[Annotation]:
    """Label points of a finished plot so that labels cover neither each other nor, where possible, any drawn point.

    Greedy: each label in turn takes the cheapest of 96 places around its point, where covering a label costs more than
    leaving the axes, that more than covering points, and that more than distance. Labels that had to move get a line.

    Parameters
    ----------
    ax
        Axes whose limits and size are final.
    x, y
        Positions in data coordinates, each of shape (n,); earlier ones choose first.
    labels
        n labels.
    fontsize
        Of the labels, in points.
    avoid
        Further points that labels should not cover, such as those of lines, in data coordinates, (k, 2).
    """
    whole_figure(ax).draw_without_rendering()
    frame = ax.get_window_extent()
    drawn = [ax.transData.transform(np.ma.filled(points.get_offsets(), np.nan)) for points in ax.collections]
    drawn += [] if avoid is None else [ax.transData.transform(avoid)]
    points = np.concatenate(drawn) if drawn else np.empty((0, 2))
    anchors = ax.transData.transform(np.column_stack([x, y]))
    per_point = ax.figure.dpi / 72
    taken = np.empty((0, 4))
    placed = []
    for anchor, xy, label in zip(anchors, zip(x, y, strict=True), labels, strict=True):
        note = ax.annotate(
            label,
            xy=xy,
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            annotation_clip=False,
            fontsize=fontsize,
        )
        size = note.get_window_extent()
        width, height = size.width, size.height
        step = (_DISTANCES * height)[:, None]
        shift = np.stack([np.cos(_ANGLES) * (step + width / 2), np.sin(_ANGLES) * (step + height / 2)], axis=-1)
        shift = shift.reshape(-1, 2)
        distance = (step + height * _PREFERENCE).ravel()
        centre = anchor + shift
        half = np.array([width / 2 + 1, height / 2 + 1])
        box = np.concatenate([centre - half, centre + half], axis=1)
        inside = (points[None] > box[:, None, :2]) & (points[None] < box[:, None, 2:])
        cost = (
            1e6 * _overlaps(box, taken).sum(axis=1)
            + 1e4 * _outside(box, np.asarray(frame.extents))
            + 3.0 * height * inside.all(axis=-1).sum(axis=1)
            + distance
        )
        best = int(np.argmin(cost))
        note.set_position(tuple(shift[best] / per_point))
        if best >= len(_ANGLES):
            _draw_leader(ax, anchor, box[best])
        taken = np.concatenate([taken, box[best : best + 1]])
        note.set_in_layout(False)  # the axes must keep the size that the places were chosen for
        placed.append(note)
    return placed


def _draw_leader(ax: Axes, anchor: np.ndarray, box: np.ndarray) -> None:
    end = np.clip(anchor, box[:2], box[2:])
    line = ax.transData.inverted().transform(np.stack([anchor, end]))
    ax.plot(*line.T, color="0.6", linewidth=0.5, zorder=1, scalex=False, scaley=False)


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which boxes of `a` (n, 4) and `b` (k, 4), given as x0, y0, x1, y1, overlap: bool array of shape (n, k)."""
    return np.all((a[:, None, :2] < b[None, :, 2:]) & (b[None, :, :2] < a[:, None, 2:]), axis=-1)


def _outside(box: np.ndarray, frame: np.ndarray) -> np.ndarray:
    return np.any((box[:, :2] < frame[:2]) | (box[:, 2:] > frame[2:]), axis=1)
