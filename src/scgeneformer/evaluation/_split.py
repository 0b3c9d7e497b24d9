from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ._assign import N_CANDIDATES, deviation, grouped, stratified, tabulate
from ._balance import Balance
from ._labels import class_name, listed, read_groups, read_labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.random import Generator

SETS = ("train", "validation", "test")
ORDER = (0, 2, 1)  # a class of two members is trained on and tested


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of the items for training, validation and testing.

    The three sets are sorted int64 arrays without common elements; any may be empty.

    Attributes
    ----------
    train
        Items to train on.
    validation
        Items to select the epoch and calibrate on.
    test
        Items to test on.
    balance
        p-value of each balanced covariate, by name; None if there was none.

    Examples
    --------
    >>> split = sg.evaluation.Split(train=np.array([4, 0, 1]), validation=np.array([2]), test=np.array([3]))
    >>> split.train.tolist()
    [0, 1, 4]
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    balance: pd.Series | None = None

    def __post_init__(self) -> None:
        for name in SETS:
            object.__setattr__(self, name, np.sort(np.asarray(getattr(self, name), dtype=np.int64)))
        items, times = np.unique(np.concatenate([getattr(self, name) for name in SETS]), return_counts=True)
        if np.any(times > 1):
            msg = f"{np.sum(times > 1)} items are in the split more than once, such as {items[times > 1][0]}."
            raise ValueError(msg)


def split(
    labels: np.ndarray,
    *,
    groups: np.ndarray | Sequence[object] | None = None,
    train_size: float = 0.8,
    validation_size: float = 0.1,
    test_size: float = 0.1,
    balance: pd.DataFrame | None = None,
    classes: Sequence[object] | None = None,
    rng: int | Generator | None = 0,
) -> Split:
    """Split labelled items into sets to train on, to choose by and to test on.

    Without groups each set gets its share of every class, and at least one member where there are enough. With groups, such
    as donors, no group is in two sets: of 512 random assignments the one is taken that leaves fewest classes out of a set
    and is then nearest to the shares asked for, so that sizes are met as far as groups allow. Every class is trained on.

    Parameters
    ----------
    labels
        Codes of classes of shape (n,), -1 for unlabelled; or floats, NaN for unlabelled, which are not stratified.
    groups
        Group of each item, of shape (n,).
    train_size, validation_size, test_size
        Shares of the sets, summing to 1. Only the last two may be 0.
    balance
        Covariates to keep alike in all sets, one row per item. Of 512 random splits the one is taken whose smallest p-value
        over covariates is largest: Kruskal-Wallis for numeric ones, chi-square for others; between groups (their mean or most
        frequent value) where there are any. The official tool uses the last split that it tried.
    classes
        Names of classes for errors.
    rng
        Seed or generator.

    Returns
    -------
    Indices of the items of each set, and the p-values of the balanced covariates.

    Raises
    ------
    ValueError
        If sizes do not sum to 1, nothing is labelled, there is only one class or one of a single member, there are fewer groups
        than sets, or the groups that must be trained on leave too few for the other sets.

    Examples
    --------
    Donors stay in one set:

    >>> donors = np.repeat(np.arange(10), 4)
    >>> split = sg.evaluation.split(np.tile([0, 1], 20), groups=donors)
    >>> len(split.train), len(split.validation), len(split.test)
    (32, 4, 4)
    """
    sizes = _check_sizes(train_size, validation_size, test_size)
    items, codes = read_labels(labels, classes)
    rng = np.random.default_rng(rng)
    covariates = None if balance is None else _read_covariates(balance, items, len(labels))
    if groups is None:
        _check_members(codes, sizes, classes)
        tests = None if covariates is None else Balance(covariates)
        candidates: Iterable[np.ndarray] = (
            stratified(codes, sizes, ORDER, rng) for _ in range(1 if tests is None else N_CANDIDATES)
        )
        unit = np.arange(len(items))
    else:
        unit, names = read_groups(groups, items, len(labels))
        tests = None if covariates is None else Balance(covariates, unit)
        candidates = _by_groups(codes, unit, len(names), sizes, classes, rng)
    best, pvalues = _most_balanced(candidates, tests)
    sets = best[unit]
    report = None if tests is None else pd.Series(pvalues, index=tests.names, name="pval")
    train, validation, test = (items[sets == s] for s in range(len(SETS)))
    return Split(train, validation, test, report)


