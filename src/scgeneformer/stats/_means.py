"""Means of groups with confidence intervals and t-tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr, stdtrit

from ._results import GroupTest


@dataclass(frozen=True)
class Summary:
    """Number, mean, standard deviation and confidence interval of the mean of each group's values.

    Attributes
    ----------
    n
        int64 array of shape (n_groups,).
    mean
        float64 array of shape (n_groups,), NaN for empty groups.
    sd
        Standard deviation with n - 1 in the denominator, NaN for groups of fewer than 2 values.
    df
        Degrees of freedom of the standard deviation, n - 1 and at least 0.
    low, high
        Ends of the confidence interval, NaN for groups of fewer than 2 values.
    """

    n: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    df: np.ndarray
    low: np.ndarray
    high: np.ndarray


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


def mean_measured(values: np.ndarray, *, axis: int) -> np.ndarray:
    """Mean along an axis over values that are not NaN; NaN where there is none, without a warning."""
    n = (~np.isnan(values)).sum(axis=axis)
    return np.divide(np.nansum(values, axis=axis), n, out=np.full(n.shape, np.nan), where=n > 0)


def common_effect(values: np.ndarray, cells: np.ndarray, n_cells: int, *, of_reference: bool) -> np.ndarray:
    """What perturbing any gene does to each cell, by which the effects of single genes are centred: float64 (n_cells,).

    Parameters
    ----------
    values, cells
        Effects and the cell of each, of shape (n,).
    n_cells
        Number of cells.
    of_reference
        Whether the effects are of genes that stand for any gene. If they are of the tested genes themselves, a cell needs two of them.

    Returns
    -------
    Mean effect in each cell, NaN where there are too few.
    """
    n, mean = group_means(values, cells, n_cells)
    return np.where(n >= (1 if of_reference else 2), mean, np.nan)


def summarise(values: np.ndarray, groups: np.ndarray, n_groups: int, *, level: float = 0.95) -> Summary:
    """Mean of each group's values with the confidence interval of Student's t.

    Parameters
    ----------
    values
        Array of shape (n,), without NaN.
    groups
        Integer array of shape (n,).
    n_groups
        Number of groups.
    level
        Probability that the interval covers the mean, if values are independent and normal.
    """
    n, mean = group_means(values, groups, n_groups)
    # around the mean, since a sum of squares loses all digits of small shifts around a large mean
    squares = np.bincount(groups, weights=(values - mean[groups]) ** 2, minlength=n_groups)
    sd = np.sqrt(np.divide(squares, n - 1, out=np.full(n_groups, np.nan), where=n > 1))
    return with_interval(Summary(n, mean, sd, np.maximum(n - 1, 0), mean, mean), level)


def with_interval(summary: Summary, level: float) -> Summary:
    """The summary with the confidence interval of Student's t, by its standard deviations and degrees of freedom."""
    quantile = stdtrit(np.maximum(summary.df, 1), 0.5 + level / 2)
    half = quantile * summary.sd / np.sqrt(np.maximum(summary.n, 1))
    return replace(summary, low=summary.mean - half, high=summary.mean + half)


def add_error(summary: Summary, further: Summary) -> Summary:
    """The means of `summary` with the standard error of `further` in addition to their own, as of two independent samples.

    A mean movement times a difference of centroids, for example, varies with the cells that were moved and with those of the centroids. Degrees of
    freedom are Welch's; NaN where either has no standard error.
    """
    squared = [np.divide(of.sd**2, of.n, out=np.full(len(of.n), np.nan), where=of.n > 0) for of in (summary, further)]
    total = squared[0] + squared[1]
    terms = [
        np.divide(error**2, of.df, out=np.zeros_like(error), where=of.df > 0)
        for error, of in zip(squared, (summary, further), strict=True)
    ]
    df = np.divide(total**2, terms[0] + terms[1], out=np.zeros_like(total), where=terms[0] + terms[1] > 0)
    ones = np.ones_like(total)
    return with_interval(Summary(ones, summary.mean, np.sqrt(total), df, summary.mean, summary.mean), 0.95)


def t_test(summary: Summary) -> GroupTest:
    """Student's t-test of each group's mean against 0 (:func:`scipy.stats.ttest_1samp`).

    NaN for groups of fewer than 2 values. A group whose values are all 0 has t = 0 and p = 1.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        t = summary.mean / (summary.sd / np.sqrt(summary.n))
    t[(summary.mean == 0) & (summary.sd == 0)] = 0.0
    return GroupTest(t, 2 * stdtr(np.maximum(summary.df, 1), -np.abs(t)))
