"""Where perturbations move cells in the embedding, summed over cells: by it shifts towards any states follow without another run."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Directions:
    """Number and sum of movements u(after) - u(before) of each gene or set, u being the embedding of a cell at length 1.

    The change of the cosine to a state is the product of the movement with the state's centroid at length 1, so that the mean shift of a gene
    towards any state is the product with the gene's mean movement.

    Attributes
    ----------
    sums
        By token of a gene or number of a set: the number of movements, and their sum, float64 (H,).
    """

    sums: dict[int, tuple[int, np.ndarray]] = field(default_factory=dict)

    def add(self, what: np.ndarray, movements: np.ndarray) -> None:
        """Add the movements of one batch: int64 (B,) and float64 (B, H)."""
        names, index, n = np.unique(what, return_inverse=True, return_counts=True)
        total = np.zeros((len(names), movements.shape[1]))
        np.add.at(total, index, movements)
        self._plus(names, n, total)

    def merge(self, stored: dict[str, np.ndarray]) -> None:
        """Add what `stored` of others returned."""
        self._plus(stored["moved_what"], stored["moved_n"], stored["moved_sum"])

    def stored(self) -> dict[str, np.ndarray]:
        """Arrays that tell all, ordered by gene or set."""
        names = sorted(self.sums)
        return {
            "moved_what": np.array(names, dtype=np.int64),
            "moved_n": np.array([self.sums[name][0] for name in names], dtype=np.int64),
            "moved_sum": np.array([self.sums[name][1] for name in names], dtype=np.float64),
        }

    def _plus(self, names: np.ndarray, n: np.ndarray, totals: np.ndarray) -> None:
        for name, count, total in zip(names.tolist(), n.tolist(), totals, strict=True):
            before = self.sums.get(name)
            self.sums[name] = (count, total) if before is None else (before[0] + count, before[1] + total)
