"""Wilcoxon's rank-sum test for all groups from one sort, and areas under ROC curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import ndtr

from ._results import GroupTest

if TYPE_CHECKING:
    from scipy import sparse


def rank_sum(
    values: np.ndarray, groups: np.ndarray, n_groups: int, *, pool: Literal["others", "all"] = "others"
) -> GroupTest:
    """Wilcoxon's rank-sum test of each group against a pool of values, for all groups from one sort.

    A value's average rank in the pool of everything is 1/2 more than the number of pool values below it, ties counting
    half. Summed over a group this is the Mann-Whitney U of group against pool; without the group itself in the pool it is
    smaller by m²/2, where m is the size of the group.

    Parameters
    ----------
    values
        Array of shape (n,), without NaN.
    groups
        Integer array of shape (n,).
    n_groups
        Number of groups.
    pool
        ``"others"`` compares with the values of all other groups, with the variance corrected for ties: the test of
        :func:`scipy.stats.mannwhitneyu` (asymptotic, without continuity correction). ``"all"`` compares with all values,
        the group's own among them, and does not correct for ties: what official Geneformer reports for goal states
        (:func:`scipy.stats.ranksums`). It counts a group's own values on both sides and is conservative for large groups.

    Returns
    -------
    The standard normal score, positive where the group is above the pool, and its p-value. NaN for empty groups and empty pools; 0 and 1 where
    all values are equal.
    """
    n = len(values)
    m = np.bincount(groups, minlength=n_groups).astype(np.float64)
    ranks, tie_sum = _average_ranks(values, np.zeros(n, dtype=np.intp), 1)
    u = np.bincount(groups, weights=ranks - 0.5, minlength=n_groups)
    if pool == "all":
        return _normal_test(u, m, np.full(n_groups, float(n)), np.zeros(n_groups))
    return _normal_test(u - m * m / 2, m, n - m, np.full(n_groups, tie_sum[0]))


def rank_sum_pool(values: np.ndarray, groups: np.ndarray, pool: np.ndarray, n_groups: int) -> GroupTest:
    """Wilcoxon's rank-sum test of each group against one pool of other values (:func:`scipy.stats.mannwhitneyu`, corrected for ties).

    Parameters
    ----------
    values, groups
        Tested values, of shape (n,).
    pool
        Values to compare with, of shape (n_pool,), without NaN.
    n_groups
        Number of groups.

    Returns
    -------
    The standard normal score, positive where the group is above the pool, and its p-value. NaN for empty groups and an empty pool.
    """
    m = np.bincount(groups, minlength=n_groups).astype(np.float64)
    ordered = np.sort(pool)
    below, up_to = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    u = np.bincount(groups, weights=(below + up_to) / 2, minlength=n_groups)
    # ties within the pool, and for each run of equal values of a group what it adds to those
    counts = np.unique(ordered, return_counts=True)[1].astype(np.float64)
    order = np.lexsort((values, groups))
    x, g = values[order], groups[order]
    first = _starts_of_runs(x, g)
    in_pool = (up_to - below)[order[first]].astype(np.float64)
    together = in_pool + np.diff(first, append=len(x))
    added = (together**3 - together) - (in_pool**3 - in_pool)
    tie_sum = np.sum(counts**3 - counts) + np.bincount(g[first], weights=added, minlength=n_groups)
    return _normal_test(u, m, np.full(n_groups, float(len(pool))), tie_sum)


def rank_sum_null(
    values: np.ndarray,
    groups: np.ndarray,
    null_values: np.ndarray,
    null_groups: np.ndarray,
    n_groups: int,
    *,
    ties: bool = True,
) -> GroupTest:
    """Wilcoxon's rank-sum test of each group's values against the same group's values in a null.

    Parameters
    ----------
    values, groups
        Tested values, of shape (n,).
    null_values, null_groups
        The null's, of shape (n_null,).
    n_groups
        Number of groups, common to both.
    ties
        Correct the variance for ties, as :func:`scipy.stats.mannwhitneyu` does; :func:`scipy.stats.ranksums` and with it
        official Geneformer do not.

    Returns
    -------
    The standard normal score, positive where the tested values are above the null's, and its p-value. NaN where a group
    has no values on one side.
    """
    ranks, tie_sum = _average_ranks(
        np.concatenate([values, null_values]), np.concatenate([groups, null_groups]), n_groups
    )
    m = np.bincount(groups, minlength=n_groups).astype(np.float64)
    k = np.bincount(null_groups, minlength=n_groups).astype(np.float64)
    u = np.bincount(groups, weights=ranks[: len(values)], minlength=n_groups) - m * (m + 1) / 2
    return _normal_test(u, m, k, tie_sum if ties else np.zeros(n_groups))


def _average_ranks(values: np.ndarray, groups: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks from 1 within each group, averaged over ties, and each group's sum of t³ - t over its runs of t equal values."""
    order = np.argsort(values)
    if n_groups > 1:  # NumPy sorts 16 bits by radix
        order = order[np.argsort(groups[order].astype(np.uint16 if n_groups <= 2**16 else np.intp), kind="stable")]
    x, g = values[order], groups[order]
    first = _starts_of_runs(x, g)
    length = np.diff(first, append=len(x))
    starts = np.searchsorted(g, np.arange(n_groups))
    run_rank = first - starts[g[first]] + (length + 1) / 2
    ranks = np.empty(len(x))
    ranks[order] = np.repeat(run_rank, length)
    t = length.astype(np.float64)
    return ranks, np.bincount(g[first], weights=t**3 - t, minlength=n_groups)


