"""``get.effects``: effects of one perturbation on other genes as a tidy data frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgeneformer import _keys
from scgeneformer._arguments import checked

from ._names import insert_names

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from anndata import AnnData
    from mudata import MuData


@checked
def effects(
    adata: AnnData | MuData,
    perturbed: str,
    *,
    key: str = _keys.SHIFT,
    n_top: int | None = None,
    gene_symbols: str | None = None,
    mod: str = "rna",
) -> pd.DataFrame:
    """Genes affected by one perturbed gene or set, most affected first.

    Parameters
    ----------
    adata
        Annotated data with effects on genes from :func:`~scgeneformer.tl.perturb`: ``.varp[key]`` for perturbed genes,
        ``.varm[f"{key}_sets"]`` for sets.
    perturbed
        The perturbed gene, by its name in ``var_names`` or its symbol, or a set.
    key
        Slot of the perturbation.
    n_top
        Maximum number of rows.
    gene_symbols
        Column of ``.var`` with symbols. Defaults to that of :func:`shifts`.
    mod
        Modality of a MuData.

    Returns
    -------
    DataFrame with a new index, one row per gene in a perturbed cell, and the columns ``names`` (of
    ``var_names``), ``symbol`` (if known), ``n_cells``, ``cosine`` and ``sd``: mean and standard deviation (ddof 0) over cells of
    the cosine similarity between the states of the gene before and after the perturbation; 1 means no effect. Sorted by ascending ``cosine``. This is the
    official ``aggregate_gene_shifts`` table without its row for the whole cell, which :func:`shifts` gives.

    Raises
    ------
    KeyError
        If no effects on genes were recorded, `perturbed` has none, or there is no column `gene_symbols`.
    ValueError
        If `perturbed` is the symbol of several perturbed genes.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.perturb(adata, genes=["STAT1"], effects=True, max_cells=8)
    >>> affected = sg.get.effects(adata, "STAT1", n_top=10)
    >>> affected[["n_cells", "cosine", "sd"]].shape
    (10, 3)
    """
    data = _keys.as_adata(adata, mod)
    symbols = _keys.symbols(data, gene_symbols)
    recorded = _effects_of_gene(data, key, perturbed, symbols)
    if recorded is None and _keys.has_sets(data, data.varm, key):
        recorded = _effects_of_set(data, _keys.sets_key(key), perturbed)
    if recorded is None:
        msg = (
            f"No effects of {perturbed!r} on genes, neither as a gene in .varp[{key!r}] nor as a set in "
            f".varm[{_keys.sets_key(key)!r}]. Run `sg.tl.perturb` so that it records effects on genes."
        )
        raise KeyError(msg)
    affected, columns = recorded
    frame = pd.DataFrame(columns)
    insert_names(frame, data.var_names.to_numpy()[affected], None if symbols is None else symbols[affected])
    return frame.sort_values("cosine", kind="stable")[:n_top].reset_index(drop=True)


def _effects_of_gene(
    data: AnnData, key: str, perturbed: str, symbols: np.ndarray | None
) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    """Affected genes and columns from the row of `perturbed` in ``.varp``, None if it has none."""
    slots = _keys.effects_keys(key)
    if slots[0] not in data.varp:
        return None
    mean, n, sd = (_slot(data.varp, "varp", slot).tocsr() for slot in slots)
    named = data.var_names.to_numpy() == perturbed
    if symbols is not None and not named.any():
        named = symbols == perturbed
    rows = np.flatnonzero(named & (np.diff(mean.indptr) > 0))
    if len(rows) == 0:
        return None
    if len(rows) > 1:
        msg = f"{perturbed!r} names {len(rows)} perturbed genes: {data.var_names[rows].tolist()}. Name one of them."
        raise ValueError(msg)
    affected = np.sort(mean.indices[mean.indptr[rows[0]] : mean.indptr[rows[0] + 1]])
    return affected, {
        name: matrix[rows].toarray()[0, affected] for name, matrix in (("n_cells", n), ("cosine", mean), ("sd", sd))
    }


def _effects_of_set(data: AnnData, key: str, perturbed: str) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    """Affected genes and columns from the column of `perturbed` in ``.varm``, None if there is none."""
    slots, column = _keys.effects_keys(key), _keys.slot_name(perturbed)
    if slots[0] not in data.varm or column not in data.varm[slots[0]]:
        return None
    mean, n, sd = (_slot(data.varm, "varm", slot)[column].to_numpy() for slot in slots)
    affected = np.flatnonzero(~np.isnan(mean))
    return affected, {"n_cells": n[affected], "cosine": mean[affected], "sd": sd[affected]}


def _slot(slots: Mapping[str, Any], name: str, key: str) -> Any:
    if key not in slots:
        msg = f"No .{name}[{key!r}], which belongs to the effects on genes. Run `sg.tl.perturb` again."
        raise KeyError(msg)
    return slots[key]
