"""Shifts of single cells, by the names of genes or sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scgeneformer import _keys, stats

from ._ranking import slot_of_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


def symbols_of(data: AnnData, gene_symbols: str | None) -> np.ndarray:
    """Symbols as in `_keys.symbols`, or ``var_names``; (n_vars,) of str."""
    symbols = _keys.symbols(data, gene_symbols)
    return data.var_names.astype(str).to_numpy() if symbols is None else symbols


def effects_in_cells(
    data: AnnData,
    run: dict[str, Any],
    names: Sequence[str],
    *,
    key: str,
    state: str | None,
    gene_symbols: str | None,
    centered: bool,
) -> tuple[np.ndarray, list[str]]:
    """Effect of each perturbation in each cell, 0 for none.

    Parameters
    ----------
    data
        Annotated data with shifts in ``.layers[key]``, or of sets in ``.obsm[key_sets]``.
    run
        ``.uns[key]["params"]``.
    names
        Genes, as in ``var_names`` or as symbols, or sets.
    key, state, gene_symbols
        Slot, end state (None without goal states), column of symbols.
    centered
        Subtract what other genes (random sets) do to the cell, as :func:`~scgeneformer.tl.rank_shifts` does.

    Returns
    -------
    Effects, float64 (n_obs, n), NaN where not tested, and n labels.

    Raises
    ------
    KeyError
        If there are no shifts, or a name is neither a gene nor a set.
    ValueError
        If the layer is dense, there are no names, nothing of a name was perturbed, or there is nothing to centre by.
    """
    slot, sets_slot = (slot_of_state(run, name, state) for name in (key, _keys.sets_key(key)))
    layer = data.layers[slot] if slot in data.layers else None
    sets = data.obsm[sets_slot] if _keys.has_sets(data, data.obsm, key) and sets_slot in data.obsm else None
    if layer is None and sets is None:
        msg = f"No shifts in .layers[{slot!r}] or .obsm[{sets_slot!r}]. Run `sg.tl.perturb(adata)` first."
        raise KeyError(msg)
    if layer is not None and not (sparse.issparse(layer) and layer.format in ("csr", "csc")):
        msg = (
            f".layers[{slot!r}] is {type(layer).__name__}, but only a CSR or CSC matrix distinguishes a tested shift "
            "of 0 from no test. Run `sg.tl.perturb(adata)` again."
        )
        raise ValueError(msg)
    if len(names) == 0:
        msg = "`genes` names no gene. Name at least one."
        raise ValueError(msg)
    symbols = symbols_of(data, gene_symbols)
    columns, labels = [], []
    for name in names:
        matches = np.flatnonzero(data.var_names == name)
        matches = matches if len(matches) else np.flatnonzero(symbols == name)
        column = _keys.slot_name(name)
        if len(matches) and layer is not None:
            values, label = _stored(layer, matches, data.n_obs), symbols[matches[0]]
            center = _mean_of_genes(data, run, layer, key, state) if centered else 0.0
        elif sets is not None and column in sets:
            values, label = sets[column].to_numpy(dtype=np.float64), str(name)
            center = (
                _mean_of_random_sets(data, run, list(sets).index(column), len(sets.columns), key, state)
                if centered
                else 0.0
            )
        else:
            hint = f" The sets are {list(sets)}." if sets is not None else ""
            msg = f"{name!r} is neither in .var_names, nor a symbol, nor a set in .obsm[{sets_slot!r}].{hint}"
            raise KeyError(msg)
        if np.isnan(values).all():
            msg = f"{name!r} was perturbed in no cell: .layers[{slot!r}] holds nothing for it."
            raise ValueError(msg)
        if np.isnan(values - center).all():
            msg = f"Nothing else was perturbed in the cells of {name!r} to compare it with. Plot with centered=False."
            raise ValueError(msg)
        sign = 1 if state is not None else -1  # less similarity is more effect
        columns.append(sign * (values - center) if centered or state is not None else 1 - values)
        labels.append(label)
    return np.stack(columns, axis=1), labels


def _mean_of_genes(data: AnnData, run: dict[str, Any], layer: Any, key: str, state: str | None) -> np.ndarray:
    """Mean shift of each cell over its reference genes, or else over all tested genes if there are several; (n_obs,)."""
    name = slot_of_state(run, _keys.reference_key(key), state)
    of_reference = name in data.layers
    values = (data.layers[name] if of_reference else layer).tocoo()
    measured = ~np.isnan(values.data)
    effects = values.data[measured].astype(np.float64)
    return stats.common_effect(effects, values.row[measured], data.n_obs, of_reference=of_reference)


def _mean_of_random_sets(
    data: AnnData, run: dict[str, Any], number: int, n_sets: int, key: str, state: str | None
) -> np.ndarray:
    """Mean shift of each cell over the random sets beside a set, (n_obs,), NaN where there are none."""
    name = slot_of_state(run, _keys.random_sets_key(key), state)
    if name not in data.obsm:
        return np.full(data.n_obs, np.nan)
    random = np.asarray(data.obsm[name], dtype=np.float64).reshape(data.n_obs, n_sets, -1)[:, number]
    return stats.mean_measured(random, axis=1)


def _stored(layer: sparse.csr_matrix | sparse.csc_matrix, columns: np.ndarray, n_obs: int) -> np.ndarray:
    """Stored entries of the first of `columns` that has any, as float64 (n_obs,), NaN where nothing is stored."""
    values = np.full(n_obs, np.nan)
    for column in columns:
        part = layer[:, [column]].tocoo()
        values[part.row] = part.data
        if part.nnz:
            break
    return values
