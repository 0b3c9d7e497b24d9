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
    """

    token_id: np.ndarray
    vocabulary: Vocabulary
    counts: Counts
    log_base: float | None
    max_length: int
    has_duplicates: bool

    @cached_property
    def reciprocals(self) -> np.ndarray:
        """Shape (n_tokens,): 1 / median, 0 for special tokens."""
        return np.nan_to_num(1.0 / self.vocabulary.medians, nan=0.0)

    @cached_property
    def weight(self) -> np.ndarray:
        """Shape (n_vars,): 1 / median of each gene, 0 where it has no token."""
        return np.where(self.token_id >= 0, self.reciprocals[self.token_id], 0.0)

    def eagerly(self, X: Any, tokens: np.ndarray, scale: np.ndarray, counts: np.ndarray | None) -> None:
        """Rank a matrix in memory, in threads, into `tokens`; and its values times `scale` into `counts`."""

        def rank(slab: tuple[int, Rows]) -> None:
            start, rows = slab
            block = slice(start, start + rows.shape[0])
            self.rank(rows, tokens[block], scale[block], None if counts is None else counts[block])

        for _ in in_order(rank, slabs(X)):
            pass  # raises errors of the threads

    def lazily(self, X: da.Array, scale: np.ndarray | None) -> tuple[da.Array, da.Array | None]:
        """Dask arrays of tokens and, with a `scale`, of values in the order of the tokens; each is computed from `X`."""
        import dask.array as da

        rows = X.chunks[0]
        scales = np.zeros(X.shape[0]) if scale is None else scale
        scales = da.from_array(scales[:, None], chunks=(rows, 1))

        def make(what: int, dtype: type) -> da.Array:
            return da.map_blocks(
                self._rank_block,
                X,
                scales,
                what=what,
                dtype=dtype,
                chunks=(rows, (self.max_length,)),
                meta=np.empty((0, 0), dtype),
            )

        return make(0, np.uint16), None if scale is None else make(1, np.float32)

    def _rank_block(self, block: Any, scale: np.ndarray, what: int) -> np.ndarray:
        rows = to_rows(block)
        tokens = np.zeros((rows.shape[0], self.max_length), np.uint16)
        counts = np.zeros(tokens.shape, np.float32) if what == 1 else None
        self.rank(rows, tokens, scale.ravel(), counts)
        return tokens if counts is None else counts

    def rank(self, rows: Rows, tokens: np.ndarray, scale: np.ndarray, counts: np.ndarray | None) -> None:
        """Rank one block into `tokens`, an array of zeros, and its values times `scale` into `counts`."""
        from ._kernels import look_up, rank_rows

        rows, token_id, weight = linearise(rows, self.counts, self.log_base), self.token_id, self.weight
        if self.has_duplicates:
            rows = _summed(rows, token_id, len(self.vocabulary))
            token_id, weight = np.arange(len(self.vocabulary), dtype=np.int32), self.reciprocals
        first = int(self.vocabulary.has_cls)
        eos = -1 if self.vocabulary.eos_id is None else self.vocabulary.eos_id
        tokens[:, :first] = self.vocabulary.cls_id or 0
        limit = self.max_length - 2 * first
        n_genes = np.empty(rows.shape[0], np.int64)
        rank_rows(rows.indptr, rows.indices, rows.data, token_id, weight, first, limit, eos, tokens, n_genes)
        for row in np.flatnonzero(n_genes < 0):
            ranked = _rank_slowly(rows, int(row), token_id, weight)[:limit]
            n_genes[row] = len(ranked)
            tokens[row, first : first + len(ranked)] = ranked
            tokens[row, first + len(ranked) : 2 * first + len(ranked)] = max(eos, 0)
        if counts is not None:
            look_up(rows.indptr, rows.indices, rows.data, token_id, scale, tokens, first, n_genes, counts)


def _summed(rows: Rows, token_id: np.ndarray, n_tokens: int) -> Rows:
    """Rows with one column for each token."""
    from ._kernels import sum_by_token

    indptr, indices = np.empty_like(rows.indptr), np.empty(len(rows.indices), np.int32)
    data = np.empty(len(rows.indices))
    sum_by_token(rows.indptr, rows.indices, rows.data, token_id, n_tokens, indptr, indices, data)
    return Rows(indptr, indices, data, (rows.shape[0], n_tokens))


def _rank_slowly(rows: Rows, row: int, token_id: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Ranked tokens of one row whose values are out of the range of the kernel's keys."""
    stored = slice(rows.indptr[row], rows.indptr[row + 1])
    genes, values = rows.indices[stored], rows.data[stored].astype(np.float64)
    expressed = (token_id[genes] >= 0) & (values > 0)
    genes, values = genes[expressed], values[expressed]
    rounded = ((values * weight[genes]).view(np.uint64) + _ROUND) >> _DROPPED_BITS
    order = np.lexsort((token_id[genes], -rounded.astype(np.int64)))
    return token_id[genes][order]
