"""Nearest neighbours of points, votes of their classes, and distances to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator

LARGEST_EXACT = 50_000  # reference points; above, brute force takes longer than building an index
Metric = Literal["euclidean", "cosine"]


@dataclass(frozen=True)
class Neighbors:
    """Nearest reference points of each query: `indices` (int) and ascending `distances` (float), each of shape (n_queries, k)."""

    indices: np.ndarray
    distances: np.ndarray

    def mean_distances(self, k: int | None = None) -> np.ndarray:
        """Mean distance of each query to its `k` nearest neighbours, by default all of them: float64 array of shape (n_queries,)."""
        return self.distances[:, :k].mean(axis=1, dtype=np.float64)

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


class NeighborIndex:
    """Finds the nearest of some points.

    Parameters
    ----------
    points
        float array of shape (n_points, d).
    k
        Number of neighbours that will be asked for, at most.
    metric
        Distance.
    exact
        Compare with every point, in blocks of bounded memory; else by nearest neighbour descent (:class:`pynndescent.NNDescent`), which
        misses a few.
    rng
        Seeds nearest neighbour descent.
    """

    def __init__(self, points: np.ndarray, k: int, *, metric: Metric, exact: bool, rng: Generator) -> None:
        self.points, self.exact = points, exact
        self._options: dict[str, Any] = {"metric": metric, "exact": exact, "rng": rng}
        if exact:
            from sklearn.neighbors import NearestNeighbors

            self._index = NearestNeighbors(n_neighbors=k, algorithm="brute", metric=metric).fit(points)
        else:
            from pynndescent import NNDescent

            seed = int(rng.integers(2**31))
            self._index = NNDescent(points, metric=metric, n_neighbors=max(30, k), random_state=seed)

    def nearest(self, queries: np.ndarray, k: int) -> Neighbors:
        """The `k` nearest points, at most as many as there are, of each row of `queries`, (n_queries, d)."""
        if self.exact:
            distances, indices = self._index.kneighbors(queries, k)
        else:
            indices, distances = self._index.query(queries, k=k, epsilon=0.2)
        return Neighbors(indices, distances)

    def left_out(self, k: int, groups: np.ndarray | None = None) -> Neighbors:
        """The `k` nearest other points of each point.

        Parameters
        ----------
        k
            Number of neighbours: fewer than there are points, or as many as there are outside each group.
        groups
            int array of shape (n_points,), such as donors: only points of other groups are neighbours.
        """
        n = len(self.points)
        if groups is None:
            neighbors = self.nearest(self.points, k + 1)
            own = neighbors.indices == np.arange(n)[:, None]
            own[~own.any(axis=1), -1] = True  # points in the same place can crowd a point out of its own neighbours
            return Neighbors(neighbors.indices[~own].reshape(n, k), neighbors.distances[~own].reshape(n, k))
        indices, distances = np.empty((n, k), dtype=np.int64), np.empty((n, k), dtype=self.points.dtype)
        for group in np.unique(groups):
            inside, outside = np.flatnonzero(groups == group), np.flatnonzero(groups != group)
            found = NeighborIndex(self.points[outside], k, **self._options).nearest(self.points[inside], k)
            indices[inside], distances[inside] = outside[found.indices], found.distances
        return Neighbors(indices, distances)