def check_disjoint(groups: np.ndarray | Sequence[object], split: Split) -> None:
    """Check that no group is in two sets of a split.

    Parameters
    ----------
    groups
        Group of each item, of shape (n,).
    split
        Sets of items.

    Raises
    ------
    ValueError
        If one is; the error names such groups.

    Examples
    --------
    >>> donors = np.repeat(np.arange(10), 4)
    >>> sg.evaluation.check_disjoint(donors, sg.evaluation.split(np.tile([0, 1], 20), groups=donors))
    """
    groups = np.asarray(groups, dtype=object)
    members = {name: set(groups[getattr(split, name)]) for name in SETS}
    for a, b in (("train", "test"), ("train", "validation"), ("validation", "test")):
        shared = sorted(map(str, members[a] & members[b]))
        if shared:
            msg = f"Items of the same group are in {a} and {b}: {listed(shared)}. Keep each group in one set."
            raise ValueError(msg)


def _check_sizes(*sizes: float) -> np.ndarray:
    shares = np.array(sizes, dtype=np.float64)
    named = ", ".join(f"{name}_size={size}" for name, size in zip(SETS, sizes, strict=True))
    if np.any(shares < 0) or not np.isclose(shares.sum(), 1, rtol=0, atol=1e-6):
        msg = f"{named} must be 0 or more and sum to 1."
        raise ValueError(msg)
    if shares[0] == 0:
        msg = f"{named}: there must be something to train on."
        raise ValueError(msg)
    return shares / shares.sum()


def _read_covariates(balance: pd.DataFrame, items: np.ndarray, n: int) -> pd.DataFrame:
    if len(balance) != n or balance.shape[1] == 0:
        msg = f"balance has shape {balance.shape}, but needs a row for each of {n} labels and at least one column."
        raise ValueError(msg)
    return balance.iloc[items]


def _check_members(codes: np.ndarray, sizes: np.ndarray, classes: Sequence[object] | None) -> None:
    n_sets = int(np.sum(sizes > 0))
    if len(codes) < n_sets:
        msg = f"{len(codes)} labelled items cannot be split into {n_sets} sets."
        raise ValueError(msg)
    single = np.flatnonzero(np.bincount(codes) == 1)
    if len(single) and n_sets > 1:
        names = listed([class_name(code, classes) for code in single])
        msg = (
            f"Classes with a single member cannot be both trained on and tested: {names}. Merge them, or remove their "
            "labels."
        )
        raise ValueError(msg)


def _by_groups(
    codes: np.ndarray,
    unit: np.ndarray,
    n_groups: int,
    sizes: np.ndarray,
    classes: Sequence[object] | None,
    rng: Generator,
) -> np.ndarray:
    """Candidates (n, n_groups) that leave fewest classes out of a set, nearest to the shares first."""
    n_sets = int(np.sum(sizes > 0))
    if n_groups < n_sets:
        msg = (
            f"{n_groups} groups cannot be split into {n_sets} sets: at least {n_sets} groups are needed, or a set of "
            "size 0."
        )
        raise ValueError(msg)
    n_classes = codes.max() + 1
    counts = np.bincount(unit * n_classes + codes, minlength=n_groups * n_classes).reshape(n_groups, n_classes)
    counts = counts[:, counts.any(axis=0)]
    candidates = grouped(counts, sizes, cover_first=True, rng=rng)
    table = tabulate(candidates, counts, len(sizes))[:, sizes > 0]
    filled = np.all(np.any(table, axis=2), axis=1)
    if not filled.any():
        present = np.unique(codes)
        alone = [class_name(code, classes) for code in present[(counts > 0).sum(axis=0) == 1]]
        msg = (
            f"Classes that occur in one group only must be trained on ({listed(alone)}), which leaves too few of the "
            f"{n_groups} groups for {n_sets} sets. Merge such classes, remove their labels, or split without groups."
        )
        raise ValueError(msg)
    candidates, table = candidates[filled], table[filled]
    left_out = np.sum(table == 0, axis=(1, 2))
    away = deviation(table, sizes[sizes > 0])
    order = np.lexsort((away, left_out))
    return candidates[order[left_out[order] == left_out.min()]]


def _most_balanced(candidates: Iterable[np.ndarray], tests: Balance | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The candidate with the largest smallest p-value, the first of those where several are equal."""
    if tests is None:
        return next(iter(candidates)), None
    return max(((sets, tests.pvalues(sets, len(SETS))) for sets in candidates), key=lambda pair: pair[1].min())
