"""Values of cells aggregated by donor: donors are the replicates."""

from __future__ import annotations

import numpy as np


def donor_means(
    values: np.ndarray, groups: np.ndarray, donors: np.ndarray, n_groups: int, n_donors: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each group's values in every donor that has the group.

    Parameters
    ----------
    values, groups
        Values of cells, of shape (n,).
    donors
        Integer array of shape (n,): the donor each value comes from.
    n_groups, n_donors
        Number of groups and of donors.

    Returns
    -------
    Values and groups again, of shape (number of pairs of a donor and a group,).
    """
    n, total = _tables(values, groups, donors, n_groups, n_donors)
    donor, group = np.nonzero(n)
    return total[donor, group] / n[donor, group], group


def donor_differences(
    values: np.ndarray, groups: np.ndarray, donors: np.ndarray, n_groups: int, n_donors: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each group in every donor less the mean of all other values of that donor.

    Takes what :func:`donor_means` takes and returns the same, without pairs in which there is nothing to compare with.
    """
    n, total = _tables(values, groups, donors, n_groups, n_donors)
    n_rest = n.sum(axis=1, keepdims=True) - n
    rest = total.sum(axis=1, keepdims=True) - total
    donor, group = at = np.nonzero((n > 0) & (n_rest > 0))
    return total[at] / n[at] - rest[at] / n_rest[at], group


def _tables(
    values: np.ndarray, groups: np.ndarray, donors: np.ndarray, n_groups: int, n_donors: int
) -> tuple[np.ndarray, np.ndarray]:
    """Number and sum of values, each of shape (n_donors, n_groups)."""
    shape = n_donors, n_groups
    flat, size = donors.astype(np.int64) * n_groups + groups, n_donors * n_groups
    n = np.bincount(flat, minlength=size).reshape(shape)
    return n, np.bincount(flat, weights=values, minlength=size).reshape(shape)
