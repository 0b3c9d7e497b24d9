"""The scores of an embedding by scib-metrics."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np

from ._neighbors import nearest_with_self

LABELS = ("nmi", "ari", "isolated_labels", "silhouette_label", "clisi")
BATCHES = ("bras", "ilisi", "kbet", "graph_connectivity", "pcr_comparison")


def has_scib_metrics() -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec("scib_metrics") is not None


def by_scib_metrics(
    points: np.ndarray, labels: np.ndarray, batches: np.ndarray, before: np.ndarray
) -> dict[str, float]:
    """Scores of an embedding by scib-metrics (Luecken 2022), with the defaults of its ``Benchmarker``, neighbours exact.

    Parameters
    ----------
    points
        Cells in the embedding, of shape (n, d).
    labels, batches
        Codes of the label and the batch of each cell, (n,).
    before
        The same cells before batches were brought together, (n, e), to which ``pcr_comparison`` refers.

    Returns
    -------
    The scores of `LABELS` and of `BATCHES`, their means ``bio_conservation`` and ``batch_correction``, and ``total``, six tenths of the one and
    four of the other, none scaled by what else is compared.
    """
    import scib_metrics
    from scib_metrics.nearest_neighbors import NeighborsResults

    indices, distances = nearest_with_self(points, 90)

    def nearest(k: int) -> NeighborsResults:
        return NeighborsResults(indices=indices[:, :k], distances=distances[:, :k])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scores below 0, and of jax
        clusters = scib_metrics.nmi_ari_cluster_labels_kmeans(points, labels)
        scores = {
            "nmi": clusters["nmi"],
            "ari": clusters["ari"],
            "isolated_labels": scib_metrics.isolated_labels(points, labels, batches),
            "silhouette_label": scib_metrics.silhouette_label(points, labels),
            "clisi": scib_metrics.clisi_knn(nearest(90), labels),
            "bras": scib_metrics.bras(points, labels, batches),
            "ilisi": scib_metrics.ilisi_knn(nearest(90), batches),
            "kbet": scib_metrics.kbet_per_label(nearest(50), batches, labels),
            "graph_connectivity": scib_metrics.graph_connectivity(nearest(15), labels),
            "pcr_comparison": scib_metrics.pcr_comparison(before, points, batches, categorical=True),
        }
    plain = {name: float(value) for name, value in scores.items()}
    bio, batch = (float(np.mean([plain[name] for name in names])) for names in (LABELS, BATCHES))
    return plain | {"bio_conservation": bio, "batch_correction": batch, "total": 0.6 * bio + 0.4 * batch}
