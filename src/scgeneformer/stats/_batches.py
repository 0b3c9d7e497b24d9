"""Integration of the positions of cells of several batches, and differences in the composition of batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._neighbors import LARGEST_EXACT, NeighborIndex

if TYPE_CHECKING:
    from numpy.random import Generator


def center(
    points: np.ndarray, batches: np.ndarray, *, labels: np.ndarray | None = None, reference: int | None = None
) -> np.ndarray:
    """Give all batches the same mean or, with `labels`, all batches of each label.

    Parameters
    ----------
    points
        float array of shape (n, d).
    batches
        Code of each point's batch, (n,).
    labels
        Code of its label, (n,), -1 for none. A label is moved only in batches that have it, to its mean over these batches; points without a
        label, and those of a label that `reference` lacks, move as the others of their batch do on average.
    reference
        Batch that stays where it is, and to whose mean the others are moved; by default to the mean of all points.

    Returns
    -------
    Array like `points`.
    """
    wide = points.astype(np.float64)
    codes = np.zeros(len(points), dtype=np.int64) if labels is None else labels
    moves = np.full(wide.shape, np.nan)
    for label in np.unique(codes[codes >= 0]):
        of_label = codes == label
        to = of_label if reference is None else of_label & (batches == reference)
        if not to.any():
            continue
        target = wide[to].mean(axis=0)
        for batch in np.unique(batches[of_label]):
            of_both = of_label & (batches == batch)
            moves[of_both] = target - wide[of_both].mean(axis=0)
    for batch in np.unique(batches):
        inside = batches == batch
        moved = inside & np.isfinite(moves[:, 0])
        moves[inside & ~moved] = moves[moved].mean(axis=0) if moved.any() else 0.0
    return (wide + moves).astype(points.dtype)


def meet_neighbors(
    points: np.ndarray, batches: np.ndarray, *, reference: int, n_neighbors: int, rng: Generator
) -> np.ndarray:
    """Move each batch as a whole to the reference, by the mean difference between mutual nearest neighbours (Haghverdi 2018).

    Types that only one of the two batches has find no mutual neighbours among their like, so that composition counts less than for
    `center`. The shape of a batch is kept, and the reference stays where it is.

    Parameters
    ----------
    points
        float array of shape (n, d).
    batches
        Code of each point's batch, (n,).
    reference
        Batch that stays.
    n_neighbors
        Number of nearest points of the other's batch among which each of two mutual neighbours must be.
    rng
        For the index of large batches.

    Returns
    -------
    Array like `points`.
    """
    moved = points.copy()
    fixed = points[batches == reference]
    for batch in np.setdiff1d(batches, [reference]):
        inside = batches == batch
        own = points[inside]
        k = min(n_neighbors, len(own), len(fixed))
        to_fixed = _nearest(fixed, own, k, rng)  # (n_own, k)
        to_own = _nearest(own, fixed, k, rng)  # (n_fixed, k)
        rows = np.repeat(np.arange(len(own)), k)
        partners = to_fixed.ravel()
        mutual = (to_own[partners] == rows[:, None]).any(axis=1)
        if mutual.any():
            differences = fixed[partners[mutual]].astype(np.float64) - own[rows[mutual]]
            moved[inside] = own + differences.mean(axis=0).astype(points.dtype)
    return moved


def _nearest(points: np.ndarray, queries: np.ndarray, k: int, rng: Generator) -> np.ndarray:
    """Indices of the `k` nearest points, (n_queries, k)."""
    index = NeighborIndex(points, k, metric="euclidean", exact=len(points) <= LARGEST_EXACT, rng=rng)
    return index.nearest(queries, k).indices


def harmonise(points: np.ndarray, batches: np.ndarray, *, rng: Generator) -> np.ndarray:
    """Move points by Harmony (Korsunsky 2019), as :func:`harmonypy.run_harmony` does with its defaults.

    Raises
    ------
    ImportError
        If harmonypy is not installed.
    """
    try:
        import harmonypy
    except ImportError as error:
        msg = (
            "Harmony needs harmonypy. Install it with `pip install 'scgeneformer[integrate]'`, or use method='center'."
        )
        raise ImportError(msg) from error
    import pandas as pd

    table = pd.DataFrame({"batch": batches.astype(str)})
    seed = int(rng.integers(2**31))
    return harmonypy.run_harmony(points, table, "batch", random_state=seed, verbose=False).Z_corr.astype(points.dtype)


def shares(batches: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Share of each label in each batch, (n_batches, n_labels); points without a label, -1, are left out."""
    labelled = labels >= 0
    table = np.zeros((batches.max() + 1, labels.max() + 1))
    np.add.at(table, (batches[labelled], labels[labelled]), 1)
    with np.errstate(invalid="ignore"):
        return table / table.sum(axis=1, keepdims=True)


def total_variation(share: np.ndarray, other: np.ndarray) -> float:
    """Half the sum of the absolute differences between two distributions: 0 if they are the same, 1 if they share no label."""
    return float(np.abs(share - other).sum() / 2)
