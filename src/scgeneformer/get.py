"""Results as tidy data frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from . import _keys

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from anndata import AnnData
    from mudata import MuData

__all__ = ["effects", "evaluation", "shifts"]

SHARED = ("n_cells", "n_donors", "null_n_cells", "fraction_exact")  # columns that are the same for every end state


def shifts(
    adata: AnnData | MuData,
    *,
    key: str = _keys.SHIFT,
    state: str | None = None,
    sets: bool | None = None,
    sort_by: str | None = None,
    n_top: int | None = None,
    gene_symbols: str | None = None,
    mod: str = "rna",
) -> pd.DataFrame:
    """Genes, or sets of genes, ranked by :func:`~scgeneformer.tl.rank_shifts`, one row each.

    Parameters
    ----------
    adata
        Annotated data with a ranking of genes in ``.varm[key]``, of sets in ``.uns[key]["sets"]``, or both.
    key
        Slot of the ranking.
    state
        End state whose effects and tests are returned; the target if ``None``. Only for perturbations with goal states.
    sets
        Return sets; by default only where no genes are ranked.
    sort_by
        Column to sort by: p-values and rates ascending, everything else descending; ``"abs_effect"`` sorts by the size of the
        effect. By default as official tables are: those with a false discovery rate under 0.05 (with impact, for a
        mixture) first, larger effects first; those in too few cells to be tested come last. Ties keep the order of ``var_names``.
    n_top
        Return only so many rows.
    gene_symbols
        Column of ``.var`` with symbols; by default the first of ``gene_symbols``, ``gene_symbol``, ``symbol``,
        ``gene_names``, ``gene_name``, ``feature_name`` that exists.
    mod
        Modality of a MuData.

    Returns
    -------
    DataFrame with a fresh index and the columns ``gene`` (of ``var_names``) and ``symbol`` (if known), or ``set``; ``state``
    (with goal states); and those of the ranking for that state, without its name. What was never perturbed is left out.

    Raises
    ------
    KeyError
        If there is no ranking, or no column `sort_by` or `gene_symbols`.
    ValueError
        If `state` is not one of the end states.
    """
    data = _keys.as_adata(adata, mod)
    table, states, of_sets = _read_ranking(data, key, sets=sets)
    if state is not None and state not in states:
        msg = f"state={state!r} is not an end state of .uns[{key!r}], which has {states or 'no goal states'}."
        raise ValueError(msg)
    columns = {name: _column(name, state, states) for name in _columns_of_one_state(table, states)}
    frame = table[[column for column in columns.values() if column in table]].copy()
    frame.columns = [name for name, column in columns.items() if column in table]
    if states:
        frame.insert(0, "state", state or states[0])
    if of_sets:
        frame.insert(0, "set", table.index.to_numpy())
    else:
        _insert_names(frame, data.var_names.to_numpy(), _keys.symbols(data, gene_symbols))
    frame = frame.loc[frame["n_cells"].to_numpy() > 0]
    order = _order(frame, sort_by)
    return frame.iloc[order[:n_top]].reset_index(drop=True)


def effects(
    adata: AnnData | MuData,
    perturbed: str,
    *,
    key: str = _keys.SHIFT,
    n_top: int | None = None,
    gene_symbols: str | None = None,
    mod: str = "rna",
) -> pd.DataFrame:
    """Genes affected by one perturbed gene or set, the most affected first.

    Parameters
    ----------
    adata
        Annotated data in which :func:`~scgeneformer.tl.perturb` recorded effects on genes: ``.varp[key]`` of perturbed genes,
        ``.varm[f"{key}_sets"]`` of sets.
    perturbed
        The perturbed gene, in ``var_names`` or as its symbol, or else the name of a set.
    key
        Slot of the perturbation.
    n_top
        Return only so many rows.
    gene_symbols
        Column of ``.var`` with symbols; by default as in :func:`shifts`.
    mod
        Modality of a MuData.

    Returns
    -------
    DataFrame with a fresh index, a row for each gene that was in a perturbed cell, and the columns ``gene`` (of
    ``var_names``), ``symbol`` (if known), ``n_cells``, ``cosine`` and ``sd``: mean and standard deviation (ddof 0) over cells of
    the cosine similarity between the gene's states before and after, 1 being no effect. Ascending by ``cosine``: the
    official ``aggregate_gene_shifts`` table without its row of the whole cell, which :func:`shifts` has.

    Raises
    ------
    KeyError
        If no effects on genes were recorded, or none of `perturbed`, or there is no column `gene_symbols`.
    ValueError
        If `perturbed` is the symbol of several perturbed genes.
    """
    data = _keys.as_adata(adata, mod)
    symbols = _keys.symbols(data, gene_symbols)
    found = _effects_of_gene(data, key, perturbed, symbols)
    if found is None:
        found = _effects_of_set(data, _keys.sets_key(key), perturbed)
    if found is None:
        msg = (
            f"No effects of {perturbed!r} on genes, neither as a gene in .varp[{key!r}] nor as a set in "
            f".varm[{_keys.sets_key(key)!r}]. Run `sg.tl.perturb` so that it records effects on genes."
        )
        raise KeyError(msg)
    affected, columns = found
    frame = pd.DataFrame(columns)
    _insert_names(frame, data.var_names.to_numpy()[affected], None if symbols is None else symbols[affected])
    return frame.sort_values("cosine", kind="stable")[:n_top].reset_index(drop=True)


def evaluation(adata: AnnData | MuData, *, key: str = _keys.EVALUATION, mod: str = "rna") -> pd.DataFrame:
    """Scores of a classifier and, beside it, of its baselines, from :func:`~scgeneformer.tl.evaluate`.

    Parameters
    ----------
    adata
        Annotated data with an evaluation in ``.uns[key]``.
    key
        Slot of the evaluation.
    mod
        Modality of a MuData.

    Returns
    -------
    DataFrame, one row per model, the evaluated one first, and a column for each score: of classes ``accuracy``,
    ``balanced_accuracy``, ``macro_f1``, ``auc``, ``average_precision``, ``log_loss``, ``calibration_error``, and ``mae`` and
    ``kappa`` if they are ordinal; of continuous labels ``mae``, ``rmse``, ``r2``, ``spearman``.

    Raises
    ------
    KeyError
        If there is no evaluation.
    """
    run = _keys.as_adata(adata, mod).uns.get(key, {})
    if "metrics" not in run:
        msg = f"Did not find .uns[{key!r}]['metrics']. Run `sg.tl.evaluate(adata, model)` first."
        raise KeyError(msg)
    return run["metrics"].copy()


def _read_ranking(data: AnnData, key: str, *, sets: bool | None) -> tuple[pd.DataFrame, list[str], bool]:
    """Return the table, its end states, target first (none without goal states), and whether it is of sets."""
    run = data.uns.get(key, {})
    has_genes, has_sets = (key in data.varm and "rank" in run), "sets" in run
    of_sets = has_sets and not has_genes if sets is None else sets
    if not (has_sets if of_sets else has_genes):
        slot = f".uns[{key!r}]['sets']" if of_sets else f".varm[{key!r}]"
        msg = f"No ranking in {slot}. Run `sg.tl.rank_shifts(adata)` first."
        raise KeyError(msg)
    states = [str(state) for state in run["rank"].get("states", ())]
    return run["sets"] if of_sets else data.varm[key], states, of_sets


def _insert_names(frame: pd.DataFrame, genes: np.ndarray, symbols: np.ndarray | None) -> None:
    if symbols is not None:
        frame.insert(0, "symbol", symbols)
    frame.insert(0, "gene", genes)


def _columns_of_one_state(table: pd.DataFrame, states: list[str]) -> list[str]:
    """Column names without those that belong to a further state."""
    further = {_keys.state_column(name, state) for name in table for state in states[1:]}
    return [name for name in table if name not in further]


def _column(name: str, state: str | None, states: list[str]) -> str:
    return name if state is None or state == states[0] or name in SHARED else _keys.state_column(name, state)


def _order(frame: pd.DataFrame, sort_by: str | None) -> np.ndarray:
    effect = frame["effect"].to_numpy()
    if sort_by is None:
        call = next((column for column in ("fdr", "impact") if column in frame), "effect")
        first = {"fdr": frame[call] < 0.05, "impact": frame[call] == 1}.get(call, frame[call].notna())
        return np.lexsort((-effect, frame[call].isna().to_numpy(), ~first.to_numpy()))
    if sort_by == "abs_effect":
        return np.argsort(-np.abs(effect), kind="stable")
    if sort_by not in frame:
        msg = f"Cannot sort by {sort_by!r}. There are {['abs_effect', *frame]}."
        raise KeyError(msg)
    ascending = sort_by in ("pval", "fdr", "gene", "set", "symbol", "state")
    return frame.reset_index(drop=True).sort_values(sort_by, ascending=ascending, kind="stable").index.to_numpy()


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
