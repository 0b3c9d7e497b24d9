from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator

LARGEST_EXACT = 50_000  # reference cells; above, brute force takes longer than building an index


@dataclass(frozen=True)
class Neighbors:
    """Nearest reference points of each query: `indices` (int) and ascending `distances` (float), each of shape (n_queries, k)."""

    indices: np.ndarray
    distances: np.ndarray

    def votes(self, codes: np.ndarray, n_classes: int) -> np.ndarray:
        """Share of each class among the neighbours, each weighted by 1 over its distance.

        A query that coincides with reference points listens to those alone.

        Parameters
        ----------
        codes
            Class of each reference point: int array of shape (n_reference,), in ``range(n_classes)``.
        n_classes
            Number of classes.

        Returns
        -------
        float64 array of shape (n_queries, n_classes), whose rows sum to 1.
        """
        distances = self.distances.astype(np.float64)
        same = distances == 0
        with np.errstate(divide="ignore"):
            weights = np.where(same.any(axis=1, keepdims=True), same, 1 / distances)
        n = len(weights)
        slots = np.arange(n)[:, None] * n_classes + codes[self.indices]
        votes = np.bincount(slots.ravel(), weights=weights.ravel(), minlength=n * n_classes).reshape(n, n_classes)
        return votes / votes.sum(axis=1, keepdims=True)


def nearest(
    reference: np.ndarray,
    query: np.ndarray,
    k: int,
    *,
    metric: Literal["euclidean", "cosine"],
    exact: bool,
    rng: Generator,
) -> Neighbors:
    """Find the `k` nearest rows of `reference` for each row of `query`.

    Parameters
    ----------
    reference, query
        float arrays of shapes (n_reference, d) and (n_queries, d).
    k
        Number of neighbours, at most n_reference.
    metric
        Distance.
    exact
        Compare with every reference point, in blocks of bounded memory; else search an index by nearest neighbour descent
        (:class:`pynndescent.NNDescent`), which misses a few.
    rng
        Seeds the index.
    """
    if exact:
        from sklearn.neighbors import NearestNeighbors

        index = NearestNeighbors(n_neighbors=k, algorithm="brute", metric=metric).fit(reference)
        distances, indices = index.kneighbors(query)
        return Neighbors(indices, distances)
    from pynndescent import NNDescent

    index = NNDescent(reference, metric=metric, n_neighbors=max(30, k), random_state=int(rng.integers(2**31)))
    indices, distances = index.query(query, k=k, epsilon=0.2)
    return Neighbors(indices, distances)
