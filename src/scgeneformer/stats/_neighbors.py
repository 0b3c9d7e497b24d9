"""Nearest neighbours of points, votes of their classes, and distances to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator

LARGEST_EXACT = 50_000  # reference points; above, brute force takes longer than building an index
Metric = Literal["euclidean", "cosine"]
Weights = Literal["distance", "uniform", "gaussian"]
_BLOCK = 1 << 16  # queries
_WIDER = 4  # times as many neighbours are searched in an index, of which some may be of the query's own group
_FEW = 10_000  # queries, for which building an index takes longer than comparing them with every point


@dataclass(frozen=True)
class Neighbors:
    """Nearest reference points of each query: `indices` (int) and ascending `distances` (float), each of shape (n_queries, k)."""

    indices: np.ndarray
    distances: np.ndarray

    def mean_distances(self, k: int | None = None) -> np.ndarray:
        """Mean distance of each query to its `k` nearest neighbours, by default all of them: float64 array of shape (n_queries,)."""
        return self.distances[:, :k].mean(axis=1, dtype=np.float64)

    def votes(self, codes: np.ndarray, n_classes: int, *, weights: Weights = "distance") -> np.ndarray:
        """Share of each class among the weighted neighbours.

        Parameters
        ----------
        codes
            Class of each reference point: int array of shape (n_reference,), in ``range(n_classes)``.
        n_classes
            Number of classes.
        weights
            Of a neighbour at distance d: ``"distance"``, 1 / d, and a query that coincides with reference points listens to those alone;
            ``"uniform"``, 1; or ``"gaussian"``, exp(-d² / (2 s²)), where s is the distance to the farthest neighbour of the query.

        Returns
        -------
        float64 array of shape (n_queries, n_classes), whose rows sum to 1.
        """
        each = self._weights(weights)
        n = len(each)
        slots = np.arange(n)[:, None] * n_classes + codes[self.indices]
        votes = np.bincount(slots.ravel(), weights=each.ravel(), minlength=n * n_classes).reshape(n, n_classes)
        return votes / votes.sum(axis=1, keepdims=True)

    def winners(
        self, codes: np.ndarray, n_classes: int, *, weights: Weights = "distance"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Class with most votes, int64, and its share, float64, of each query, (n_queries,) each; see `votes`."""
        told, share = np.empty(len(self.indices), dtype=np.int64), np.empty(len(self.indices))
        for first in range(0, len(told), _BLOCK):
            rows = slice(first, first + _BLOCK)
            votes = Neighbors(self.indices[rows], self.distances[rows]).votes(codes, n_classes, weights=weights)
            told[rows], share[rows] = votes.argmax(axis=1), votes.max(axis=1)
        return told, share

    def _weights(self, weights: Weights) -> np.ndarray:
        distances = self.distances.astype(np.float64)
        if weights == "uniform":
            return np.ones_like(distances)
        if weights == "gaussian":
            farthest = distances[:, -1:]
            return np.exp(-0.5 * np.divide(distances, farthest, out=np.zeros_like(distances), where=farthest > 0) ** 2)
        same = distances == 0
        with np.errstate(divide="ignore"):
            return np.where(same.any(axis=1, keepdims=True), same, 1 / distances)


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
        self.points, self.exact, self._k = points, exact, k
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
            # as wide for few as for many neighbours, so that distances to the nearest of them are the same
            wide = min(max(k, _WIDER * self._k), len(self.points))
            indices, distances = (array[:, :k] for array in self._index.query(queries, k=wide, epsilon=0.2))
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
        return self.nearest_elsewhere(self.points, groups, groups, k)

    def nearest_elsewhere(self, queries: np.ndarray, query_groups: np.ndarray, groups: np.ndarray, k: int) -> Neighbors:
        """The `k` nearest points that are not of the query's own group.

        Parameters
        ----------
        queries
            float array of shape (n_queries, d).
        query_groups, groups
            Groups of the queries and of the points, int arrays of shape (n_queries,) and (n_points,).
        k
            Number of neighbours, at most as many as there are points outside each group.
        """
        n = len(queries)
        indices, distances = np.empty((n, k), dtype=np.int64), np.empty((n, k), dtype=self.points.dtype)
        done = np.zeros(n, dtype=bool)
        if (
            not self.exact
        ):  # most queries have enough neighbours of other groups among a few more: spares an index per group
            for first in range(0, n, _BLOCK):
                rows = slice(first, first + _BLOCK)
                wide = self.nearest(queries[rows], min(_WIDER * self._k, len(self.points)))
                elsewhere = groups[wide.indices] != query_groups[rows, None]
                nearest = np.argsort(~elsewhere, axis=1, kind="stable")[:, :k]
                indices[rows] = np.take_along_axis(wide.indices, nearest, axis=1)
                distances[rows] = np.take_along_axis(wide.distances, nearest, axis=1)
                done[rows] = elsewhere.sum(axis=1) >= k
        for group in np.unique(query_groups[~done]):
            inside, outside = np.flatnonzero(~done & (query_groups == group)), np.flatnonzero(groups != group)
            options = self._options | {"exact": self.exact or len(inside) <= _FEW}
            nearest_outside = NeighborIndex(self.points[outside], k, **options).nearest(queries[inside], k)
            indices[inside], distances[inside] = outside[nearest_outside.indices], nearest_outside.distances
        return Neighbors(indices, distances)
