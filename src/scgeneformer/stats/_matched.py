"""Test of each group's mean against the means of matched groups."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri
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


def matched_test(effects: np.ndarray, near: np.ndarray) -> GroupTest:
    """Compare each group's effect with the effects of the groups matched with it.

    Parameters
    ----------
    effects
        Array of shape (n_groups,), without NaN.
    near
        What :func:`matched_groups` returns, of shape (n_groups, n_matched + 1).

    Returns
    -------
    score
        Distance from the median of these n_matched + 1 effects in units of their robust standard deviation, the median
        absolute deviation times 1.4826. Infinite where that is 0 and the effect is not the median.
    pvalue
        Fraction of these effects that are at least as far from the median, the group's own among them: two-sided, exact if
        any of them could be the group's own, and never under 1 / (n_matched + 1). Conservative where effects still depend
        on the two properties among the groups matched.
    """
    nearby = effects[near]
    median = np.median(nearby, axis=1)
    distance, own = np.abs(nearby - median[:, None]), effects - median
    spread = np.median(distance, axis=1) / ndtri(0.75)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.where(own == 0, 0.0, own / spread)
    least = np.abs(own) - 1e-9 * spread  # the two around the median of an even number are equally far but for rounding
    return GroupTest(score, np.mean(distance >= least[:, None], axis=1))
