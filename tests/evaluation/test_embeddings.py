"""Scores of embeddings against scikit-learn, scib-metrics and loops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scgeneformer.evaluation import embeddings
from scgeneformer.evaluation.embeddings._neighbors import nearest_with_self
from scgeneformer.evaluation.embeddings._scib import BATCHES, LABELS
from scgeneformer.evaluation.embeddings._scikit import explained_by


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(0)
    labels, batches = rng.integers(0, 4, 400), rng.integers(0, 2, 400)
    before = 3 * rng.normal(size=(4, 12))[labels] + rng.normal(size=(2, 12))[batches] + rng.normal(size=(400, 12))
    after = before - rng.normal(size=(2, 12))[batches] * 0.5
    return after.astype(np.float32), labels, batches, before.astype(np.float32)


def test_each_cell_is_its_own_first_neighbour():
    points = np.repeat(np.random.default_rng(0).normal(size=(30, 3)), 3, axis=0)  # three cells in each place
    indices, distances = nearest_with_self(points, 4)
    np.testing.assert_array_equal(indices[:, 0], np.arange(90))
    assert all(len(set(row)) == 4 for row in indices.tolist())
    assert (distances[:, :3] < 1e-6).all()
    full = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.testing.assert_allclose(np.sort(distances, axis=1), np.sort(full, axis=1)[:, :4], atol=1e-6)


def test_scores_that_both_have_are_the_same(cells):
    """Scikit-learn and scib-metrics agree, except for clusters, which start from other centres."""
    pytest.importorskip("scib_metrics")
    ours, theirs = embeddings.by_scikit_learn(*cells), embeddings.by_scib_metrics(*cells)
    for name in ("silhouette_label", "graph_connectivity", "pcr_comparison"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-4), name
    assert ours["nmi"] == pytest.approx(theirs["nmi"], abs=0.1)


def test_scib_metrics_are_those_of_its_benchmarker(cells):
    scib = pytest.importorskip("scib_metrics.benchmark")
    from scib_metrics.nearest_neighbors import NeighborsResults

    after, labels, batches, before = cells
    obs = pd.DataFrame({"label": labels.astype(str), "batch": batches.astype(str)}, index=map(str, range(400)))
    adata = AnnData(before, obs=obs.astype("category"), obsm={"after": after, "before": before})
    benchmark = scib.Benchmarker(
        adata, "batch", "label", ["after"], pre_integrated_embedding_obsm_key="before", progress_bar=False
    )
    benchmark.prepare(lambda X, k: NeighborsResults(*nearest_with_self(X, k)))
    benchmark.benchmark()
    expected = benchmark.get_results(clean_names=False).loc["after"].astype(float)
    found = embeddings.by_scib_metrics(after, labels, batches, before)
    renamed = {"nmi": "nmi_ari_cluster_labels_kmeans_nmi", "ari": "nmi_ari_cluster_labels_kmeans_ari"}
    renamed |= {"clisi": "clisi_knn", "ilisi": "ilisi_knn", "kbet": "kbet_per_label", "total": "Total"}
    for name in (*LABELS, *BATCHES, "total"):
        assert found[name] == pytest.approx(expected[renamed.get(name, name)], abs=1e-4), name


def test_explained_variance_is_that_of_a_regression(cells):
    points, _, batches, _ = cells
    centred = points - points.mean(0)
    design = np.eye(2)[batches]
    fitted = design @ np.linalg.lstsq(design, centred, rcond=None)[0]
    assert explained_by(points, batches) == pytest.approx((fitted**2).sum() / (centred**2).sum(), rel=1e-5)


def test_mixed_batches_have_entropy_and_separate_ones_none():
    rng = np.random.default_rng(0)
    points, batches, labels = rng.normal(size=(200, 3)), np.arange(200) % 2, np.arange(200) // 100
    mixed = embeddings.by_scikit_learn(points, labels, batches, points)
    apart = embeddings.by_scikit_learn(points + 100 * batches[:, None], labels, batches, points)
    assert mixed["batch_entropy"] > 0.9
    assert apart["batch_entropy"] == pytest.approx(0, abs=1e-9)
    assert apart["pcr_comparison"] == 0
