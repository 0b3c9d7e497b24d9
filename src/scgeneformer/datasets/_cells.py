"""Cells from public files: converted once, checked, and kept as ``.h5ad``."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from scgeneformer import _files
from scgeneformer.hub._vocabularies import names_of_genes

from ._fetch import cache, fetch, find

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ._fetch import DataFile

IDS = "ensembl_id"


@dataclass(frozen=True)
class CellSource:
    """Where cells come from, and what they must be.

    Attributes
    ----------
    path
        Place of the converted cells in the folder ``settings.data`` and in the cache; None to convert them each time.
    originals
        Public files.
    convert
        Makes an AnnData of raw counts of the originals' paths.
    columns
        Columns of ``.obs``, and what the source calls them.
    n_cells, n_genes, n_counts
        Size and total of the counts; None where it is not recorded.
    values
        New values by those in the source, for some of the columns.
    """

    path: str | None
    originals: tuple[DataFile, ...]
    convert: Callable[..., ad.AnnData]
    columns: Mapping[str, str]
    n_cells: int
    n_genes: int | None = None
    n_counts: int | None = None
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def load(self) -> ad.AnnData:
        """The cells, from `settings.data`, the cache or the originals, see :func:`scgeneformer.datasets.kang`."""
        path = self.path and (find(self.path) or cache(self.path))
        if path and path.is_file():
            adata = read(path)
            self._check(adata, f"{path} holds", "Remove it: the cells are then made again from the public files.")
        else:
            adata = self.convert(*map(fetch, self.originals))
            if IDS not in adata.var:
                adata.var[IDS] = ensembl_ids(adata.var_names)
            urls = ", ".join(file.url for file in self.originals)
            self._check(
                adata, f"What was read from {urls} has", "Please report this: the file or its reader has changed."
            )
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                _files.write(adata, path)
        return self._named(adata)

    def _check(self, adata: ad.AnnData, what: str, cure: str) -> None:
        found = (*adata.shape, round(adata.X.sum(dtype=np.float64)))
        expected = (self.n_cells, self.n_genes, self.n_counts)
        if any(e not in (None, f) for e, f in zip(expected, found, strict=True)):
            words = [f"{n or 'any'} {unit}" for n, unit in zip(expected, ("cells", "genes", "counts"), strict=True)]
            msg = f"{what} {found[0]} cells, {found[1]} genes and {found[2]} counts, where {', '.join(words)} are expected. {cure}"
            raise ValueError(msg)

    def _named(self, adata: ad.AnnData) -> ad.AnnData:
        """What the docstring of the data set promises, and no more."""
        obs = pd.DataFrame(
            {name: adata.obs[theirs].astype("category") for name, theirs in self.columns.items()}, adata.obs_names
        )
        for column, values in self.values.items():
            obs[column] = pd.Categorical([values.get(value, value) for value in obs[column].astype(str)])
        ids = adata.var[[IDS]].astype(str)
        counts = sparse.csr_matrix(adata.X, dtype=np.float32)
        return ad.AnnData(counts, obs=obs, var=ids.where(ids[IDS].str.startswith("ENSG"), ""), obsm=dict(adata.obsm))


def read(path: Path) -> ad.AnnData:
    """Read an ``.h5ad``, of older versions of anndata too.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ad.OldFormatWarning)
        try:
            return ad.read_h5ad(path)
        except (OSError, KeyError) as error:
            msg = f"{path} is not a readable .h5ad file: {error}. Remove it, to have it made or downloaded again."
            raise ValueError(msg) from error


def ensembl_ids(genes: pd.Index) -> np.ndarray:
    """Ensembl ids of symbols by the official V2 dictionaries, or the bundled vocabulary where these are not available; empty if unknown."""
    vocabulary = names_of_genes()
    tokens = vocabulary.tokens_of(genes.astype(str).tolist())
    return np.where(tokens >= 0, vocabulary.ids[tokens], "").astype(object)


def counts_of_normalised(values: sparse.csr_matrix) -> sparse.csr_matrix:
    """Counts of cells whose values are proportional to counts and whose smallest count is 1.

    Raises
    ------
    ValueError
        If they are not multiples of the smallest value in each cell.
    """
    least = np.minimum.reduceat(values.data, values.indptr[:-1])
    counts = values.multiply(1 / least[:, None]).tocsr()
    rounded = counts.rint()
    if abs(counts - rounded).max() > 0.05:
        msg = "The values are not multiples of the smallest value in each cell: they are not normalised counts."
        raise ValueError(msg)
    return rounded
