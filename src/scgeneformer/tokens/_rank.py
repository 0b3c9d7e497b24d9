"""Rank the genes of each cell, one block of cells at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ._inspect import linearise
from ._matrix import Rows, slabs, to_rows
from ._threads import in_order

if TYPE_CHECKING:
    import dask.array as da

    from ._inspect import Counts
    from ._vocabulary import Vocabulary

# 41 of 52 mantissa bits decide, as in `_kernels`
_DROPPED_BITS = np.uint64(11)
_ROUND = np.uint64(1 << 10)


@dataclass(frozen=True)
class Ranker:
    """Ranks any block of rows of a matrix, independently of the other blocks.

    Attributes
    ----------
    token_id
        Shape (n_vars,), int32: token of each gene, -1 if it has none.
    vocabulary, counts, log_base, max_length
        As in `encode`.
    has_duplicates
        Whether a cell has several values for one token, which are summed.
    seed
        Draw the genes of cells that have too many, see `_draw`; ``None`` to take the highest.
    """

    token_id: np.ndarray
    vocabulary: Vocabulary
    counts: Counts
    log_base: float | None
    max_length: int
    has_duplicates: bool
    seed: int | None = None

    @cached_property
    def reciprocals(self) -> np.ndarray:
        """Shape (n_tokens,): 1 / median, 0 for special tokens."""
        return np.nan_to_num(1.0 / self.vocabulary.medians, nan=0.0)

    @cached_property
    def weight(self) -> np.ndarray:
        """Shape (n_vars,): 1 / median of each gene, 0 where it has no token."""
        return np.where(self.token_id >= 0, self.reciprocals[self.token_id], 0.0)

    def eagerly(self, X: Any, tokens: np.ndarray, of_cells: np.ndarray, counts: np.ndarray | None) -> None:
        """Rank a matrix in memory, in threads, into `tokens`; and its counts, or values, into `counts`; `of_cells` as for `rank`."""

        def rank(slab: tuple[int, Rows]) -> None:
            start, rows = slab
            block = slice(start, start + rows.shape[0])
            self.rank(rows, tokens[block], of_cells[block], None if counts is None else counts[block])

        for _ in in_order(rank, slabs(X)):
            pass  # raises errors of the threads

    def lazily(self, X: da.Array, of_cells: np.ndarray, *, with_counts: bool) -> tuple[da.Array, da.Array | None]:
        """Dask arrays of tokens and, on request, of counts or values in their order; each is computed from `X`."""
        import dask.array as da

        rows = X.chunks[0]
        stored = da.from_array(of_cells, chunks=(rows, of_cells.shape[1]))

        def make(what: int, dtype: type) -> da.Array:
            return da.map_blocks(
                self._rank_block,
                X,
                stored,
                what=what,
                dtype=dtype,
                chunks=(rows, (self.max_length,)),
                meta=np.empty((0, 0), dtype),
            )

        return make(0, np.uint16), make(1, np.float32) if with_counts else None

    def _rank_block(self, block: Any, of_cells: np.ndarray, what: int) -> np.ndarray:
        rows = to_rows(block)
        tokens = np.zeros((rows.shape[0], self.max_length), np.uint16)
        counts = np.zeros(tokens.shape, np.float32) if what == 1 else None
        self.rank(rows, tokens, of_cells, counts)
        return tokens if counts is None else counts

    def rank(self, rows: Rows, tokens: np.ndarray, of_cells: np.ndarray, counts: np.ndarray | None) -> None:
        """Rank one block.

        Parameters
        ----------
        rows
            n rows of the matrix.
        tokens
            Zeros, uint16 (n, L), that become tokens.
        of_cells
            float64 (n, 3): what counts are multiplied by, the logarithm of the depth, and the number of each row in the whole matrix.
        counts
            Zeros, float32 (n, L), that become counts times the first column. If the vocabulary has values, they become values: log1p of that,
            and the second column at ``<cls>``.
        """
        from ._kernels import look_up, rank_rows

        rows, token_id, weight = linearise(rows, self.counts, self.log_base), self.token_id, self.weight
        if self.has_duplicates:
            rows = _summed(rows, token_id, len(self.vocabulary))
            token_id, weight = np.arange(len(self.vocabulary), dtype=np.int32), self.reciprocals
        first = int(self.vocabulary.has_cls)
        eos = -1 if self.vocabulary.eos_id is None else self.vocabulary.eos_id
        tokens[:, :first] = self.vocabulary.cls_id or 0
        limit = self.max_length - self.vocabulary.n_enclosing
        scale, depth, numbers = of_cells.T
        n_genes = np.empty(rows.shape[0], np.int64)
        rank_rows(rows.indptr, rows.indices, rows.data, token_id, weight, first, limit, eos, tokens, n_genes)
        for row in np.flatnonzero(n_genes < 0):
            ranked = _rank_slowly(rows, int(row), token_id, weight)[0][:limit]
            n_genes[row] = len(ranked)
            tokens[row, first : first + len(ranked)] = ranked
            tokens[row, first + len(ranked) : self.vocabulary.n_enclosing + len(ranked)] = max(eos, 0)
        if self.seed is not None:
            _draw(rows, tokens, self, token_id, scale, numbers)
        if counts is not None:
            look_up(rows.indptr, rows.indices, rows.data, token_id, scale.copy(), tokens, first, n_genes, counts)
        if counts is not None and self.vocabulary.values:
            np.log1p(counts, out=counts)
            counts[:, 0] = depth


def _summed(rows: Rows, token_id: np.ndarray, n_tokens: int) -> Rows:
    """Rows with one column for each token."""
    from ._kernels import sum_by_token

    indptr, indices = np.empty_like(rows.indptr), np.empty(len(rows.indices), np.int32)
    data = np.empty(len(rows.indices))
    sum_by_token(rows.indptr, rows.indices, rows.data, token_id, n_tokens, indptr, indices, data)
    return Rows(indptr, indices, data, (rows.shape[0], n_tokens))


def _rank_slowly(rows: Rows, row: int, token_id: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranked tokens of one row and their counts, even where values are out of the range of the kernel's keys."""
    stored = slice(rows.indptr[row], rows.indptr[row + 1])
    genes, values = rows.indices[stored], rows.data[stored].astype(np.float64)
    expressed = (token_id[genes] >= 0) & (values > 0)
    genes, values = genes[expressed], values[expressed]
    rounded = ((values * weight[genes]).view(np.uint64) + _ROUND) >> _DROPPED_BITS
    order = np.lexsort((token_id[genes], -rounded.astype(np.int64)))
    return token_id[genes][order], values[order]


def _draw(
    rows: Rows, tokens: np.ndarray, ranker: Ranker, token_id: np.ndarray, scale: np.ndarray, numbers: np.ndarray
) -> None:
    """For rows with more genes than there is room for, put a sample of the genes into `tokens`, in the order of their ranks.

    Genes are drawn without replacement in proportion to their values, as those with the highest value over an exponential variate
    (Efraimidis & Spirakis 2006). Variates depend on the seed, the number of the row and the token alone.
    """
    first, limit = int(ranker.vocabulary.has_cls), ranker.max_length - ranker.vocabulary.n_enclosing
    for row in np.flatnonzero(np.diff(rows.indptr) > limit):
        ranked, counts = _rank_slowly(rows, int(row), token_id, np.ones(len(token_id)))
        if len(ranked) > limit:
            rng = np.random.Generator(np.random.Philox(key=ranker.seed, counter=[0, 0, 0, int(numbers[row])]))
            keys = np.log1p(counts * scale[row]) / rng.exponential(size=len(ranker.vocabulary))[ranked]
            tokens[row, first : first + limit] = ranked[np.sort(np.argsort(-keys)[:limit])]
