"""The scores of an embedding that need no further library."""

from __future__ import annotations

import numpy as np


def by_scikit_learn(
    points: np.ndarray, labels: np.ndarray, batches: np.ndarray, before: np.ndarray, *, rng: int = 0
) -> dict[str, float]:
    """Scores of an embedding by scikit-learn, from 0 to 1 (``ari`` from -0.5), larger is better.

    Parameters
    ----------
    points
        Cells in the embedding, of shape (n, d).
    labels, batches
        Codes of the label and the batch of each cell, (n,).
    before
        The same cells before batches were brought together, (n, e), to which ``pcr_comparison`` refers.
    rng
        Seed of k-means.

    Returns
    -------
    ``nmi``, ``ari``
        Agreement of labels with as many clusters by k-means.
    ``silhouette_label``
        Mean silhouette width of labels, moved from [-1, 1] to [0, 1].
    ``graph_connectivity``
        Share of the cells of a label that are connected by nearest neighbours of this label, 15 of each cell with itself; mean over labels.
    ``batch_entropy``
        Mean entropy of batches among these neighbours, divided by that among all cells.
    ``pcr_comparison``
        By how much the share of the variance that batches explain is smaller than `before`, relative to that; at least 0.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

    from ._neighbors import nearest_with_self

    n_labels = len(np.unique(labels))
    clusters = KMeans(n_labels, n_init=10, random_state=rng).fit_predict(points)
    neighbors = nearest_with_self(points, 15)[0]
    return {
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
        "silhouette_label": float(silhouette_score(points, labels) + 1) / 2,
        "graph_connectivity": _connectivity(neighbors, labels),
        "batch_entropy": _entropy(neighbors, batches),
        "pcr_comparison": _less_explained(before, points, batches),
    }


def _connectivity(neighbors: np.ndarray, labels: np.ndarray) -> float:
    """Mean over labels of the share of cells in the largest strongly connected part of the graph of neighbours of the label."""
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    n, k = neighbors.shape
    graph = sparse.csr_matrix((np.ones(n * k), neighbors.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    parts = []
    for label in np.unique(labels):
        inside = labels == label
        _, part = connected_components(graph[inside][:, inside], connection="strong")
        parts.append(np.bincount(part).max() / inside.sum())
    return float(np.mean(parts))


def _entropy(neighbors: np.ndarray, batches: np.ndarray) -> float:
    """Mean entropy of the batches among the neighbours of a cell, divided by that of all cells."""
    n_batches = batches.max() + 1
    around = np.stack([(batches[neighbors] == batch).mean(axis=1) for batch in range(n_batches)], axis=1)
    overall = np.bincount(batches, minlength=n_batches) / len(batches)

    def entropy(shares: np.ndarray) -> np.ndarray:
        return -np.sum(shares * np.log(np.where(shares > 0, shares, 1)), axis=-1)

    return float(entropy(around).mean() / entropy(overall))


def _less_explained(before: np.ndarray, after: np.ndarray, batches: np.ndarray) -> float:
    first, second = (explained_by(points, batches) for points in (before, after))
    return max((first - second) / first, 0.0) if first > 0 else 0.0


def explained_by(points: np.ndarray, codes: np.ndarray) -> float:
    """Share of the variance of points, (n, d), that lies between the means of groups, (n,).

    This is principal component regression on all components: their variances add up to the whole, however the axes are turned.
    """
    wide = points.astype(np.float64)
    centred = wide - wide.mean(axis=0)
    between = 0.0
    for code in np.unique(codes):
        inside = codes == code
        between += inside.sum() * float(np.sum(centred[inside].mean(axis=0) ** 2))
    return between / float(np.sum(centred**2))
