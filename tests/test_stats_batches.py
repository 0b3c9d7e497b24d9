"""Batch correction against loops, and properties that it must have."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scgeneformer import stats

RNG = 0


@pytest.fixture
def shifted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three types of cells in three batches of different composition; each batch is moved as a whole."""
    rng = np.random.default_rng(RNG)
    batches, labels = rng.integers(0, 3, 600), rng.integers(0, 3, 600)
    labels[(batches == 2) & (labels == 0)] = 1  # which this batch lacks
    types = 8 * rng.normal(size=(3, 5))
    moves = rng.normal(size=(3, 5))
    return types[labels] + moves[batches] + 0.1 * rng.normal(size=(600, 5)), batches, labels


def test_centring_by_batch(shifted):
    points, batches, _ = shifted
    expected = points.copy()
    for batch in range(3):
        expected[batches == batch] += points.mean(0) - points[batches == batch].mean(0)
    np.testing.assert_allclose(stats.center(points, batches), expected)
    fixed = stats.center(points, batches, reference=1)
    np.testing.assert_array_equal(fixed[batches == 1], points[batches == 1])
    np.testing.assert_allclose(fixed[batches == 0].mean(0), points[batches == 1].mean(0))


def test_centring_by_label_undoes_moves_of_batches_whatever_their_composition(shifted):
    points, batches, labels = shifted
    unknown = np.where(np.arange(600) % 7 == 0, -1, labels)
    for codes in (labels, unknown):
        moved = stats.center(points, batches, labels=codes)
        for label in range(3):
            means = [
                moved[(batches == b) & (labels == label)].mean(0)
                for b in range(3)
                if ((batches == b) & (labels == label)).any()
            ]
            assert np.ptp(means, axis=0).max() < 0.15
    plain = stats.center(points, batches)
    means = [plain[(batches == b) & (labels == 1)].mean(0) for b in range(3)]
    assert np.ptp(means, axis=0).max() > 0.5  # composition pulls types apart


def test_labels_that_the_reference_lacks_move_with_their_batch(shifted):
    points, batches, labels = shifted
    moved = stats.center(points, batches, labels=labels, reference=2)
    lacking = (batches == 0) & (labels == 0)
    others = (batches == 0) & (labels != 0)
    steps = (moved - points)[others].mean(0)
    np.testing.assert_allclose((moved - points)[lacking], np.tile(steps, (lacking.sum(), 1)))


def test_mutual_neighbours_against_a_loop(shifted):
    points, batches, labels = shifted
    k = 5
    moved = stats.meet_neighbors(points, batches, reference=0, n_neighbors=k, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(moved[batches == 0], points[batches == 0])
    fixed = points[batches == 0]
    for batch in (1, 2):
        own = points[batches == batch]
        distance = np.linalg.norm(own[:, None] - fixed[None], axis=2)
        to_fixed = np.argsort(distance, axis=1)[:, :k]
        to_own = np.argsort(distance, axis=0)[:k].T
        pairs = [(i, j) for i in range(len(own)) for j in to_fixed[i] if i in to_own[j]]
        step = np.mean([fixed[j] - own[i] for i, j in pairs], axis=0)
        np.testing.assert_allclose(moved[batches == batch], own + step, atol=1e-10)
    distance_between = lambda x: np.linalg.norm(
        x[(batches == 2) & (labels == 1)].mean(0) - x[(batches == 0) & (labels == 1)].mean(0)
    )
    assert distance_between(moved) < 0.3 * distance_between(points)


def test_harmony_is_harmonypy(shifted):
    harmonypy = pytest.importorskip("harmonypy")
    points, batches, _ = shifted
    points = points.astype(np.float32)
    seed = int(np.random.default_rng(3).integers(2**31))
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    found = stats.harmonise(points, batches, rng=np.random.default_rng(3))
    table = pd.DataFrame({"batch": batches.astype(str)})
    expected = harmonypy.run_harmony(points, table, "batch", random_state=seed, verbose=False).Z_corr
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == points.dtype
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_composition():
    share = stats.shares(np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, -1]))
    np.testing.assert_allclose(share, [[0.5, 0.5], [0, 1]])
    assert stats.total_variation(share[0], share[1]) == 0.5
    assert stats.total_variation(np.array([1.0, 0]), np.array([0, 1.0])) == 1
