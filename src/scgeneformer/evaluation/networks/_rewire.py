from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator

    from ._pairs import CandidatePairs

ROUNDS = 20  # in each, every edge is proposed for one swap


def rewire(pairs: CandidatePairs, *, rng: int | Generator | None = 0) -> np.ndarray:
    """Edges drawn at random so that every gene keeps its numbers of edges, among the same pairs.

    Pairs of edges (a, b) and (c, d) become (a, d) and (c, b), unless one of these is an edge already or no candidate.

    Parameters
    ----------
    pairs
        Candidate pairs and the true edges.
    rng
        Seed or generator.

    Returns
    -------
    Which pairs are edges now, bool (n,).

    Examples
    --------
    >>> is_edge = np.random.default_rng(0).random((20, 50)) < 0.1
    >>> pairs = sg.evaluation.CandidatePairs.of_matrix(is_edge, np.arange(20), np.arange(20, 70))
    >>> drawn = sg.evaluation.rewire(pairs)
    >>> degree = lambda edges: np.bincount(pairs.source[edges], minlength=20)
    >>> bool((degree(drawn) == degree(pairs.is_edge)).all())
    True
    """
    rng = np.random.default_rng(rng)
    size = 1 + max(pairs.source.max(initial=0), pairs.target.max(initial=0))
    place_of = np.full(size * size, -1)
    place_of[pairs.source * size + pairs.target] = np.arange(len(pairs.source))
    is_edge = pairs.is_edge.copy()
    places = np.flatnonzero(is_edge)
    for _ in range(ROUNDS):
        rng.shuffle(places)
        half = len(places) // 2
        a, b = pairs.source[places], pairs.target[places]
        if not pairs.directed:
            turned = rng.random(len(places)) < 0.5
            a, b = np.where(turned, b, a), np.where(turned, a, b)
        first, second = slice(half), slice(half, 2 * half)
        new = np.stack([_place(place_of, size, a[x], b[y], pairs) for x, y in ((first, second), (second, first))])
        allowed = (new >= 0).all(axis=0) & ~is_edge[new].any(axis=0)
        _, inverse, n_times = np.unique(new, return_inverse=True, return_counts=True)
        allowed &= (n_times[inverse].reshape(new.shape) == 1).all(axis=0)
        moved = np.flatnonzero(allowed)
        is_edge[places[moved]] = is_edge[places[half + moved]] = False
        is_edge[new[:, moved]] = True
        places = np.flatnonzero(is_edge)
    return is_edge


def _place(place_of: np.ndarray, size: int, a: np.ndarray, b: np.ndarray, pairs: CandidatePairs) -> np.ndarray:
    """Place of the pairs (a, b), -1 if they are not candidates."""
    return place_of[a * size + b] if pairs.directed else place_of[np.minimum(a, b) * size + np.maximum(a, b)]
