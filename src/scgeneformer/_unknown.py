"""Labels that say when they do not know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _keys as keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd


def novelty_slots(key: str, *, nearest: bool) -> list[str]:
    """Slots of what `novelty_values` returns."""
    last = [f"obs/{keys.nearest_key(key)}"] if nearest else []
    return [f"obs/{keys.distance_key(key)}", f"obs/{keys.novelty_key(key)}", *last]


def novelty_values(distance: np.ndarray, novelty: np.ndarray, nearest: pd.Categorical | None) -> list[Any]:
    """Relative distances, conformal p and, where they may be others than those written, the labels of the cells by themselves."""
    return [distance, novelty, *([] if nearest is None else [nearest])]


def with_unknown(labels: pd.Categorical, novelty: np.ndarray, unknown: float | None) -> pd.Categorical:
    """`labels` with the extra category "unknown", which has no place in an order, for cells with a novelty below `unknown`."""
    if unknown is None:
        return labels
    labels = labels.as_unordered().add_categories([keys.UNKNOWN])
    labels[novelty < unknown] = keys.UNKNOWN
    return labels


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
            f"There is a label {keys.UNKNOWN!r} already, which could not be told from cells that `unknown` finds. Make these labels "
            "missing (NaN), or leave `unknown` out."
        )
        raise ValueError(msg)
