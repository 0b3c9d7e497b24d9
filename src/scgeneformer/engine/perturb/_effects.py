"""Effects of perturbations on single genes, summed over cells."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

_MOST_PENDING = 2**22  # pairs that are kept apart before they are added up


@dataclass
class GeneEffects:
    """Number, sum and sum of squares of cosines of each pair of what was perturbed and a gene that was not.

    Parameters
    ----------
    n_what, n_tokens
        How many things may be perturbed, and how many tokens there are.
    """

    n_what: int
    n_tokens: int
    sums: list[sparse.csr_array] = field(default_factory=list)
    pending: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    n_pending: int = 0

    def add(self, what: np.ndarray, affected: np.ndarray, cosines: np.ndarray) -> None:
        """Add what was measured in one batch: int64 (n,), int64 (n,) and float64 (n,)."""
        self.pending.append((what, affected, cosines))
        self.n_pending += len(what)
        if self.n_pending > _MOST_PENDING:
            self._add_up()

    def merge(self, stored: dict[str, np.ndarray]) -> None:
        """Add what `stored` of others returned."""
        at = stored["effect_what"], stored["effect_on"]
        self._plus(at, (stored["effect_n"], stored["effect_sum"], stored["effect_squares"]))

    def stored(self) -> dict[str, np.ndarray]:
        """Arrays that tell all, ordered by pair."""
        self._add_up()
        n, total, squares = self.sums or (sparse.csr_array((self.n_what, self.n_tokens)) for _ in range(3))
        rows = np.repeat(np.arange(self.n_what), np.diff(n.indptr))
        return {
            "effect_what": rows,
            "effect_on": n.indices.astype(np.int64),
            "effect_n": n.data,
            "effect_sum": total.data,
            "effect_squares": squares.data,
        }

    def _add_up(self) -> None:
        if self.pending:
            what, affected, cosines = (np.concatenate(parts) for parts in zip(*self.pending, strict=True))
            self._plus((what, affected), (np.ones(len(what)), cosines, cosines**2))
        self.pending, self.n_pending = [], 0

    def _plus(self, at: tuple[np.ndarray, np.ndarray], values: tuple[np.ndarray, ...]) -> None:
        """The three matrices keep one sparsity: a sum of cosines that is exactly 0 is not dropped, because it is stored in COO order."""
        shape = self.n_what, self.n_tokens
        old = [] if not self.sums else [m.tocoo() for m in self.sums]
        rows = np.concatenate([at[0], *([old[0].row] if old else [])])
        columns = np.concatenate([at[1], *([old[0].col] if old else [])])
        self.sums = []
        for i, new in enumerate(values):
            data = np.concatenate([new, *([old[i].data] if old else [])]).astype(np.float64)
            added = sparse.coo_array((data, (rows, columns)), shape=shape).tocsr()  # sums duplicates, keeps zeros
            added.sort_indices()
            self.sums.append(added)
