"""Nearest neighbours of cells, each its own first one, as scib-metrics counts them."""

from __future__ import annotations

import numpy as np


def nearest_with_self(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and distances of the `k` nearest points of each point, itself the first; each (n, k)."""
    from sklearn.neighbors import NearestNeighbors

    k = min(k, len(points))
    distances, indices = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points).kneighbors(points)
    own = np.arange(len(points))
    for row in np.flatnonzero(indices[:, 0] != own):  # a point in the same place came first
        place = np.flatnonzero(indices[row] == row)
        indices[row, place[0] if len(place) else -1] = indices[row, 0]
        indices[row, 0] = row
    distances[:, 0] = 0.0
    return indices, distances
