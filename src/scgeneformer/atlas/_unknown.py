"""Labels that can be unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scgeneformer import _keys as keys
from scgeneformer import _log as logg

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd


def novelty_slots(key: str, *, nearest: bool) -> list[str]:
    """Slots of what `novelty_values` returns."""
    last = [f"obs/{keys.nearest_key(key)}"] if nearest else []
    return [f"obs/{keys.distance_key(key)}", f"obs/{keys.novelty_key(key)}", *last]


def novelty_values(distance: np.ndarray, novelty: np.ndarray, nearest: pd.Categorical | None) -> list[Any]:
    """Relative distances, conformal p and, where they may differ from those written, the labels of the cells by themselves."""
    return [distance, novelty, *([] if nearest is None else [nearest])]


def with_unknown(labels: pd.Categorical, novelty: np.ndarray, unknown: float | None) -> pd.Categorical:
    """`labels` with the extra category "unknown", which has no place in an order, for cells with a novelty below `unknown`."""
    if unknown is None:
        return labels
    labels = labels.as_unordered().add_categories([keys.UNKNOWN])
    is_unknown = novelty < unknown
    _warn_of_many(int(is_unknown.sum()), int((~np.isnan(novelty)).sum()), unknown)
    labels[is_unknown] = keys.UNKNOWN
    return labels


def _warn_of_many(n_unknown: int, n: int, unknown: float) -> None:
    """Warn if more cells are unknown than if all were like those compared with: twice as many, and more than chance explains."""
    if n_unknown > max(2 * unknown * n, unknown * n + 3 * np.sqrt(unknown * (1 - unknown) * n)):
        logg.warning(
            f"{n_unknown:,} of {n:,} cells ({n_unknown / n:.0%}) are unknown, but unknown={unknown:g} flags at most "
            f"{unknown:.0%} of cells that are like the labelled ones. Either their types are missing there, or studies "
            "or technologies differ, which makes known types look new: compare their distances by cluster and batch "
            "before you believe either."
        )


def check_unknown(unknown: float | None, classes: Sequence[object]) -> None:
    """Raise if a label already has the name that `unknown` gives to cells.

    Raises
    ------
    ValueError
        If so.
    """
    if unknown is None:
        return
    if keys.UNKNOWN in map(str, classes):
        msg = (
            f"There is a label {keys.UNKNOWN!r} already, which could not be distinguished from cells that `unknown` "
            "finds. Make these labels missing (NaN), or leave `unknown` out."
        )
        raise ValueError(msg)
