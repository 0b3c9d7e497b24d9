from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer.pl._figure import ABOVE, BELOW, OTHER
from scgeneformer.pl._labels import label_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scgeneformer.pl._ranking import Ranking


def draw_volcano(ax: Axes, ranking: Ranking) -> None:
    """Mean effect against -log10 p, one dot per tested gene, in the colour of its direction."""
    x, y, direction = ranking.effect, _log_p(ranking), ranking.direction
    labels = ranking.legend(counts=True)
    for d, colour, size in ((0, OTHER, 9), (-1, BELOW, 16), (1, ABOVE, 16)):
        if d in labels:
            at = direction == d
            ax.scatter(x[at], y[at], s=size, c=colour, linewidths=0, label=labels[d], rasterized=at.sum() > 5000)
    if ranking.signed:
        ax.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    if np.any(direction):
        ax.axhline(y[direction != 0].min(), color="0.8", linewidth=0.8, linestyle="--", zorder=0)
    ax.margins(x=0.12, y=0.06)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("−log$_{10}$ p")


def label_volcano(ax: Axes, ranking: Ranking, n_top: int) -> None:
    """Label the most significant genes, half of them in each direction where both mean something."""
    y, direction, score = _log_p(ranking), ranking.direction, ranking.frame["scores"].to_numpy()
    eligible = direction != 0 if np.any(direction) else np.ones(len(y), dtype=bool)
    by_p = np.lexsort((-np.abs(score), -y))
    up, down = (by_p[(eligible & side)[by_p]] for side in (score > 0, score <= 0))
    if not (ranking.two_sided or "null_effect" in ranking.frame):
        down = down[:0]  # a smaller effect than that of other genes needs no label
    n_up = min(len(up), max(n_top - n_top // 2, n_top - len(down)))
    rows = np.concatenate([up[:n_up], down[: n_top - n_up]])
    rows = rows[np.argsort(-y[rows], kind="stable")]
    label_points(ax, ranking.effect[rows], y[rows], ranking.names[rows], fontsize=7.5)


def _log_p(ranking: Ranking) -> np.ndarray:
    return -np.log10(np.maximum(ranking.frame["pvals"].to_numpy(), np.finfo(float).tiny))
