"""Neighbours of left-out points, alone or with their group, and conformal p-values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from scgeneformer import stats

K = 4


def points(n: int = 60) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.vstack([rng.normal(size=(n, 5)), np.ones((8, 5))]).astype(np.float32)  # eight in one place


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("grouped", [False, True])
def test_left_out_points_are_compared_with_the_others(metric: str, grouped: bool) -> None:
    groups = np.arange(68) % 7 if grouped else np.arange(68)
    index = stats.NeighborIndex(points(), K, metric=metric, exact=True, rng=np.random.default_rng(0))
    found = index.left_out(K, groups if grouped else None)
    distances = cdist(points().astype(float), points().astype(float), metric)
    distances[groups[:, None] == groups] = np.inf
    np.testing.assert_allclose(found.mean_distances(), np.sort(distances)[:, :K].mean(axis=1), atol=2e-3, rtol=1e-4)
    assert not np.any(groups[found.indices] == groups[:, None])
    np.testing.assert_allclose(np.take_along_axis(distances, found.indices, 1), found.distances, atol=2e-3, rtol=1e-4)


def test_conformal_p_is_a_count() -> None:
    rng = np.random.default_rng(0)
    distances, codes = rng.integers(0, 9, 50).astype(float), rng.integers(0, 4, 50)
    reference, reference_codes = rng.integers(0, 9, 80).astype(float), rng.integers(0, 3, 80)
    distances[7] = np.nan
    p = stats.conformal_p(distances, codes, reference, reference_codes)
    for i in range(50):
        alike = reference[reference_codes == codes[i]]
        expected = np.nan if i == 7 else (1 + sum(alike >= distances[i])) / (len(alike) + 1)
        np.testing.assert_allclose(p[i], expected)
    assert set(p[codes == 3]) - {1.0} == set()  # of which the reference has none


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3, 1 / 7])
def test_smallest_sample_is_the_first_that_suffices(alpha: float) -> None:
    n = stats.smallest_sample(alpha)
    assert 1 / (n + 1) < alpha <= 1 / n


def test_relative_distances_of_points_in_one_place() -> None:
    codes = np.array([0, 0, 1, 1])
    typical = stats.median_distances(np.array([0.0, 0.0, 1.0, 3.0]), codes, 3)
    np.testing.assert_array_equal(typical, [0, 2, 0.5])  # the third has no points
    relative = stats.relative_distances(np.array([0.0, 1.0, 1.0, 0.0]), codes, typical)
    np.testing.assert_array_equal(relative, [0, np.inf, 0.5, 0])
