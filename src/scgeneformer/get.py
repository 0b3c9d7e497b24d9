"""Results as tidy data frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import _keys

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

__all__ = ["shifts"]

SYMBOL_COLUMNS = ("gene_symbols", "gene_symbol", "symbol", "gene_names", "gene_name", "feature_name")


def shifts(
    adata: AnnData | MuData,
    *,
    key: str = _keys.SHIFT,
    state: str | None = None,
    sort_by: str | None = None,
    n_top: int | None = None,
    gene_symbols: str | None = None,
    mod: str = "rna",
) -> pd.DataFrame:
    """Genes ranked by :func:`~scgeneformer.tl.rank_shifts`, one row per perturbed gene.

    Parameters
    ----------
    adata
        Annotated data with a ranking in ``.varm[key]``.
    key
        Slot of the ranking.
    state
        End state whose effects and tests are returned; the target if ``None``. Only for perturbations with goal states.
    sort_by
        Column to sort by: p-values and rates ascending, everything else descending; ``"abs_effect"`` sorts by the size of the
        effect. By default as official tables are: genes with a false discovery rate under 0.05 (with impact, for a
        mixture) first, larger effects first; genes in too few cells to be tested come last. Ties keep the order of ``var_names``.
    n_top
        Return only so many rows.
    gene_symbols
        Column of ``.var`` with symbols; by default the first of ``gene_symbols``, ``gene_symbol``, ``symbol``,
        ``gene_names``, ``gene_name``, ``feature_name`` that exists.
    mod
        Modality of a MuData.

    Returns
    -------
    DataFrame with a fresh index and the columns ``gene`` (of ``var_names``), ``symbol`` (if known), ``state`` (with goal
    states), and those of ``.varm[key]`` for that state, without its name. Genes that were never perturbed are left out.

    Raises
    ------
    KeyError
        If there is no ranking, or no column `sort_by` or `gene_symbols`.
    ValueError
        If `state` is not one of the end states.
    """
    data = _keys.as_adata(adata, mod)
    table, states = _read_ranking(data, key)
    if state is not None and state not in states:
        msg = f"state={state!r} is not an end state of .varm[{key!r}], which has {states or 'no goal states'}."
        raise ValueError(msg)
    columns = {name: _column(name, state, states) for name in _columns_of_one_state(table, states)}
    frame = table[[column for column in columns.values() if column in table]].copy()
    frame.columns = [name for name, column in columns.items() if column in table]
    if states:
        frame.insert(0, "state", state or states[0])
    symbols = _read_symbols(data, gene_symbols)
    if symbols is not None:
        frame.insert(0, "symbol", symbols)
    frame.insert(0, "gene", data.var_names.to_numpy())
    frame = frame.loc[frame["n_cells"].to_numpy() > 0]
    order = _order(frame, sort_by)
    return frame.iloc[order[:n_top]].reset_index(drop=True)


def _read_ranking(data: AnnData, key: str) -> tuple[pd.DataFrame, list[str]]:
    """Return ``.varm[key]`` and its end states, target first (none without goal states)."""
    if key not in data.varm or "rank" not in data.uns.get(key, {}):
        msg = f"No ranking in .varm[{key!r}]. Run `sg.tl.rank_shifts(adata)` first."
        raise KeyError(msg)
    return data.varm[key], [str(state) for state in data.uns[key]["rank"].get("states", ())]


def _read_symbols(data: AnnData, gene_symbols: str | None) -> np.ndarray | None:
    """Symbols from the column `gene_symbols` of ``.var``, or from the first usual one, or None."""
    if gene_symbols is not None and gene_symbols not in data.var:
        msg = f"No column {gene_symbols!r} in .var, which has {list(data.var)}."
        raise KeyError(msg)
    found = [gene_symbols] if gene_symbols is not None else [c for c in SYMBOL_COLUMNS if c in data.var]
    return data.var[found[0]].astype(str).to_numpy() if found else None


def _columns_of_one_state(table: pd.DataFrame, states: list[str]) -> list[str]:
    """Column names without those that belong to a further state."""
    per_state = ("effect", "score", "pval", "fdr", "null_effect")
    further = {_keys.state_layer(name, state) for name in per_state for state in states[1:]}
    return [name for name in table if name not in further]


def _column(name: str, state: str | None, states: list[str]) -> str:
    shared = ("n_cells", "n_donors", "null_n_cells")
    return name if state is None or state == states[0] or name in shared else _keys.state_layer(name, state)


def _order(frame: pd.DataFrame, sort_by: str | None) -> np.ndarray:
    effect = frame["effect"].to_numpy()
    if sort_by is None:
        call = "fdr" if "fdr" in frame else "impact"
        first = frame["fdr"] < 0.05 if call == "fdr" else frame["impact"] == 1
        return np.lexsort((-effect, frame[call].isna().to_numpy(), ~first.to_numpy()))
    if sort_by == "abs_effect":
        return np.argsort(-np.abs(effect), kind="stable")
    if sort_by not in frame:
        msg = f"Cannot sort by {sort_by!r}. There are {['abs_effect', *frame]}."
        raise KeyError(msg)
    ascending = sort_by in ("pval", "fdr", "gene", "symbol", "state")
    return frame.reset_index(drop=True).sort_values(sort_by, ascending=ascending, kind="stable").index.to_numpy()
