"""Test of each group's mean against the means of matched groups."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtr
from scipy.stats import rankdata

from ._results import GroupTest


def matched_groups(detection: np.ndarray, position: np.ndarray, n_matched: int) -> np.ndarray:
    """Match every group with the groups nearest to it in two properties.

    Both properties are replaced by their ranks, so that they are uniform and their unit and shape do not matter; the distance
    is Euclid's in that plane.

    Parameters
    ----------
    detection
        Array of shape (n_groups,): in how many cells a gene is found.
    position
        Array of shape (n_groups,): where in its cells' ranking it stands.
    n_matched
        Number of matched groups, fewer than `n_groups`.

    Returns
    -------
    Integer array of shape (n_groups, n_matched + 1): each group itself, in any place, and those matched with it.
    """
    from scipy.spatial import cKDTree

    n = len(detection)
    if not 0 < n_matched < n:
        msg = f"n_matched={n_matched} must be at least 1 and less than the number of groups, {n}."
        raise ValueError(msg)
    plane = np.column_stack([rankdata(detection), rankdata(position)]) / n
    near = cKDTree(plane).query(plane, k=n_matched + 1)[1]
    lost = np.flatnonzero(
        ~(near == np.arange(n)[:, None]).any(axis=1)
    )  # among more groups at one point than were asked for
    near[lost, -1] = lost
    return near


def matched_test(effects: np.ndarray, near: np.ndarray) -> tuple[GroupTest, np.ndarray]:
    """Compare each group's effect with the effects of the groups matched with it.

    Parameters
    ----------
    effects
        Array of shape (n_groups,), without NaN.
    near
        What :func:`matched_groups` returns, of shape (n_groups, n_matched + 1).

    Returns
    -------
    test
        Of the effect as one more draw from the distribution of the n_matched others: t is its distance from their mean over their standard
        deviation times sqrt(1 + 1 / n_matched), the p-value Student's with n_matched - 1 degrees of freedom, two-sided. A rank among
        some hundred effects could not be small enough to survive a correction for thousands of tests.
    percentile
        Percentage of the others that are below the effect, those equal to it counting half; float64 of shape (n_groups,).
    """
    others = near != np.arange(len(effects))[:, None]
    matched = effects[near[others].reshape(len(effects), -1)]
    return draw_test(effects, matched)


def draw_test(values: np.ndarray, null: np.ndarray) -> tuple[GroupTest, np.ndarray]:
    """Test each value as one more draw from a normal distribution that its null is drawn from.

    Parameters
    ----------
    values
        Array of shape (n,).
    null
        Array of shape (n, k), the null of each value, without NaN.

    Returns
    -------
    As :func:`matched_test`. NaN where k is less than 2.
    """
    k = null.shape[1]
    if k < 2:
        return GroupTest(*np.full((2, len(values)), np.nan)), np.full(len(values), np.nan)
    distance, sd = values - null.mean(axis=1), null.std(axis=1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(distance == 0, 0.0, distance / (sd * np.sqrt(1 + 1 / k)))
    percentile = 50 * ((null < values[:, None]).mean(axis=1) + (null <= values[:, None]).mean(axis=1))
    return GroupTest(t, 2 * stdtr(k - 1, -np.abs(t))), percentile
