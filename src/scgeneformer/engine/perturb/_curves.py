"""Curves over ranks that are estimated everywhere and computed exactly where the estimate would miss."""

from __future__ import annotations

from bisect import insort
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.interpolate import PchipInterpolator

if TYPE_CHECKING:
    from collections.abc import Callable

    Exact = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of cells and ranks, each (n,), to (n, S)

MOST_POINTS = 33  # of a curve


class Curves:
    """The curve of moves of each cell towards each state: estimated at every rank, exact at some, drawn through these.

    What a state's curve is drawn through depends on that state alone, so that estimates do not depend on which others are asked for.

    Parameters
    ----------
    estimated
        float64 (B, L, S).
    first
        Rank of the first gene.
    n_genes
        Number of genes of each cell, (B,).
    """

    def __init__(self, estimated: np.ndarray, first: int, n_genes: np.ndarray) -> None:
        self.estimated = estimated
        self.low, self.high = np.full(len(n_genes), first), first + np.maximum(n_genes - 1, 0)
        n_cells, _, n_states = estimated.shape
        self.missing: dict[tuple[int, int], np.ndarray] = {}  # what the exact curve has more, (S,), by cell and rank
        self.points: list[list[list[int]]] = [[[] for _ in range(n_states)] for _ in range(n_cells)]

    def start(self) -> list[tuple[int, int, int]]:
        """Cells, states and ranks to begin with: the first gene, the middle one, the last."""
        n_cells, _, n_states = self.estimated.shape
        middle = (self.low + self.high) // 2
        ranks = np.stack([self.low, middle, self.high], axis=1)
        return [(c, s, int(rank)) for c in range(n_cells) for s in range(n_states) for rank in np.unique(ranks[c])]

    def compute(self, wanted: list[tuple[int, int, int]], exact: Exact) -> None:
        """Compute curves exactly at the ranks that are `wanted` for a cell and a state, and draw these through them from now on."""
        n_cells = len(self.estimated)
        new = sorted({(c, rank) for c, _, rank in wanted} - self.missing.keys())
        for start in range(0, len(new), n_cells):
            cells, cuts = np.array(new[start : start + n_cells], dtype=np.int64).T
            more = exact(cells, cuts) - self.estimated[cells, cuts]
            self.missing.update(zip(new[start : start + n_cells], more, strict=True))
        for c, s, rank in wanted:
            insort(self.points[c][s], rank)

    def refine(self, exact: Exact, allowed: np.ndarray) -> None:
        """Halve intervals in whose middle a curve is off by more than is `allowed`, (B, S)."""
        intervals = [
            (c, s, a, b)
            for c, of_cell in enumerate(self.points)
            for s, points in enumerate(of_cell)
            for a, b in pairwise(points)
        ]
        while intervals := [
            (c, s, a, b) for c, s, a, b in intervals if b - a > 1 and len(self.points[c][s]) < MOST_POINTS
        ]:
            expected = {(c, s): self._interpolant(c, s) for c, s, _, _ in intervals}
            self.compute([(c, s, (a + b) // 2) for c, s, a, b in intervals], exact)
            halves = []
            for c, s, a, b in intervals:
                middle = (a + b) // 2
                if abs(self.missing[c, middle][s] - expected[c, s](middle)) > allowed[c, s]:
                    halves += [(c, s, a, middle), (c, s, middle, b)]
            intervals = halves

    def drawn(self) -> np.ndarray:
        """The curves, (B, L, S)."""
        out = self.estimated.copy()
        at = np.arange(out.shape[1])
        for c, of_cell in enumerate(self.points):
            for s in range(len(of_cell)):
                out[c, :, s] += self._interpolant(c, s)(at)
        return out

    def _interpolant(self, c: int, s: int) -> Callable[[Any], Any]:
        """What the exact curve has more, by rank."""
        points = self.points[c][s]
        values = [self.missing[c, rank][s] for rank in points]
        return PchipInterpolator(points, values) if len(points) > 1 else lambda at: np.full(np.shape(at), values[0])
