from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer import _keys
from scgeneformer.pl._figure import ABOVE, BELOW, OTHER
from scgeneformer.pl._labels import label_points

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

    from scgeneformer.pl._ranking import Ranking

ELSEWHERE = "#4D4D4D"  # significant for the alternative alone


def read_alternative(data: AnnData, ranking: Ranking, *, key: str, state: str | None) -> Ranking:
    """The same genes, in the same order, with their effects on `state`.

    By default the first state beside target and source, or the source where there is none.
    """
    target, *alternatives = _keys.end_states(ranking.run) or (None,)
    if not alternatives:
        msg = (
            f"kind='plane' plots shifts to the target against shifts to another state, but {key!r} has "
            f"{'only ' + repr(target) if target else 'no goal states'}. Run `sg.tl.perturb` with `target` and `source`."
        )
        raise ValueError(msg)
    if state is None:
        state = next((s for s in alternatives if s != str(ranking.run.get("source"))), alternatives[0])
    if state not in alternatives:
        msg = f"state={state!r} cannot be plotted against the target {target!r}. Choose one of {alternatives}."
        raise ValueError(msg)
    return ranking.on_state(data, key, state)


def draw_plane(ax: Axes, ranking: Ranking, other: Ranking) -> None:
    """Effect on the target against effect on the alternative, one dot per tested gene, coloured by significance."""
    x, y, direction = ranking.effect, other.effect, ranking.direction
    beside = (direction == 0) & (other.direction != 0)
    labels = ranking.legend(counts=False)
    for at, colour, size, label in (
        ((direction == 0) & ~beside, OTHER, 9, labels.get(0)),
        (beside, ELSEWHERE, 16, "for the alternative alone"),
        (direction == -1, BELOW, 16, labels.get(-1)),
        (direction == 1, ABOVE, 16, labels.get(1)),
    ):
        if at.any():
            label = f"{label} ({at.sum():,})"
            ax.scatter(x[at], y[at], s=size, c=colour, linewidths=0, label=label, rasterized=at.sum() > 5000)
    ax.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.margins(0.12)


def label_plane(ax: Axes, ranking: Ranking, other: Ranking, n_top: int) -> None:
    """Label the genes farthest from no effect, each axis in units of its spread: those significant for the target first."""
    x, y = ranking.effect, other.effect
    tiny = np.finfo(float).tiny
    distance = np.hypot(x / max(np.std(x), tiny), y / max(np.std(y), tiny))
    rows = np.lexsort((-distance, other.direction == 0, ranking.direction == 0))[:n_top]
    label_points(ax, x[rows], y[rows], ranking.names[rows], fontsize=7.5)
