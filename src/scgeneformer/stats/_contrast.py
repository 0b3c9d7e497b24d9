"""Movements against the difference of two states, whose cells, or donors, are the replicates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ._means import Summary, add_error, with_interval
from ._moderated import moderate

MIN_DONORS = 3  # with a value each: two that agree by accident look like certainty
LEVEL = 0.95  # of the intervals


def contrast(
    directions: np.ndarray, cells: np.ndarray, is_target: np.ndarray, *, donors: np.ndarray | None = None
) -> Summary:
    r"""Shift of each group of values towards the target minus its shift towards the source, with its standard error.

    The shift of a movement :math:`d` towards a state is :math:`d \cdot c`, where :math:`c` is the centroid of the state at length 1. If the two states do
    not differ, the contrast :math:`d \cdot (c_t - c_s)` comes from the sampling of their cells alone. The scatter of these cells along :math:`d`
    gives its standard error (delta method): a cell :math:`u` of a state with mean :math:`m` lies at :math:`c + (I - cc^T) (u - m) / |m|`,
    and the mean of all cells at :math:`c`.

    This is the question of :func:`permuted_labels`, answered without permutations, and for donors as replicates as well.

    Parameters
    ----------
    directions
        Mean movement of each group (gene), float64 (n_groups, H): the embedding after less before, each at length 1. NaN where there is none.
    cells
        Embeddings of the cells of both states, float64 (n, H), at least two of each state.
    is_target
        State of each cell, bool (n,).
    donors
        Code of the donor of each cell, int (n,). Donors are then the replicates, with equal weights. If at least three have cells of both states,
        the contrasts within these donors are averaged; if every donor has cells of one state only, at least two donors of each state are compared.
        Variances are moderated over groups (Smyth 2004).

    Returns
    -------
    Contrasts with intervals. `sd` and `n` are such that ``sd / sqrt(n)`` is the standard error; the degrees of freedom are Welch's for cells, and
    moderated for donors. All is NaN for groups without a direction, and everything but the mean if the donors are too few.
    """
    places = np.empty_like(cells)
    for state in (True, False):
        places[is_target == state] = _places(cells[is_target == state])
    if donors is None:
        return _over_cells(directions, places[is_target], places[~is_target])
    return _over_donors(directions, places, is_target, donors)


def principal_axes(cells: np.ndarray, is_target: np.ndarray, n_axes: int) -> np.ndarray:
    """Orthogonal directions that hold most of what the sampling of cells makes of the difference of two centroids.

    Parameters
    ----------
    cells, is_target
        As for :func:`contrast`.
    n_axes
        Their maximum number.

    Returns
    -------
    Vectors of length 1, float64 (A, H), the one with the largest variance first; no more than the width of the embedding.
    """
    states = [_places(cells[is_target == state]) for state in (True, False)]
    _, axes = np.linalg.eigh(sum(np.cov(places, rowvar=False) / len(places) for places in states))
    return axes.T[::-1][:n_axes].copy()


def _places(cells: np.ndarray) -> np.ndarray:
    """Where the cells of one state lie, to first order, if their centroid has length 1: float64 (n, H), whose mean is that centroid."""
    mean = cells.mean(axis=0)
    length = np.linalg.norm(mean)
    unit, scatter = mean / length, (cells - mean) / length
    return unit + scatter - np.outer(scatter @ unit, unit)


def _over_cells(directions: np.ndarray, target: np.ndarray, source: np.ndarray) -> Summary:
    """By the scatter of the cells of each state, with Welch's degrees of freedom."""
    of_target, of_source = (_along(directions, places) for places in (target, source))
    return add_error(replace(of_target, mean=of_target.mean - of_source.mean), of_source)


def _along(directions: np.ndarray, places: np.ndarray) -> Summary:
    """Mean and scatter of `places` along each direction."""
    covariance = np.cov(places, rowvar=False)  # (H, H)
    variance = np.maximum(np.einsum("gh,gh->g", directions @ covariance, directions), 0)
    return _summary(directions @ places.mean(axis=0), np.sqrt(variance), len(places), len(places) - 1)


def _over_donors(directions: np.ndarray, places: np.ndarray, is_target: np.ndarray, donors: np.ndarray) -> Summary:
    """By the scatter of donors: of the contrasts within them or, if no donor has both states, around the means of the states."""
    means = np.full((2, int(donors.max()) + 1, places.shape[1]), np.nan)
    for state in (0, 1):
        for donor in np.unique(donors[is_target == state]):
            means[state, donor] = places[(donors == donor) & (is_target == state)].mean(axis=0)
    has = ~np.isnan(means[..., 0])  # (2, n_donors), source and target
    in_both = has.all(axis=0)
    if in_both.sum() >= MIN_DONORS:
        within = directions @ (means[1] - means[0])[in_both].T  # (n_groups, n_donors)
        n = within.shape[1]
        return moderate(_summary(within.mean(axis=1), within.std(axis=1, ddof=1), n, n - 1))
    source, target = (directions @ of_state[some].T for of_state, some in zip(means, has, strict=True))
    n_source, n_target = has.sum(axis=1)
    difference = target.mean(axis=1) - source.mean(axis=1)
    if in_both.any() or min(n_source, n_target) < 2:
        return _summary(difference, np.full(len(directions), np.nan), 1, 0)
    squares = sum(values.var(axis=1) * values.shape[1] for values in (source, target))
    df = n_source + n_target - 2
    return moderate(_summary(difference, np.sqrt(squares / df), 1 / (1 / n_source + 1 / n_target), df))


def _summary(mean: np.ndarray, sd: np.ndarray, n: float, df: float) -> Summary:
    """With intervals; groups without a standard deviation have no degrees of freedom."""
    of_each = np.full(mean.shape, n, dtype=np.float64)
    return with_interval(Summary(of_each, mean, sd, np.where(np.isnan(sd), 0.0, df), mean, mean), LEVEL)
