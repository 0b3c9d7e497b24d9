from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer import _keys
from scgeneformer.pl._figure import ABOVE, BELOW, OTHER

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

    from scgeneformer.pl._ranking import Ranking

ON_STATE = "on "
EDGES = ("#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def strongest(ranking: Ranking, n_top: int) -> np.ndarray:
    """Rows of the strongest genes, significant ones first, in both directions if both mean something; by falling effect."""
    strength, direction = ranking.strength, ranking.direction
    up = np.lexsort((-strength, direction != 1))
    n_down = n_top // 2 if ranking.two_sided else 0
    down = np.lexsort((strength, direction != -1))[:n_down]
    rows = np.union1d(up[: n_top - n_down], down)
    return rows[np.argsort(-ranking.effect[rows], kind="stable")]


def draw_listing(ax: Axes, ranking: Ranking, rows: np.ndarray) -> None:
    """One line per gene: its effect as a dot with its interval, the dot's area growing with the number of cells."""
    x, y, direction = ranking.effect[rows], np.arange(len(rows)), ranking.direction[rows]
    n = ranking.frame["n_cells"].to_numpy()[rows]
    labels = ranking.legend(counts=False)
    if ranking.signed:
        ax.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    if ranking.intervals is not None:
        low, high = (end[rows] for end in ranking.intervals)
        finite = np.isfinite(low) & np.isfinite(high)
        ax.hlines(y[finite], low[finite], high[finite], color="0.35", linewidth=1, label="95 % interval", zorder=2.5)
    for d, colour in ((0, OTHER), (-1, BELOW), (1, ABOVE)):
        at = direction == d
        if at.any():
            size = 12 + 48 * n[at] / n.max()
            ax.scatter(x[at], y[at], s=size, c=colour, linewidths=0, label=labels[d], zorder=3)
    ax.set_yticks(y, ranking.names[rows])
    ax.tick_params(axis="y", length=0, labelsize=8)
    ax.grid(axis="y", color="0.93", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.margins(x=0.08)


def draw_further_states(ax: Axes, data: AnnData, key: str, ranking: Ranking, rows: np.ndarray) -> None:
    """The same genes' effects on the other end states, the source excepted, as open diamonds; less those on the source if contrasts are shown."""
    hidden = (ranking.state, ranking.run.get("source"))
    further = [state for state in _keys.end_states(ranking.run) if state not in hidden]
    of_source = ranking.on_state(data, key, str(hidden[1])).effect if further and ranking.as_contrast else 0
    for state, edge in zip(further, EDGES, strict=False):
        ax.scatter(
            (ranking.on_state(data, key, state).effect - of_source)[rows],
            np.arange(len(rows)),
            s=18,
            marker="D",
            facecolors="none",
            edgecolors=edge,
            linewidths=0.8,
            label=f"{ON_STATE}{state}",
            zorder=2,
        )
