"""``get.shifts``: a ranking as a tidy data frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgeneformer import _keys
from scgeneformer._arguments import checked

from ._names import insert_names

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


@checked
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
    """Ranking of genes or gene sets by :func:`~scgeneformer.tl.rank_shifts`, with one row per gene or set.

    Parameters
    ----------
    adata
        Annotated data with a ranking of genes in ``.varm[key]``, of sets in ``.uns[key]["sets"]``, or both.
    key
        Slot of the ranking.
    state
        End state whose effects and tests to return, for a perturbation with goal states. Defaults to the target.
    group
        Group of cells, if they were perturbed within groups. Defaults to all groups.
    sets
        Return sets instead of genes. By default only if no genes were ranked.
    sort_by
        Column to sort by: p-values and false discovery rates ascending, everything else descending; ``"abs_effect"`` sorts by
        absolute effect. Defaults to descending scores: perturbations that most reliably move cells towards the state come first, those that move cells away
        last, followed by those in too few cells to be tested. Without scores, rows are sorted by descending effect; for a mixture model, those
        with impact come first. A ranking with ``compat="official"`` has the order of the official table: first the rows with a false discovery
        rate below 0.05, then the others, both by descending effect. Ties keep the order of ``var_names``.
    n_top
        Maximum number of rows; with groups, per group.
    gene_symbols
        Column of ``.var`` with symbols. Defaults to the first of ``gene_symbols``, ``gene_symbol``, ``symbol``,
        ``gene_names``, ``gene_name``, ``feature_name`` that exists.
    mod
        Modality of a MuData.

    Returns
    -------
    DataFrame with a new index and the columns ``names`` (of ``var_names``) and ``symbol`` (if known), or ``set``; ``group``
    (of cells, if any); ``state`` (with goal states); and the columns of the ranking for that state, with the state removed from their names.
    Genes and sets that were perturbed in no cell are left out.

    Raises
    ------
    KeyError
        If there is no ranking, or no column `sort_by` or `gene_symbols`.
    ValueError
        If `state` is not one of the end states, or `group` not one of the groups.

    Examples
    --------
    >>> sg.pp.tokenize(adata, "default")
    >>> sg.tl.perturb(adata, genes=["STAT1", "STAT2", "IRF9"], groupby="disease", source="dcm", target="nf")
    >>> sg.tl.rank_shifts(adata)
    >>> ranking = sg.get.shifts(adata, sort_by="abs_effect")
    >>> ranking["n_cells"].tolist()
    [16, 16, 16]
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
    official = data.uns[key].get("rank", {}).get("compat") == "official"
    symbols = None if of_sets else _keys.symbols(data, gene_symbols)
    frames = []
    for name in tables if group is None else [group]:
        frame = _frame(tables[name], state, states)
        if name is not None:
            frame.insert(0, "group", name)
        if of_sets:
            frame.insert(0, "set", tables[name].index.to_numpy())
        else:
            insert_names(frame, data.var_names.to_numpy(), symbols)
        frame = frame.loc[frame["n_cells"].to_numpy() > 0]
        frames.append(frame.iloc[_order(frame, sort_by, official=official)[:n_top]])
    return pd.concat(frames).reset_index(drop=True)


def _frame(table: pd.DataFrame, state: str | None, states: list[str]) -> pd.DataFrame:
    """Columns of one end state under their plain names."""
    columns = {name: _column(name, state, states) for name in _columns_of_one_state(table, states)}
    frame = table[[column for column in columns.values() if column in table]].copy()
    frame.columns = [name for name, column in columns.items() if column in table]
    if states:
        frame.insert(0, "state", state or states[0])
    return frame


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


def _columns_of_one_state(table: pd.DataFrame, states: list[str]) -> list[str]:
    """Column names without those that belong to a further state."""
    further = {_keys.state_column(name, state) for name in table for state in states[1:]}
    return [name for name in table if name not in further]


def _column(name: str, state: str | None, states: list[str]) -> str:
    return (
        name if state is None or state == states[0] or name in _keys.SHARED_COLUMNS else _keys.state_column(name, state)
    )


def _order(frame: pd.DataFrame, sort_by: str | None, *, official: bool) -> np.ndarray:
    effect = frame["effect"].to_numpy()
    if sort_by is None:
        if official and "pvals_adj" in frame:
            not_significant = ~(frame["pvals_adj"] < 0.05).to_numpy()
            return np.lexsort((-effect, frame["pvals_adj"].isna().to_numpy(), not_significant))
        strength = frame["scores"].to_numpy() if "scores" in frame else effect
        impact = frame["impact"].to_numpy() if "impact" in frame else np.zeros(len(frame))
        return np.lexsort((-effect, -strength, -impact))  # NaN last
    if sort_by == "abs_effect":
        return np.argsort(-np.abs(effect), kind="stable")
    if sort_by not in frame:
        msg = f"Cannot sort by {sort_by!r}. Choose one of {['abs_effect', *frame]}."
        raise KeyError(msg)
    ascending = sort_by in ("pvals", "pvals_adj", "names", "set", "symbol", "state")
    return frame.reset_index(drop=True).sort_values(sort_by, ascending=ascending, kind="stable").index.to_numpy()
