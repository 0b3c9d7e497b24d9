from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator

    from ._pairs import CandidatePairs


def degree_of_other_half(pairs: CandidatePairs, *, rng: int | Generator | None = 0) -> np.ndarray:
    """Score of pairs by how many edges their genes have among other pairs, and nothing else.

    Pairs are divided into two halves at random. The score of a pair is the sum of the logarithms of 1 + the numbers of edges of its source and of its
    target in the half that it is not in.

    Parameters
    ----------
    pairs
        Candidate pairs and the true edges.
    rng
        Seed or generator.

    Returns
    -------
    Shape (n,).

    Examples
    --------
    >>> is_edge = np.zeros((4, 30), dtype=bool)
    >>> is_edge[0, :20] = True
    >>> pairs = sg.evaluation.CandidatePairs.of_matrix(is_edge, np.arange(4), np.arange(4, 34))
    >>> scores = sg.evaluation.degree_of_other_half(pairs)
    >>> bool(scores[pairs.source == 0].min() > scores[pairs.source == 1].max())
    True
    """
    half = np.random.default_rng(rng).random(len(pairs.source)) < 0.5
    size = 1 + max(pairs.source.max(initial=0), pairs.target.max(initial=0))
    scores = np.zeros(len(pairs.source))
    for inside in (half, ~half):
        edges = pairs.is_edge & ~inside
        of_source, of_target = (np.bincount(genes[edges], minlength=size) for genes in (pairs.source, pairs.target))
        if not pairs.directed:
            of_source = of_target = of_source + of_target
        scores[inside] = np.log1p(of_source[pairs.source[inside]]) + np.log1p(of_target[pairs.target[inside]])
    return scores
