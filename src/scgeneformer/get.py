"""Results as tidy data frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from . import _keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from anndata import AnnData
    from mudata import MuData

__all__ = ["cell_shifts", "effects", "evaluation", "shifts"]

SHARED = ("n_cells", "n_donors", "null_n_cells", "fraction_exact")  # columns that are the same for every end state


def shifts(
    adata: AnnData | MuData,
    *,
    key: str = _keys.SHIFT,
    state: str | None = None,
    group: str | None = None,
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
    group
        Group of cells, where they were perturbed within groups. Defaults to all groups, one after the other.
    sets
        Return sets; by default only where no genes are ranked.
    sort_by
        Column to sort by: p-values and rates ascending, everything else descending; ``"abs_effect"`` sorts by the size of the
        effect. By default as official tables are: those with a false discovery rate under 0.05 (with impact, for a
        mixture) first, larger effects first; those in too few cells to be tested come last. Ties keep the order of ``var_names``.
    n_top
        Maximum number of rows, of each group.
    gene_symbols
        Column of ``.var`` with symbols; by default the first of ``gene_symbols``, ``gene_symbol``, ``symbol``,
        ``gene_names``, ``gene_name``, ``feature_name`` that exists.
    mod
        Modality of a MuData.

    Returns
    -------
    DataFrame with a fresh index and the columns ``gene`` (of ``var_names``) and ``symbol`` (if known), or ``set``; ``group``
    (of cells, if any); ``state`` (with goal states); and those of the ranking for that state, without its name. What was never perturbed is left out.

    Raises
    ------
    KeyError
        If there is no ranking, or no column `sort_by` or `gene_symbols`.
    ValueError
        If `state` is not one of the end states, or `group` not one of the groups.
    """
    data = _keys.as_adata(adata, mod)
    tables, states, of_sets = _read_ranking(data, key, sets=sets)
    if state is not None and state not in states:
        msg = f"state={state!r} is not an end state of .uns[{key!r}], which has {states or 'no goal states'}."
        raise ValueError(msg)
    if group is not None and group not in tables:
        groups = [name for name in tables if name is not None]
        msg = f"group={group!r} is not a group of .uns[{key!r}], which has {groups or 'none: perturb `within` groups'}."
        raise ValueError(msg)
    symbols = None if of_sets else _keys.symbols(data, gene_symbols)
    frames = []
    for name in tables if group is None else [group]:
        frame = _frame(tables[name], state, states)
        if name is not None:
            frame.insert(0, "group", name)
        if of_sets:
            frame.insert(0, "set", tables[name].index.to_numpy())
        else:
            _insert_names(frame, data.var_names.to_numpy(), symbols)
        frame = frame.loc[frame["n_cells"].to_numpy() > 0]
        frames.append(frame.iloc[_order(frame, sort_by)[:n_top]])
    return pd.concat(frames).reset_index(drop=True)


def _frame(table: pd.DataFrame, state: str | None, states: list[str]) -> pd.DataFrame:
    """Columns of one end state under their plain names."""
    columns = {name: _column(name, state, states) for name in _columns_of_one_state(table, states)}
    frame = table[[column for column in columns.values() if column in table]].copy()
    frame.columns = [name for name, column in columns.items() if column in table]
    if states:
        frame.insert(0, "state", state or states[0])
    return frame


def cell_shifts(
    adata: AnnData | MuData,
    genes: Sequence[str] | str | None = None,
    *,
    key: str = _keys.SHIFT,
    gene_symbols: str | None = None,
    mod: str = "rna",
) -> pd.DataFrame:
    """Shifts of single cells, one row for each cell, perturbed gene or set, and end state that was measured.

    Parameters
    ----------
    adata
        Annotated data with shifts in ``.layers[key]``, or of sets in ``.obsm``, from :func:`~scgeneformer.tl.perturb`,
        :func:`~scgeneformer.tl.perturb_sets` or :func:`~scgeneformer.tl.screen`.
    genes
        Genes, in ``var_names`` or as symbols, or sets to return. Defaults to all.
    key
        Slot of the shifts.
    gene_symbols
        Column of ``.var`` with symbols; by default as in :func:`shifts`.
    mod
        Modality of a MuData.

    Returns
    -------
    DataFrame with a fresh index and the columns ``cell`` (of ``obs_names``), ``gene`` (of ``var_names``) or ``set``, ``group`` (if cells were
    perturbed within groups), ``state`` (with goal states) and ``value`` as it is stored: the change of the cosine similarity to the state,
    or without goal states the cosine similarity of perturbed and original cell. Ordered by state (the target first), cell, and gene.

    Raises
    ------
    KeyError
        If there are no shifts, or a name is neither a gene nor a set.

    Examples
    --------
    >>> import numpy as np
    >>> import scgeneformer as sg
    >>> from anndata import AnnData
    >>> counts = np.random.default_rng(0).poisson(2.0, (2, 4)).astype(np.float32)
    >>> adata = AnnData(counts)
    >>> adata.var_names = ["CD3E", "CD3D", "NKG7", "LYZ"]
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.settings.progress = False
    >>> sg.tl.perturb(adata, "default", ["LYZ"])
    >>> list(sg.get.cell_shifts(adata))
    ['cell', 'gene', 'value']
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
    for state, name in zip(states or [None], names, strict=True):
        rows, at, values = _stored_values(slots[name], of_sets=of_sets)
        chosen = np.isin(at, columns)
        rows, at, values = rows[chosen], at[chosen], values[chosen]
        columns_of = {"cell": data.obs_names.to_numpy()[rows], "set" if of_sets else "gene": labels[at]}
        if "within" in run:
            columns_of["group"] = data.obs[run["within"]].astype(str).to_numpy()[rows]
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
    if found is None and _keys.has_sets(data, data.varm, key):
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


def _read_ranking(
    data: AnnData, key: str, *, sets: bool | None
) -> tuple[dict[str | None, pd.DataFrame], list[str], bool]:
    """Return the table of each group (None without groups), end states, target first (none without goal states), and whether it is of sets."""
    run = data.uns.get(key, {})
    rank = run.get("rank", {})
    groups = [str(group) for group in rank["groups"]] if "groups" in rank else [None]
    slots = {group: key if group is None else _keys.group_key(key, group) for group in groups}
    # a run of sets may have its effects on genes where a run of genes has its ranking
    has_sets = "sets" in run
    ranks_genes = "rank" in run and ("n_tested" in rank or not has_sets)
    has_genes = ranks_genes and all(slot in data.varm for slot in slots.values())
    of_sets = has_sets and not has_genes if sets is None else sets
    if not (has_sets if of_sets else has_genes):
        slot = f".uns[{key!r}]['sets']" if of_sets else f".varm[{slots[groups[0]]!r}]"
        msg = f"No ranking in {slot}. Run `sg.tl.rank_shifts(adata)` first."
        raise KeyError(msg)
    states = [str(state) for state in rank.get("states", ())]
    if not of_sets:
        return {group: data.varm[slot] for group, slot in slots.items()}, states, of_sets
    of_groups = {group: run["sets"] if group is None else run["sets"][_keys.slot_name(group)] for group in groups}
    return of_groups, states, of_sets


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
