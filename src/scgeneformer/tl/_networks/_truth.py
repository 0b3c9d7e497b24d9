"""The universe of an evaluation: pairs of genes that networks score, and which of them are edges."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scgeneformer import _keys as keys
from scgeneformer.evaluation import CandidatePairs

from ._genes import COLUMNS, edge_ends

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData


@dataclass(frozen=True)
class Universe:
    """Candidate pairs of genes, numbered by their place in `columns`.

    Attributes
    ----------
    columns
        Columns of `var` of the genes, (n_genes,).
    pairs
        The pairs and the true edges.
    n_truth
        Number of edges of the truth, repetitions and edges of a gene with itself aside.
    n_named
        Number of these between genes of `var`.
    """

    columns: np.ndarray
    pairs: CandidatePairs
    n_truth: int
    n_named: int

    def scores_of(self, matrix: sparse.csr_matrix) -> np.ndarray:
        """Weights of the pairs in a network, (n,); of unordered pairs the mean of both directions."""
        full = _as_dense(matrix, self.columns, self.columns)
        there = full[self.pairs.source, self.pairs.target]
        return there if self.pairs.directed else (there + full[self.pairs.target, self.pairs.source]) / 2


def find_universe(
    cells: AnnData,
    truth: pd.DataFrame,
    networks: Sequence[sparse.csr_matrix],
    *,
    tfs: Sequence[str] | None,
    directed: bool,
    gene_symbols: str | None,
) -> Universe:
    """Pairs that all `networks` score.

    Parameters
    ----------
    cells
        The cells.
    truth
        Edges, in columns ``source`` and ``target``.
    networks
        CSR (n_vars, n_vars).
    tfs
        Names of sources; by default those of the truth.
    directed
        Whether edges have a direction.
    gene_symbols
        Column of `var` with symbols.

    Raises
    ------
    KeyError
        If `truth` lacks a column.
    ValueError
        If no gene, or no pair, of `truth` is in the data, or there are no other pairs.
    """
    edges = edge_ends(truth, "truth")
    ends = np.stack([keys.gene_columns(cells, edges[name], gene_symbols) for name in COLUMNS], axis=1)
    named = (ends >= 0).all(axis=1)
    if not named.any():
        msg = (
            f"No edge of `truth` is between two genes of .var, whose names are such as {cells.var_names[0]!r}; `truth` "
            f"has {', '.join(map(repr, edges.to_numpy().ravel()[:2])) or 'no edges'}. Name genes by var_names, or set "
            "`gene_symbols=` to the column of their symbols."
        )
        raise ValueError(msg)
    n_truth, ends = len(edges), np.unique(ends[named], axis=0)
    is_edge = sparse.csr_matrix(
        (np.ones(len(ends), dtype=bool), (ends[:, 0], ends[:, 1])), shape=(cells.n_vars, cells.n_vars)
    )
    starts, targets = _ends(networks)
    sources = np.intersect1d(starts, _sources_of(cells, tfs, ends, gene_symbols))
    if not directed:
        sources = targets = np.intersect1d(np.unique(ends), np.intersect1d(starts, targets))
    columns = np.union1d(sources, targets)
    measured = np.all([~np.isnan(_as_dense(x, sources, targets)) for x in networks], axis=0)
    pairs = CandidatePairs.of_matrix(
        is_edge[sources][:, targets].toarray(),
        np.searchsorted(columns, sources),
        np.searchsorted(columns, targets),
        measured=measured,
        directed=directed,
    )
    if not pairs.is_edge.any() or pairs.is_edge.all():
        what = "none is" if not pairs.is_edge.any() else "all are"
        msg = (
            f"Of {len(pairs.is_edge)} pairs of genes with an edge in every network, {what} in `truth`, which has "
            f"{len(ends)} edges between genes of .var. Make a network of other genes: `sg.tl.network(adata, genes=..., "
            "tfs=...)`."
        )
        raise ValueError(msg)
    return Universe(columns, pairs, n_truth, len(ends))


def _sources_of(cells: AnnData, tfs: Sequence[str] | None, ends: np.ndarray, gene_symbols: str | None) -> np.ndarray:
    """Columns of `var` of the sources."""
    if tfs is None:
        return np.unique(ends[:, 0])
    columns = keys.gene_columns(cells, [tfs] if isinstance(tfs, str) else tfs, gene_symbols)
    if (columns < 0).all():
        msg = (
            "No gene of `tfs` is in .var. Name genes by var_names, or set `gene_symbols=` to the column of their "
            "symbols."
        )
        raise ValueError(msg)
    return np.unique(columns[columns >= 0])


def _ends(networks: Sequence[sparse.csr_matrix]) -> tuple[np.ndarray, np.ndarray]:
    """Genes with an edge from, and genes with an edge to, in every network."""
    sources = reduce(np.intersect1d, (np.flatnonzero(np.diff(x.indptr)) for x in networks))
    return sources, reduce(np.intersect1d, (np.unique(x.indices) for x in networks))


def _as_dense(matrix: sparse.csr_matrix, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Weights (S, G), NaN where no value is stored; stored zeros are edges."""
    part = matrix[sources][:, targets].tocoo()
    full = np.full(part.shape, np.nan, dtype=np.float32)
    full[part.row, part.col] = part.data
    return full
