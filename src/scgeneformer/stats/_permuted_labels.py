"""Shifts towards states with permuted labels: what any two groups of these cells would give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from ._results import GroupTest

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator


@dataclass(frozen=True)
class PermutedLabels:
    """Mean shifts of each group of values towards the target, and beyond that towards the source, with their tests.

    Attributes
    ----------
    shift, contrast
        float64 (n_groups,): towards the target; and that less the shift towards the source.
    of_shift, of_contrast
        Their tests against permuted labels.
    """

    shift: np.ndarray
    contrast: np.ndarray
    of_shift: GroupTest
    of_contrast: GroupTest


def permuted_labels(
    directions: np.ndarray,
    cells: np.ndarray,
    is_target: np.ndarray,
    *,
    blocks: np.ndarray | None = None,
    summary: Callable[..., np.ndarray] = np.mean,
    n_permutations: int = 500,
    rng: Generator,
) -> PermutedLabels:
    """Test shifts by permuting the labels of the cells that the states' centroids are made of.

    A shift is linear in the centroid at length 1, so that no perturbation has to be run again. The perturbed cells must not be among `cells`:
    given them, the labels of all others are exchangeable if the states do not differ, and the test holds its level.

    Parameters
    ----------
    directions
        Mean movement of each group (gene), float64 (n_groups, H): the embedding after less before, each at length 1. NaN where there is none.
    cells
        Embeddings of the cells of both states, float64 (n, H).
    is_target
        State of each, bool (n,).
    blocks
        Codes of donors, int (n,): labels are permuted within each.
    summary
        Centroid of some cells, called with ``axis=0``.
    n_permutations
        Number of permutations. p-values are of a normal distribution with the mean and standard deviation of these, as sums over many cells have
        one; so they may be smaller than ``1 / n_permutations``.
    rng
        Generator.

    Returns
    -------
    Shifts and tests, NaN for groups without a direction. Where permuting changes nothing, as with donors of one state each, scores are NaN.
    """
    observed = _shifts(directions, cells, is_target, summary)  # (2, n_groups)
    total, squares = np.zeros((2, *observed.shape))
    order = np.arange(len(is_target)) if blocks is None else np.argsort(blocks, kind="stable")
    limits = np.array([0, len(order)]) if blocks is None else np.r_[0, np.cumsum(np.bincount(blocks))]
    labels = is_target[order]
    for _ in range(n_permutations):
        dealt = np.concatenate([rng.permutation(labels[a:b]) for a, b in zip(limits[:-1], limits[1:], strict=True)])
        drawn = _shifts(directions, cells[order], dealt, summary) - observed  # around them, which loses no digits
        total += drawn
        squares += drawn**2
    mean = total / n_permutations
    sd = np.sqrt(np.maximum(squares / n_permutations - mean**2, 0) * n_permutations / max(n_permutations - 1, 1))
    scores = np.divide(-mean, sd, out=np.full_like(mean, np.nan), where=sd > 1e-12)
    tests = [GroupTest(score, 2 * ndtr(-np.abs(score))) for score in scores]
    return PermutedLabels(observed[0], observed[1], *tests)


def _shifts(
    directions: np.ndarray, cells: np.ndarray, is_target: np.ndarray, summary: Callable[..., np.ndarray]
) -> np.ndarray:
    """Towards the target, and beyond that towards the source, (2, n_groups)."""
    target, source = (summary(cells[is_target == state], axis=0) for state in (True, False))
    target, source = target / np.linalg.norm(target), source / np.linalg.norm(source)
    return np.stack([directions @ target, directions @ (target - source)])
