from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._assign import deviation, grouped, tabulate
from ._labels import class_name, listed, read_groups, read_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator


def folds(
    labels: np.ndarray,
    n_folds: int,
    *,
    groups: np.ndarray | Sequence[object] | None = None,
    classes: Sequence[object] | None = None,
    rng: int | Generator | None = 0,
) -> np.ndarray:
    """Number the folds of a cross-validation, in which every labelled item is tested exactly once.

    Without groups the members of each class are spread evenly, so that folds differ by at most one member of each and by at
    most one in all. With groups each group is in one fold, and the folds are made as alike as groups allow. The official
    tool tests only the first part of each fold.

    Parameters
    ----------
    labels
        Codes of classes of shape (n,), -1 for unlabelled; or floats, NaN for unlabelled, which are not stratified.
    n_folds
        Number of folds, 2 or more.
    groups
        Group of each item, of shape (n,), such as its donor.
    classes
        Names of classes for errors.
    rng
        Seed or generator.

    Returns
    -------
    int64 array of shape (n,): the fold in which an item is tested, -1 for unlabelled ones.

    Raises
    ------
    ValueError
        If nothing is labelled, there is only one class or one with fewer members than folds, there are fewer groups than
        folds, or a class is in one group only, so that it would be tested by a model that never saw it.

    Examples
    --------
    >>> fold = sg.evaluation.folds(np.tile([0, 1], 10), 5)
    >>> np.bincount(fold).tolist()
    [4, 4, 4, 4, 4]
    """
    if n_folds < 2:
        msg = f"n_folds={n_folds} must be at least 2."
        raise ValueError(msg)
    items, codes = read_labels(labels, classes)
    rng = np.random.default_rng(rng)
    fold = np.full(len(labels), -1, dtype=np.int64)
    if groups is None:
        fold[items] = _dealt(codes, n_folds, classes, rng)
    else:
        unit, names = read_groups(groups, items, len(labels))
        fold[items] = _by_groups(codes, unit, len(names), n_folds, classes, rng)[unit]
    return fold


def _dealt(codes: np.ndarray, n_folds: int, classes: Sequence[object] | None, rng: Generator) -> np.ndarray:
    """Deal items out like cards, class after class."""
    n_members = np.bincount(codes)
    small = np.flatnonzero((n_members > 0) & (n_members < n_folds))
    if len(small):
        names = listed([f"{class_name(code, classes)} ({n_members[code]})" for code in small])
        msg = f"Classes with fewer members than the {n_folds} folds: {names}. Use fewer folds, or remove these labels."
        raise ValueError(msg)
    shuffled = rng.permutation(len(codes))
    by_class = shuffled[np.argsort(codes[shuffled], kind="stable")]
    fold = np.empty(len(codes), dtype=np.int64)
    fold[by_class] = np.arange(len(codes)) % n_folds
    return fold


def _by_groups(
    codes: np.ndarray, unit: np.ndarray, n_groups: int, n_folds: int, classes: Sequence[object] | None, rng: Generator
) -> np.ndarray:
    """Fold of each group, (n_groups,)."""
    if n_groups < n_folds:
        msg = f"{n_groups} groups cannot be split into {n_folds} folds. Use {n_groups} folds or fewer."
        raise ValueError(msg)
    n_classes = codes.max() + 1
    counts = np.bincount(unit * n_classes + codes, minlength=n_groups * n_classes).reshape(n_groups, n_classes)
    alone = np.flatnonzero((counts > 0).sum(axis=0) == 1)
    if len(alone) and n_classes > 1:
        names = listed([class_name(code, classes) for code in alone])
        msg = (
            f"Classes that occur in one group only would be tested on a model that never saw them: {names}. Merge "
            "them, remove their labels, or make folds without groups."
        )
        raise ValueError(msg)
    counts = counts[:, counts.any(axis=0)]
    sizes = np.full(n_folds, 1 / n_folds)
    candidates = grouped(counts, sizes, cover_first=False, rng=rng)
    table = tabulate(candidates, counts, n_folds)
    never_seen = np.sum((table > 0).sum(axis=1) == 1, axis=1) if n_classes > 1 else np.zeros(len(table))
    return candidates[np.lexsort((deviation(table, sizes), never_seen))[0]]
