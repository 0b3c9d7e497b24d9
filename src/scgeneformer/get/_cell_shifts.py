"""``get.cell_shifts``: shifts of single cells as a tidy data frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgeneformer import _keys
from scgeneformer._arguments import checked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from anndata import AnnData
    from mudata import MuData


@checked
def cell_shifts(
    adata: AnnData | MuData,
    genes: Sequence[str] | str | None = None,
    *,
    key: str = _keys.SHIFT,
    gene_symbols: str | None = None,
    mod: str = "rna",
) -> pd.DataFrame:
    """Shifts of single cells, with one row per cell, perturbed gene or set, and end state.

    Parameters
    ----------
    adata
        Annotated data with shifts in ``.layers[key]``, or of sets in ``.obsm``, from :func:`~scgeneformer.tl.perturb`,
        :func:`~scgeneformer.tl.perturb_sets` or :func:`~scgeneformer.tl.screen`.
    genes
        Genes, by their name in ``var_names`` or their symbol, or sets. Defaults to all.
    key
        Slot of the shifts.
    gene_symbols
        Column of ``.var`` with symbols. Defaults to that of :func:`shifts`.
    mod
        Modality of a MuData.

    Returns
    -------
    DataFrame with a new index and the columns ``cell`` (of ``obs_names``), ``gene`` (of ``var_names``) or ``set``, ``group`` (if cells were
    perturbed within groups), ``state`` (with goal states) and ``value``, as stored: the change in cosine similarity to the state or,
    without goal states, the cosine similarity between perturbed and original cell. Ordered by state (the target first), cell, and gene.

    Raises
    ------
    KeyError
        If there are no shifts, or a name is neither a gene nor a set.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.perturb(adata, genes=["STAT1", "STAT2", "IRF9"], groupby="disease", source="dcm", target="nf")
    >>> shifts = sg.get.cell_shifts(adata, "STAT1")
    >>> list(shifts), shifts["state"].unique().tolist()
    (['cell', 'gene', 'state', 'value'], ['nf', 'dcm'])
    """
    data = _keys.as_adata(adata, mod)
    run = _keys.params(data, key, cure="sg.tl.perturb(adata)")
    of_sets = not _keys.has_genes(data, key)
    slots, base = (data.obsm, _keys.sets_key(key)) if of_sets else (data.layers, key)
    states = _keys.end_states(run)
    names = [base, *(_keys.state_layer(base, state) for state in states[1:])]
    missing = [name for name in names if name not in slots]
    if missing:
        msg = f"No shifts in .{'obsm' if of_sets else 'layers'}[{missing[0]!r}]. Run `sg.tl.perturb(adata)` first."
        raise KeyError(msg)
    labels = slots[base].columns.to_numpy() if of_sets else data.var_names.to_numpy()
    columns = (
        np.arange(len(labels)) if genes is None else _columns_of(labels, genes, data, gene_symbols, of_sets=of_sets)
    )
    frames = []
    for state, name in zip(states or (None,), names, strict=True):
        rows, at, values = _stored_values(slots[name], of_sets=of_sets)
        chosen = np.isin(at, columns)
        rows, at, values = rows[chosen], at[chosen], values[chosen]
        columns_of = {"cell": data.obs_names.to_numpy()[rows], "set" if of_sets else "gene": labels[at]}
        if "within" in run:
            columns_of["group"] = _keys.obs_column(adata, run["within"], mod).astype(str).to_numpy()[rows]
        if state is not None:
            columns_of["state"] = state
        frames.append(pd.DataFrame(columns_of | {"value": values}))
    return pd.concat(frames, ignore_index=True)


def _stored_values(slot: Any, *, of_sets: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and value of each measurement, explicit zeros too, by row and column."""
    if of_sets:
        table = slot.to_numpy(dtype=np.float64)
        rows, columns = np.nonzero(~np.isnan(table))
        return rows, columns, table[rows, columns]
    layer = slot.tocsr().sorted_indices()
    rows = np.repeat(np.arange(layer.shape[0]), np.diff(layer.indptr))
    return rows, layer.indices, layer.data


def _columns_of(
    labels: np.ndarray, names: Sequence[str] | str, data: AnnData, gene_symbols: str | None, *, of_sets: bool
) -> np.ndarray:
    """Columns that are called `names`."""
    symbols = None if of_sets else _keys.symbols(data, gene_symbols)
    columns = []
    for name in [names] if isinstance(names, str) else names:
        index = np.flatnonzero(labels == (_keys.slot_name(name) if of_sets else name))
        if len(index) == 0 and symbols is not None:
            index = np.flatnonzero(symbols == name)
        if len(index) == 0:
            msg = f"{name!r} is not among the {'sets' if of_sets else 'genes of .var_names, nor a symbol'}."
            raise KeyError(msg)
        columns.append(index)
    return np.concatenate(columns)
