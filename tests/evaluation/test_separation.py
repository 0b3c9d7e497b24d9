"""Separation of states by centroids of other cells: a slow loop, chance, and donors that are not states."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

from scgeneformer import evaluation


def cells_of(n: int, distance: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    is_target = np.arange(n) % 2 == 0
    return rng.normal(size=(n, 6)) + 1 + distance * is_target[:, None] * np.eye(6)[0], is_target


def test_equals_a_loop():
    cells, is_target = cells_of(23, 2.0)
    fold = evaluation.folds(is_target.astype(int), 5, rng=3)
    scores = []
    for i, x in enumerate(cells):
        others = fold != fold[i]
        means = [cells[others & (is_target == state)].mean(0) for state in (True, False)]
        near, far = (x @ m / np.linalg.norm(x) / np.linalg.norm(m) for m in means)
        scores.append(near - far)
    expected = roc_auc_score(is_target, scores)
    assert evaluation.separation(cells, is_target, rng=3) == pytest.approx(expected)
    assert evaluation.separation(sparse.csr_matrix(cells), is_target, rng=3) == pytest.approx(expected)


def test_chance_is_a_half_and_distance_is_more():
    chance = [evaluation.separation(*cells_of(40, 0.0, seed)) for seed in range(40)]
    assert abs(np.mean(chance) - 0.5) < 0.05
    assert evaluation.separation(*cells_of(40, 5.0)) > 0.95


def test_donors_are_held_out():
    """Each donor has its own position and one state: cells are separated by donor, held-out donors are not separated."""
    donor, of_cells, of_donors = np.repeat(np.arange(10), 20), [], []
    is_target = donor % 2 == 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        cells = rng.normal(size=(10, 30))[donor] + 0.1 * rng.normal(size=(200, 30))
        of_cells.append(evaluation.separation(cells, is_target))
        of_donors.append(evaluation.separation(cells, is_target, groups=donor))
    assert min(of_cells) > 0.9
    assert np.mean(of_donors) < 0.6


def test_few_cells_take_fewer_folds_and_one_cell_none():
    cells, is_target = cells_of(5, 9.0)
    assert 0 <= evaluation.separation(cells, is_target) <= 1
    with pytest.raises(ValueError, match="target"):
        evaluation.separation(cells, np.arange(5) == 0)
