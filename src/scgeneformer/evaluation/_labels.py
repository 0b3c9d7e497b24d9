"""Labels and groups as codes, checked before anything is computed from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_NAMES = 5  # in an error


def read_labels(labels: np.ndarray, classes: Sequence[object] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Labelled items and their class, both int64 of shape (n_labelled,); class 0 throughout if labels are continuous.

    Raises
    ------
    ValueError
        If nothing is labelled, or everything that is has one class.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1:
        msg = f"labels must have one dimension, but have shape {labels.shape}: split by one column of labels."
        raise ValueError(msg)
    continuous = np.issubdtype(labels.dtype, np.floating)
    items = np.flatnonzero(np.isfinite(labels) if continuous else labels >= 0)
    if len(items) == 0:
        msg = "Nothing is labelled: all labels are missing."
        raise ValueError(msg)
    if continuous:
        return items, np.zeros(len(items), dtype=np.int64)
    codes = labels[items].astype(np.int64)
    if np.all(codes == codes[0]):
        msg = f"All {len(items)} labelled items are of class {class_name(codes[0], classes)}. Two or more classes are needed."
        raise ValueError(msg)
    return items, codes


def read_groups(groups: np.ndarray | Sequence[object], items: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Code of each item's group, int64 of shape (n_items,), and the groups' names.

    Raises
    ------
    ValueError
        If there is not one group per label, or a labelled item has none.
    """
    groups = np.asarray(groups, dtype=object)
    if len(groups) != n:
        msg = f"There are {n} labels but {len(groups)} groups: one group per label is needed."
        raise ValueError(msg)
    codes, names = pd.factorize(groups[items], sort=False)
    if np.any(codes < 0):
        msg = f"{np.sum(codes < 0)} labelled items have no group. Name their group, or remove their labels."
        raise ValueError(msg)
    return codes.astype(np.int64), names


def class_name(code: int | np.integer[Any], classes: Sequence[object] | None) -> str:
    """Name of a class in an error."""
    return str(code) if classes is None else repr(str(classes[int(code)]))


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
