"""Whether two states of cells are separated at all by their centroids, with which shifts are measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from ._folds import folds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator


def separation(
    cells: Any,
    is_target: np.ndarray,
    *,
    groups: np.ndarray | Sequence[object] | None = None,
    n_folds: int = 5,
    rng: int | Generator | None = 0,
) -> float:
    """Area under the ROC curve with which centroids of other cells separate the cells of two states.

    The score of a cell is its cosine similarity to the mean of the target less that to the mean of the other state, of cells in other folds.
    0.5 is chance; where states are not separated, shifts from one towards the other mean nothing.

    Parameters
    ----------
    cells
        Embeddings or expression of cells of shape (n, n_features), dense or sparse, without NaN.
    is_target
        Boolean array of shape (n,): the state of each.
    groups
        Group of each cell, such as its donor, which is then in one fold only.
    n_folds
        Number of folds; fewer where a state has fewer cells, or there are fewer groups.
    rng
        Seed or generator of the folds.

    Raises
    ------
    ValueError
        If a state has fewer than two cells, or with `groups` cells of fewer than two groups.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> is_target = np.arange(40) < 20
    >>> cells = rng.normal(size=(40, 5)) + 4 * is_target[:, None]
    >>> sg.evaluation.separation(cells, is_target) > 0.9
    True
    """
    from sklearn.metrics import roc_auc_score

    is_target = np.asarray(is_target, dtype=bool)
    values = sparse.csr_matrix(cells, dtype=np.float64) if sparse.issparse(cells) else np.asarray(cells, np.float64)
    units = len(is_target) if groups is None else len(np.unique(np.asarray(groups, dtype=str)))
    n_folds = min(n_folds, units, *(int(n) for n in np.bincount(is_target, minlength=2)))
    fold = folds(is_target.astype(np.int64), max(n_folds, 2), groups=groups, classes=["source", "target"], rng=rng)
    scores = np.empty(len(is_target))
    for number in np.unique(fold):
        left_out = fold == number
        towards, away = (_direction(values[~left_out & (is_target == state)]) for state in (True, False))
        scores[left_out] = values[left_out] @ (towards - away)
    return float(roc_auc_score(is_target, scores / np.maximum(_lengths(values), np.finfo(float).tiny)))


def _direction(values: Any) -> np.ndarray:
    """Mean of cells, of length 1."""
    mean = np.asarray(values.mean(axis=0)).ravel()
    return mean / max(np.linalg.norm(mean), np.finfo(float).tiny)


def _lengths(values: Any) -> np.ndarray:
    squares = values.multiply(values).sum(axis=1) if sparse.issparse(values) else (values**2).sum(axis=1)
    return np.sqrt(np.asarray(squares).ravel())