def _starts_of_runs(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Where runs of equal values of one group start, both sorted by group and value."""
    changes = (values[1:] != values[:-1]) | (groups[1:] != groups[:-1])
    return np.flatnonzero(np.concatenate([np.ones(min(len(values), 1), bool), changes]))


def _normal_test(u: np.ndarray, m: np.ndarray, k: np.ndarray, tie_sum: np.ndarray) -> GroupTest:
    """Normal approximation of Mann-Whitney's U for samples of `m` and `k` values."""
    n = m + k
    spread = n + 1 - tie_sum / np.maximum(n * (n - 1), 1)
    all_equal = spread < 1e-9 * n  # nothing to rank: no evidence either way
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(all_equal, 0.0, (u - m * k / 2) / np.sqrt(m * k / 12 * spread))
    z[(m == 0) | (k == 0)] = np.nan
    return GroupTest(z, 2 * ndtr(-np.abs(z)))


def auroc(values: sparse.csc_array, positive: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each column for telling positive rows from the others, ties counting half.

    Parameters
    ----------
    values
        CSC of shape (n, n_columns), not negative: what is not stored is 0, the smallest value.
    positive
        bool array of shape (n,).

    Returns
    -------
    float64 array of shape (n_columns,): the probability that a positive row has the larger value. NaN if all rows are alike.
    """
    n_columns = values.shape[1]
    column = np.repeat(np.arange(n_columns), np.diff(values.indptr))
    stored = values.data != 0
    column, x, is_positive = column[stored], values.data[stored], positive[values.indices[stored]]
    ranks, _ = _average_ranks(x, column, n_columns)
    m = np.bincount(column[is_positive], minlength=n_columns).astype(np.float64)
    k = np.bincount(column[~is_positive], minlength=n_columns)
    u = np.bincount(column[is_positive], weights=ranks[is_positive], minlength=n_columns) - m * (m + 1) / 2
    n_positive, n_others = positive.sum(), (~positive).sum()
    zeros = n_others - k
    if n_positive == 0 or n_others == 0:
        return np.full(n_columns, np.nan)
    return (u + m * zeros + (n_positive - m) * zeros / 2) / (n_positive * n_others)
