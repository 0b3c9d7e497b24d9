"""Where perturbations move cells in the embedding, summed over cells: by it shifts towards any states follow without another run."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Sums = dict[int, tuple[int, np.ndarray]]  # number of movements, and their sum, float64 (H,)


@dataclass
class Directions:
    """Number and sum of movements u(after) - u(before) of each gene or set, and of each cell, u being the embedding of a cell at length 1.

    The change of the cosine to a state is the product of the movement with the state's centroid at length 1, so that the mean shift of a gene
    towards any state is the product with the gene's mean movement, and the mean shift of a cell that with the cell's.

    Parameters
    ----------
    axes
        Vectors of length 1 along which movements are kept, float64 (A, H); None to keep them whole.

    Attributes
    ----------
    of_genes
        By token of a gene or number of a set.
    of_cells
        By number of a cell.
    """

    axes: np.ndarray | None = None
    of_genes: Sums = field(default_factory=dict)
    of_cells: Sums = field(default_factory=dict)

    def project(self, movements: np.ndarray) -> np.ndarray:
        """Products of movements (B, H) with the axes, (B, A); the movements themselves without axes."""
        return movements if self.axes is None else movements @ self.axes.T

    def add(self, what: np.ndarray, cells: np.ndarray, movements: np.ndarray) -> None:
        """Add the movements of one batch: int64 (B,) both, and float64 (B, H), or their products with the axes (B, A)."""
        for sums, moved in ((self.of_genes, what), (self.of_cells, cells)):
            names, index, n = np.unique(moved, return_inverse=True, return_counts=True)
            total = np.zeros((len(names), movements.shape[1]))
            np.add.at(total, index, movements)
            _plus(sums, names, n, total)

    def merge(self, stored: dict[str, np.ndarray]) -> None:
        """Add what `stored` of others returned."""
        for sums, name in ((self.of_genes, "moved"), (self.of_cells, "moved_cells")):
            _plus(sums, *(stored[f"{name}_{field}"] for field in ("what", "n", "sum")))

    def stored(self) -> dict[str, np.ndarray]:
        """Arrays that tell all, ordered by gene or set, and by cell."""
        arrays: dict[str, np.ndarray] = {}
        for sums, name in ((self.of_genes, "moved"), (self.of_cells, "moved_cells")):
            names = sorted(sums)
            arrays |= {
                f"{name}_what": np.array(names, dtype=np.int64),
                f"{name}_n": np.array([sums[each][0] for each in names], dtype=np.int64),
                f"{name}_sum": np.array([sums[each][1] for each in names], dtype=np.float64),
            }
        return arrays


def _plus(sums: Sums, names: np.ndarray, n: np.ndarray, totals: np.ndarray) -> None:
    for name, count, total in zip(names.tolist(), n.tolist(), totals, strict=True):
        before = sums.get(name)
        sums[name] = (count, total) if before is None else (before[0] + count, before[1] + total)
