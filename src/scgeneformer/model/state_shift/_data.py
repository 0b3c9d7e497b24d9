"""What `StateShift` reads of an AnnData: counts of genes or an embedding, and labels; checked before anything is done with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scgeneformer._slots import read_embedding
from scgeneformer.model.data._gene_labels import few

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def read_labels(adata: AnnData, key: str, argument: str) -> pd.Series:
    """A column of ``.obs`` without missing values.

    Raises
    ------
    KeyError
        If there is none.
    ValueError
        If values are missing.
    """
    if key not in adata.obs:
        msg = f"No column {key!r} in .obs, which has {list(adata.obs)}. Set {argument}= to one of them."
        raise KeyError(msg)
    labels = adata.obs[key]
    if labels.isna().any():
        msg = f"{int(labels.isna().sum())} cells have no value in .obs[{key!r}]. Remove them: `adata = adata[adata.obs[{key!r}].notna()].copy()`."
        raise ValueError(msg)
    return labels


def check_labels(labels: pd.Series, key: str) -> None:
    """Raise if offsets of labels cannot be learned.

    Raises
    ------
    ValueError
        If there are fewer than two labels, or one has fewer than two cells.
    """
    n_cells = labels.astype("category").value_counts()
    empty, single = n_cells.index[n_cells == 0], n_cells.index[n_cells == 1]
    if (n_cells > 0).sum() < 2:
        names = ", ".join(map(repr, n_cells.index[n_cells > 0])) or "none"
        msg = f".obs[{key!r}] has {names}. Offsets need two labels or more: concatenate several data sets, and set labels_key= to the column that distinguishes them."
        raise ValueError(msg)
    if len(empty):
        msg = f".obs[{key!r}] has categories without cells: {few(empty)}. Run `adata.obs[{key!r}] = adata.obs[{key!r}].cat.remove_unused_categories()`."
        raise ValueError(msg)
    if len(single):
        msg = f"Labels of .obs[{key!r}] with one cell: {few(single)}. An offset needs two cells or more: remove or merge these labels."
        raise ValueError(msg)


def read_counts(adata: AnnData, layer: str | None) -> Any:
    """Counts of genes, in memory, dense or sparse (n_obs, n_vars).

    Raises
    ------
    KeyError
        If the layer is missing.
    ValueError
        If values are not counts, or genes have the same name.
    """
    slot = ".X" if layer is None else f".layers[{layer!r}]"
    if layer is not None and layer not in adata.layers:
        msg = f"No {slot}; there are {list(adata.layers)}. Set layer= to the layer with counts."
        raise KeyError(msg)
    values = adata.X if layer is None else adata.layers[layer]
    if not (isinstance(values, np.ndarray) or sparse.issparse(values)):
        msg = f"{slot} is not in memory, or empty. Read the data with `adata.to_memory()`, or set layer= to a layer with counts."
        raise ValueError(msg)
    numbers = values.data if sparse.issparse(values) else values
    if not np.isfinite(numbers).all() or (numbers < 0).any() or (numbers != np.floor(numbers)).any():
        msg = f"{slot} has values that are not counts (negative, NaN or fractions). Set layer= to the layer with raw counts."
        raise ValueError(msg)
    if not adata.var_names.is_unique:
        msg = "Genes in .var_names have the same name. Run `adata.var_names_make_unique()`."
        raise ValueError(msg)
    return values


def read_placed(adata: AnnData, key: str) -> np.ndarray:
    """An embedding in which every cell has a place, float32 (n_obs, width).

    Raises
    ------
    KeyError
        If there is none.
    ValueError
        If it is not a matrix of numbers, or cells have no place in it.
    """
    values = read_embedding(adata, key)
    missing = ~np.isfinite(values).all(axis=1)
    if missing.any():
        msg = (
            f"{int(missing.sum())} cells have NaN in .obsm[{key!r}]. Remove them: "
            f"`adata = adata[np.isfinite(adata.obsm[{key!r}]).all(axis=1)].copy()`."
        )
        raise ValueError(msg)
    return values.astype(np.float32)


def aligned(values: Any, genes: pd.Index, wanted: np.ndarray) -> Any:
    """Columns of `values` in the order of the `wanted` genes, 0 for those that it lacks, CSR (n_obs, n_wanted).

    Raises
    ------
    ValueError
        If it has none of them.
    """
    position = genes.get_indexer(wanted)
    present = np.flatnonzero(position >= 0)
    if not len(present):
        msg = (
            f"The query has none of the {len(wanted)} genes of this model, such as {few(wanted)}, in .var_names, but {few(genes)}. "
            "Name the genes of the query as those of the training data."
        )
        raise ValueError(msg)
    gather = sparse.csr_matrix((np.ones(len(present)), (position[present], present)), shape=(len(genes), len(wanted)))
    return sparse.csr_matrix(values) @ gather
