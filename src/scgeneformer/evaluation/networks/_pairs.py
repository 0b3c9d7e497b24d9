from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class CandidatePairs:
    """The pairs of genes among which edges are sought: the universe of an evaluation.

    Attributes
    ----------
    source
        First gene of each pair, an integer from 0 on, shape (n,); of unordered pairs the smaller one.
    target
        Second gene of each pair, shape (n,), another one than the first.
    is_edge
        Whether the pair is an edge of the true network, bool (n,).
    directed
        Whether (a, b) and (b, a) are two pairs.

    Examples
    --------
    >>> is_edge = np.zeros((2, 4), dtype=bool)
    >>> is_edge[0, 2] = is_edge[1, 3] = True
    >>> pairs = sg.evaluation.CandidatePairs.of_matrix(is_edge, sources=[0, 1], targets=[0, 1, 2, 3])
    >>> len(pairs.source), pairs.base_rate
    (6, 0.3333333333333333)
    """

    source: np.ndarray
    target: np.ndarray
    is_edge: np.ndarray
    directed: bool = True

    @classmethod
    def of_matrix(
        cls,
        is_edge: np.ndarray,
        sources: np.ndarray | list[int],
        targets: np.ndarray | list[int],
        *,
        measured: np.ndarray | None = None,
        directed: bool = True,
    ) -> CandidatePairs:
        """Pairs of all sources with all targets but themselves.

        Parameters
        ----------
        is_edge
            Boolean array of shape (S, G).
        sources, targets
            Genes of its rows and columns. They must be the same if not `directed`.
        measured
            Leave out pairs where this is False, (S, G).
        directed
            False takes each unordered pair once, which is an edge if it is one in either direction.
        """
        sources, targets = np.asarray(sources), np.asarray(targets)
        candidate = sources[:, None] != targets
        if measured is not None:
            candidate &= measured
        if not directed:
            is_edge = is_edge | is_edge.T
            candidate = np.triu(candidate & candidate.T)
        rows, columns = np.nonzero(candidate)
        return cls(sources[rows], targets[columns], is_edge[rows, columns], directed)

    @property
    def base_rate(self) -> float:
        """Fraction of the pairs that are edges: the precision of a coin."""
        return float(self.is_edge.mean())

    def where(self, chosen: np.ndarray) -> CandidatePairs:
        """The pairs where `chosen`, bool (n,), is True."""
        return replace(self, source=self.source[chosen], target=self.target[chosen], is_edge=self.is_edge[chosen])

    def of_gene(self, gene: int) -> np.ndarray:
        """Which pairs have this source or, of unordered pairs, this gene, bool (n,)."""
        return self.source == gene if self.directed else (self.source == gene) | (self.target == gene)

    def genes(self) -> np.ndarray:
        """Genes by which pairs are grouped: sources or, of unordered pairs, all."""
        return np.unique(self.source if self.directed else np.concatenate([self.source, self.target]))

    def weights(self, n_times: np.ndarray) -> np.ndarray:
        """How often each pair occurs if genes were drawn `n_times`, (n_genes,) by gene, (n,)."""
        return n_times[self.source] if self.directed else n_times[self.source] * n_times[self.target]
