"""Statistics of shifts: every gene against a pool, against a null, against itself in other donors; mixtures; false discovery.

Functions of arrays. Values come in long form: `values[i]` is one measured shift and `groups[i]` in ``range(n_groups)`` says
whose (here: which gene's). Groups may be of any size and empty; where a statistic is undefined it is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtr, stdtr


@dataclass(frozen=True)
class GroupTest:
    """One test per group: a score whose sign is the direction, and its two-sided p-value, each float64 of shape (n_groups,)."""

    score: np.ndarray
    pvalue: np.ndarray


def group_means(values: np.ndarray, groups: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Count and mean of each group's values.

    Returns
    -------
    n
        int64 array of shape (n_groups,).
    mean
        float64 array of shape (n_groups,), NaN for empty groups.
    """
    n = np.bincount(groups, minlength=n_groups)
    total = np.bincount(groups, weights=values, minlength=n_groups)
    return n, np.divide(total, n, out=np.full(n_groups, np.nan), where=n > 0)


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


def donor_test(
    values: np.ndarray, groups: np.ndarray, donors: np.ndarray, n_groups: int, n_donors: int
) -> tuple[GroupTest, np.ndarray]:
    """Student's t-test of each group over donors, which are the replicates, not their cells.

    In every donor a group's mean is compared with the mean of that donor's other groups; the differences of the donors
    that have the group are tested against 0 (:func:`scipy.stats.ttest_1samp`).

    Parameters
    ----------
    values, groups
        Tested values, of shape (n,).
    donors
        Integer array of shape (n,): the donor each value comes from.
    n_groups, n_donors
        Number of groups and of donors.

    Returns
    -------
    test
        The t statistic, positive where the group is above the others, and its p-value. NaN with fewer than 2 donors.
    n
        int64 array of shape (n_groups,): donors in which the group was compared.
    """
    cell = (n_donors, n_groups)
    flat = donors.astype(np.int64) * n_groups + groups
    n = np.bincount(flat, minlength=n_donors * n_groups).reshape(cell)
    total = np.bincount(flat, weights=values, minlength=n_donors * n_groups).reshape(cell)
    n_rest = n.sum(axis=1, keepdims=True) - n
    compared = (n > 0) & (n_rest > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.where(compared, total / n - (total.sum(axis=1, keepdims=True) - total) / n_rest, 0.0)
        k = compared.sum(axis=0)
        mean = difference.sum(axis=0) / k
        variance = (np.where(compared, difference - mean, 0.0) ** 2).sum(axis=0) / (k - 1)
        t = np.where(k > 1, mean / np.sqrt(variance / k), np.nan)
    return GroupTest(t, 2 * stdtr(np.maximum(k - 1, 1), -np.abs(t))), k


@dataclass(frozen=True)
class Mixture:
    """Two Gaussian components of a distribution over the real line, the lower mean first.

    Attributes
    ----------
    means, sds, weights
        float64 arrays of shape (2,).
    """

    means: np.ndarray
    sds: np.ndarray
    weights: np.ndarray

    def upper(self, values: np.ndarray) -> np.ndarray:
        """Whether each value belongs to the upper component: bool array of the shape of `values`.

        Between the two means the more probable component decides; above the upper mean it is always the upper, below the
        lower mean always the lower component, so that a wide component does not claim the far side of a narrow one.
        """
        x = np.asarray(values, dtype=np.float64)[..., None]
        log_density = np.log(self.weights) - np.log(self.sds) - 0.5 * ((x - self.means) / self.sds) ** 2
        more_probable = log_density[..., 1] > log_density[..., 0]
        return (values > self.means[1]) | (more_probable & (values >= self.means[0]))


def two_components(values: np.ndarray) -> Mixture:
    """Fit a mixture of two Gaussians to `values` by expectation maximisation (:class:`sklearn.mixture.GaussianMixture`).

    Official Geneformer takes scikit-learn's component 0 for the lower mean, which it need not be, and fits unscaled values,
    of which a variance under 1e-6 disappears in scikit-learn's regularisation. Here components are ordered by their means and
    values are standardised for the fit, so that the answer does not depend on their order or unit.

    Parameters
    ----------
    values
        Array of shape (n,), without NaN.

    Raises
    ------
    ValueError
        If there are fewer than two different values.
    """
    from sklearn.mixture import GaussianMixture

    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if len(ordered) < 2 or ordered[0] == ordered[-1]:
        msg = f"A mixture of two components needs at least two different values, got {len(np.unique(ordered))}."
        raise ValueError(msg)
    centre, scale = ordered.mean(), ordered.std()
    fit = GaussianMixture(2, random_state=0).fit(((ordered - centre) / scale)[:, None])
    order = np.argsort(fit.means_[:, 0])
    return Mixture(
        means=fit.means_[order, 0] * scale + centre,
        sds=np.sqrt(fit.covariances_[order, 0, 0]) * scale,
        weights=fit.weights_[order],
    )


def benjamini_hochberg(pvalues: np.ndarray) -> np.ndarray:
    """False discovery rates by Benjamini and Hochberg (1995), NaN where the p-value is, which is not counted as a test."""
    from scipy.stats import false_discovery_control

    tested = ~np.isnan(pvalues)
    fdr = np.full(len(pvalues), np.nan)
    if tested.any():
        fdr[tested] = false_discovery_control(pvalues[tested])
    return fdr


def _average_ranks(values: np.ndarray, groups: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks from 1 within each group, averaged over ties, and each group's sum of t³ - t over its runs of t equal values."""
    order = np.argsort(values) if n_groups == 1 else np.lexsort((values, groups))
    x, g = values[order], groups[order]
    first = np.flatnonzero(np.concatenate([[True], (x[1:] != x[:-1]) | (g[1:] != g[:-1])])) if len(x) else order
    length = np.diff(first, append=len(x))
    starts = np.searchsorted(g, np.arange(n_groups))
    run_rank = first - starts[g[first]] + (length + 1) / 2
    ranks = np.empty(len(x))
    ranks[order] = np.repeat(run_rank, length)
    t = length.astype(np.float64)
    return ranks, np.bincount(g[first], weights=t**3 - t, minlength=n_groups)


def _normal_test(u: np.ndarray, m: np.ndarray, k: np.ndarray, tie_sum: np.ndarray) -> GroupTest:
    """Normal approximation of Mann-Whitney's U for samples of `m` and `k` values."""
    n = m + k
    spread = n + 1 - tie_sum / np.maximum(n * (n - 1), 1)
    all_equal = spread < 1e-9 * n  # nothing to rank: no evidence either way
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(all_equal, 0.0, (u - m * k / 2) / np.sqrt(m * k / 12 * spread))
    z[(m == 0) | (k == 0)] = np.nan
    return GroupTest(z, 2 * ndtr(-np.abs(z)))
