"""Medians of the genes of a new corpus: of non-zero counts per 10,000, streamed from one or more data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse

from scgeneformer._files import check_no_pipe
from scgeneformer._keys import read_frame

from ._inspect import Inspection, inspect
from ._matrix import Rows, as_rows, is_lazy, slabs, to_rows
from ._names import ENSEMBL_GENE, normalise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd

_VALUES_AT_A_TIME = 2**27  # one gigabyte of float64
_TARGET_SUM = 10_000.0
_VAR_NAMES = "var_names"
# searched in this order if var_names are ids
_SYMBOL_COLUMNS = ("gene_symbol", "gene_symbols", "gene_name", "gene_names", "feature_name", "symbol", "Symbol", "name")


@dataclass
class Source:
    """Data set of a corpus, opened when it is first used."""

    data: Any  # AnnData, or path of an h5ad file
    layer: str | None
    gene_ids: str | None
    total_counts: str | None

    @cached_property
    def adata(self) -> Any:
        if not isinstance(self.data, str | Path):
            return self.data
        import anndata

        check_no_pipe(Path(self.data))
        return anndata.read_h5ad(self.data, backed="r")

    def close(self) -> None:
        """Close the file, if it was opened here."""
        if isinstance(self.data, str | Path) and "adata" in self.__dict__:
            self.adata.file.close()

    @property
    def label(self) -> str:
        slot = ".X" if self.layer is None else f".layers[{self.layer!r}]"
        return f"{slot} of {self.data}" if isinstance(self.data, str | Path) else slot

    @cached_property
    def var(self) -> pd.DataFrame:
        return read_frame(self.adata.var)

    @cached_property
    def matrix(self) -> Any:
        if self.layer is None:
            return as_rows(self.adata.X, self.label)
        if self.layer not in self.adata.layers:
            msg = f"No layer {self.layer!r} in .layers, which has {list(self.adata.layers)}."
            raise KeyError(msg)
        return as_rows(self.adata.layers[self.layer], self.label)

    @cached_property
    def column(self) -> str:
        """Column with the largest share of Ensembl ids; `var_names` if no column has half."""
        var = self.var
        if self.gene_ids is not None:
            if self.gene_ids != _VAR_NAMES and self.gene_ids not in var:
                msg = f"No column {self.gene_ids!r} in .var, which has {list(var.columns)}."
                raise KeyError(msg)
            return self.gene_ids
        shares = {column: share_of_ids(self.names(column)) for column in (_VAR_NAMES, *var.columns)}
        best = max(shares, key=lambda column: shares[column])
        return best if shares[best] >= 0.5 else _VAR_NAMES

    def names(self, column: str) -> list[str]:
        values = self.var.index if column == _VAR_NAMES else self.var[column].astype(object)
        return [str(value) if isinstance(value, str) else "" for value in values]

    @cached_property
    def has_ids(self) -> bool:
        return share_of_ids(self.names(self.column)) >= 0.5

    @cached_property
    def ids(self) -> list[str]:
        """Id of each gene in the vocabulary; ``""`` for genes without an Ensembl id if others have one."""
        names = self.names(self.column)
        if not self.has_ids:
            return names
        return [normalise(name) if ENSEMBL_GENE.match(name.strip().upper()) else "" for name in names]

    @cached_property
    def symbols(self) -> list[str]:
        """Symbol of each gene, or ``""``."""
        if self.column != _VAR_NAMES:
            return self.names(_VAR_NAMES)
        columns = [column for column in _SYMBOL_COLUMNS if column in self.var]
        return self.names(columns[0]) if columns else [""] * self.adata.n_vars

    @cached_property
    def inspection(self) -> Inspection:
        """Checks and sums of the counts, computed once."""
        return inspect(self.matrix, np.full(self.adata.n_vars, -1, np.int32), slot=self.label)

    @cached_property
    def totals(self) -> np.ndarray:
        if self.total_counts is None:
            return self.inspection.totals
        if self.total_counts not in self.adata.obs:
            msg = f"No column {self.total_counts!r} in .obs."
            raise KeyError(msg)
        return read_frame(self.adata.obs, [self.total_counts])[self.total_counts].to_numpy(dtype=np.float64)

    def scaled(self, genes: dict[str, int]) -> Iterator[sparse.csc_array]:
        """Blocks of cells x `genes`, counts per 10,000, without zeros; columns that share an id are summed."""
        pairs = [(row, genes[gene]) for row, gene in enumerate(self.ids) if gene in genes]
        row, column = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        sum_by_gene = sparse.csr_array((np.ones(len(row)), (row, column)), shape=(len(self.ids), len(genes)))
        scale = np.divide(_TARGET_SUM, self.totals, out=np.zeros(len(self.totals)), where=self.totals > 0)
        for start, rows in self._blocks():
            block = (
                sparse.csr_array((rows.data.astype(np.float64), rows.indices, rows.indptr), shape=rows.shape)
                @ sum_by_gene
            )
            block = block.tocsr()
            block.data *= np.repeat(scale[start : start + block.shape[0]], np.diff(block.indptr))
            block.eliminate_zeros()
            yield block.tocsc()

    def _blocks(self) -> Iterator[tuple[int, Rows]]:
        if not is_lazy(self.matrix):
            _ = self.inspection  # checks the indices, even if `total_counts` are given
            yield from slabs(self.matrix, self.label)
            return
        start = 0
        for block in self.matrix.to_delayed().ravel():
            rows = to_rows(block.compute(), self.label)
            yield start, rows
            start += rows.shape[0]


def share_of_ids(names: list[str]) -> float:
    """Share of names that look like Ensembl gene ids."""
    return sum(bool(ENSEMBL_GENE.match(name.strip().upper())) for name in names) / max(1, len(names))


def corpus_medians(
    adatas: Any,
    *,
    layer: str | None,
    gene_ids: str | None,
    total_counts: str | None,
    min_cells: int,
    method: Literal["exact", "tdigest"],
) -> tuple[list[str], np.ndarray, dict[str, str], list[str]]:
    """Ids in order, their medians, aliases and symbols; see `Vocabulary.from_adata`."""
    several = isinstance(adatas, Sequence) and not isinstance(adatas, str)
    sources = [Source(data, layer, gene_ids, total_counts) for data in (adatas if several else [adatas])]
    try:
        return _medians(sources, min_cells, _exact if method == "exact" else _tdigest)
    finally:
        for source in sources:
            source.close()


def _medians(
    sources: list[Source], min_cells: int, estimate: Callable[..., np.ndarray]
) -> tuple[list[str], np.ndarray, dict[str, str], list[str]]:
    if len({source.has_ids for source in sources}) > 1:
        columns = [source.column for source in sources]
        msg = (
            f"Some data sets name genes by Ensembl ids and others do not (columns {columns}). Set `gene_ids=` to the "
            "column with these ids."
        )
        raise ValueError(msg)
    genes = sorted({gene for source in sources for gene in source.ids} - {""})
    n_cells = sum((_n_cells(source, genes) for source in sources), np.zeros(len(genes), np.int64))
    is_expressed = n_cells >= max(1, min_cells)
    if not is_expressed.any():
        msg = f"No gene is expressed in {max(1, min_cells)} or more cells."
        raise ValueError(msg)
    genes = [gene for gene, expressed in zip(genes, is_expressed, strict=True) if expressed]
    return genes, estimate(sources, genes, n_cells[is_expressed]), *_other_names(sources, genes)


def _n_cells(source: Source, genes: list[str]) -> np.ndarray:
    index = {gene: number for number, gene in enumerate(genes)}
    return sum((np.diff(block.indptr) for block in source.scaled(index)), np.zeros(len(genes), np.int64))


def _exact(sources: list[Source], genes: list[str], n_cells: np.ndarray) -> np.ndarray:
    """Medians of all values, of as many genes at a time as fit in memory."""
    medians = np.empty(len(genes))
    group = np.cumsum(n_cells) // _VALUES_AT_A_TIME
    for number in np.unique(group):
        members = np.flatnonzero(group == number)
        index = {genes[gene]: place for place, gene in enumerate(members)}
        ends = np.cumsum(n_cells[members])
        values, filled = np.empty(ends[-1]), ends - n_cells[members]
        for source in sources:
            for block in source.scaled(index):
                n = np.diff(block.indptr)
                values[np.repeat(filled - block.indptr[:-1], n) + np.arange(block.nnz)] = block.data
                filled = filled + n
        medians[members] = [np.median(part) for part in np.split(values, ends[:-1])]
    return medians


def _tdigest(sources: list[Source], genes: list[str], n_cells: np.ndarray) -> np.ndarray:
    """Medians estimated from a t-digest of each gene's values; `n_cells` is not used."""
    try:
        from crick import TDigest
    except ImportError as error:
        msg = "method='tdigest' needs crick: `pip install \"scgeneformer[tdigest]\"`, or use method='exact'."
        raise ImportError(msg) from error
    digests = [TDigest() for _ in genes]
    index = {gene: number for number, gene in enumerate(genes)}
    for source in sources:
        for block in source.scaled(index):
            for number in np.flatnonzero(np.diff(block.indptr)):
                digests[number].update(block.data[block.indptr[number] : block.indptr[number + 1]])
    return np.array([digest.quantile(0.5) for digest in digests])


def _other_names(sources: list[Source], genes: list[str]) -> tuple[dict[str, str], list[str]]:
    """Aliases, without those that two genes share; and the first symbol of each gene."""
    ids = set(genes)
    owners: dict[str, set[str]] = {}
    symbol_of: dict[str, str] = {}
    for source in sources:
        for gene, symbol in zip(source.ids, source.symbols, strict=True):
            if gene in ids and symbol and symbol != gene:
                owners.setdefault(symbol.strip().upper(), set()).add(gene)
                symbol_of.setdefault(gene, symbol)
    aliases = {symbol: next(iter(genes)) for symbol, genes in owners.items() if len(genes) == 1}
    return aliases, [symbol_of.get(gene, "") for gene in genes]
