"""Places of cells on the axis between two states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scgeneformer.evaluation._folds import folds

if TYPE_CHECKING:
    from numpy.random import Generator

SOURCE, TARGET, NEITHER = 0, 1, -1


def held_out_positions(
    points: Any, states: np.ndarray, groups: np.ndarray | None = None, *, rng: int | Generator | None = 0
) -> np.ndarray:
    """Place of each cell on the straight line from the mean of one state, 0, to that of another, 1, both of other cells.

    Parameters
    ----------
    points
        Cells of shape (n, d), dense or CSR, without NaN.
    states
        State of each cell, (n,): 0 or 1, the ends of the line, or -1.
    groups
        Group of each cell, such as its donor, (n,). Lines are then fitted to the cells of all other groups, each group having the same weight
        in the mean of a state. Without groups, cells are left out in five folds, and those of neither state are placed on the line of all.
    rng
        Seed or generator of the folds.

    Returns
    -------
    float64 (n,).

    Raises
    ------
    ValueError
        If a state has cells of fewer than two groups, or fewer than two cells.
    """
    values = sparse.csr_matrix(points, dtype=np.float64) if sparse.issparse(points) else np.asarray(points, np.float64)
    units = _folds(states, rng) if groups is None else np.unique(groups, return_inverse=True)[1]
    one_hot = [sparse.csr_matrix(_members(units, states == state)) for state in (SOURCE, TARGET)]  # (n_units, n)
    sizes = np.stack([np.asarray(members.sum(axis=1)).ravel() for members in one_hot])  # (2, n_units)
    sums = [members @ values for members in one_hot]
    sums = [of_state.toarray() if sparse.issparse(of_state) else of_state for of_state in sums]
    if groups is not None:  # each counts once
        sums = [of_state / np.maximum(n, 1)[:, None] for of_state, n in zip(sums, sizes, strict=True)]
        sizes = np.minimum(sizes, 1)
        if sizes.sum(axis=1).min() < 2:
            msg = "A state has cells of one group only: without that group there is no axis to place its cells on."
            raise ValueError(msg)
    positions = np.empty(len(states))
    for unit in np.unique(units):
        others = np.arange(sizes.shape[1]) != unit
        ends = [sums[state][others].sum(axis=0) / sizes[state, others].sum() for state in (SOURCE, TARGET)]
        direction = ends[1] - ends[0]
        inside = units == unit
        length = max(float(direction @ direction), np.finfo(float).tiny)
        positions[inside] = (values[inside] @ direction - ends[0] @ direction) / length
    return positions


def _folds(states: np.ndarray, rng: int | Generator | None) -> np.ndarray:
    """Fold of each cell of either state, -1 for the others."""
    n_of_state = [int(np.sum(states == state)) for state in (SOURCE, TARGET)]
    if min(n_of_state) < 2:
        msg = f"A state has {min(n_of_state)} cells: to place a cell, others of both states are needed."
        raise ValueError(msg)
    labelled = states != NEITHER
    units = np.full(len(states), -1)
    codes = states[labelled].astype(np.int64)
    units[labelled] = folds(codes, min(5, *n_of_state), classes=["source", "target"], rng=rng)
    return units


def _members(units: np.ndarray, of_state: np.ndarray) -> sparse.coo_matrix:
    """Which cells of a state are in each unit, (n_units, n)."""
    rows = np.flatnonzero(of_state)
    return sparse.coo_matrix((np.ones(len(rows)), (units[rows], rows)), shape=(units.max() + 1, len(units)))
