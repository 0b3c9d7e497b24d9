"""Tables of ``InSilicoPerturberStats``, and the names that their columns have here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from scgeneformer import _keys as keys
from scgeneformer.tokens._names import ENSEMBL_GENE

from ._tables import numbers, read_table

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from scgeneformer.tokens import Vocabulary

GOAL = "goal"  # the goal state, which no table names
TOKEN, SYMBOL, GENE, N, SIG = "Gene", "Gene_name", "Ensembl_ID", "N_Detections", "Sig"
_ALT = "Shift_to_alt_end_"
_SIMILARITIES = ("effect", "null_effect")  # here 1 minus the similarity
# Test here, and columns of each table by our names
_TESTS = {"goal_state_shift": "rank_sum", "vs_null": "vs_null", "mixture_model": "mixture"}
_COLUMNS = {
    "vs_null": {
        "effect": "Test_avg_shift",
        "null_effect": "Null_avg_shift",
        "pvals": "Test_vs_null_pval",
        "pvals_adj": "Test_vs_null_FDR",
        "n_cells": "N_Detections_test",
        "null_n_cells": "N_Detections_null",
    },
    "mixture_model": {
        "effect": "Test_avg_shift",
        "impact": "Impact_component",
        "impact_fraction": "Impact_component_percent",
        "n_cells": N,
    },
    "aggregate_gene_shifts": {
        "perturbed": "Ensembl_ID",
        "names": "Affected_Ensembl_ID",
        "symbol": "Affected_gene_name",
        "n_cells": N,
        "cosine": "Cosine_sim_mean",
        "sd": "Cosine_sim_stdev",
    },
    "aggregate_data": {"symbol": TOKEN, "cosine": "Cosine_sim"},
}
_PARTS = {"effect": "Shift_to_{}_end", "pvals": "{}_end_vs_random_pval", "pvals_adj": "{}_end_FDR"}
_ALTERNATIVES = {name: text.format("alt" if name == "effect" else "Alt") + "_" for name, text in _PARTS.items()}


def mode_of(columns: Iterable[str]) -> str | None:
    """Mode of a table with these columns, None if it is not one of statistics."""
    columns = set(columns)
    if "Shift_to_goal_end" in columns:
        return "goal_state_shift"
    return next((mode for mode, names in _COLUMNS.items() if set(names.values()) <= columns), None)


def read(path: Path) -> AnnData | pd.DataFrame:
    """A ranking of genes as `tl.rank_shifts` writes it, or a table; see `read_official`.

    Raises
    ------
    ValueError
        If the columns are not those of a known table.
    """
    table = read_table(path)
    mode = mode_of(table.columns)
    if mode is None:
        msg = f"{path} is not a table of official statistics: its columns are {list(table.columns)}. Set `kind=` to its kind."
        raise ValueError(msg)
    others = [name.removeprefix(_ALT) for name in table.columns if name.startswith(_ALT)]
    names = _goal_columns(others) if mode == "goal_state_shift" else _COLUMNS[mode]
    if mode == "goal_state_shift" and TOKEN not in table:
        names = {ours: theirs for ours, theirs in names.items() if ours.startswith("effect")}
    elif mode in _TESTS:
        names = names | {keys.TOKEN_ID: TOKEN, keys.SYMBOLS[0]: SYMBOL, "names": GENE}
    if missing := [theirs for theirs in names.values() if theirs not in table]:
        msg = f"{path} lacks the columns {missing} of a table of mode {mode!r}. Write it again with the official tool."
        raise ValueError(msg)
    texts = {keys.SYMBOLS[0], "symbol", "names", "perturbed"}
    numbers(table, [theirs for ours, theirs in names.items() if ours not in texts], path)
    frame = pd.DataFrame({ours: table[theirs] for ours, theirs in names.items()})
    if mode in _TESTS and TOKEN in table:
        return _ranking(frame, _TESTS[mode], others if mode == "goal_state_shift" else None, path)
    if mode == "aggregate_gene_shifts":
        frame[["names", "symbol"]] = frame[["names", "symbol"]].fillna("")  # of the row for the cell
    return frame.reset_index(drop=True)


def _ranking(frame: pd.DataFrame, test: str, others: list[str] | None, path: Path) -> AnnData:
    index = pd.Index(frame.pop("names"))
    if index.hasnans or index.has_duplicates:
        msg = f"Column {GENE!r} of {path} must name each gene once. Write it again with the official tool."
        raise ValueError(msg)
    frame = frame.set_axis(index.astype(str))
    tokens = frame.pop(keys.TOKEN_ID)
    counted = [tokens, *(frame[name] for name in ("n_cells", "null_n_cells") if name in frame)]
    if any(column.dtype.kind not in "iu" or (column < 0).any() for column in counted):
        msg = f"{path} has tokens or numbers of cells that are not integers of at least 0. Write it again with the official tool."
        raise ValueError(msg)
    symbols = frame.pop(keys.SYMBOLS[0]).fillna("").astype(str)
    if others is None:
        for name in set(_SIMILARITIES) & set(frame):
            frame[name] = 1 - frame[name]
    if "impact" in frame:
        frame = frame.astype({"impact": float})
        frame["impact_fraction"] /= 100
    adata = AnnData(var=pd.DataFrame({keys.TOKEN_ID: tokens, keys.SYMBOLS[0]: symbols}))
    adata.varm[keys.SHIFT] = frame
    goal = others is not None
    states = {"target": GOAL, "others": others} if goal else {}
    keys.write_params(
        adata,
        keys.SHIFT,
        verb="tl.perturb",
        slots=[f"varm/{keys.SHIFT}", f"uns/{keys.SHIFT}"],
        file=str(path),
        **states,
    )
    tested = frame["pvals"] if "pvals" in frame else frame["effect"]
    rank = {"test": test, "compat": "official", "centered": False, "goal": goal, "min_cells": 1}
    rank |= {"replicates": "cells", "n_tested": int(tested.notna().sum())}
    adata.uns[keys.SHIFT]["rank"] = rank | ({"states": np.array([GOAL, *(others or [])], dtype=object)} if goal else {})
    return adata


def write(adata: AnnData, path: Path, key: str, vocabulary: Vocabulary | None) -> None:
    """Write the ranking in ``.varm[key]`` under the official names of columns, in the official order."""
    rank = adata.uns.get(key, {}).get("rank", {})
    if key not in adata.varm or "test" not in rank:
        msg = f'No ranking in .varm[{key!r}]. Run `sg.tl.rank_shifts(adata, compat="official")` first.'
        raise KeyError(msg)
    goal = bool(rank["goal"])
    mode = next((mode for mode, test in _TESTS.items() if test == rank["test"]), None)
    if mode is None or goal != (mode == "goal_state_shift") or rank.get("centered"):
        msg = (
            f"The ranking in .varm[{key!r}] (test={rank['test']!r}, {'with' if goal else 'without'} goal states) has no official table. Run "
            "`sg.tl.rank_shifts` with test='rank_sum' (goal states), 'vs_null' or 'mixture' (none), and centered=False."
        )
        raise ValueError(msg)
    frame = adata.varm[key]
    rows = np.flatnonzero(frame["n_cells"].to_numpy() > 0)
    genes = _genes(adata, rows, vocabulary)
    frame = frame.iloc[rows].reset_index(drop=True)
    source = adata.uns[key]["params"].get("source")
    states = [str(state) for state in rank.get("states", ())]
    names = _goal_columns([state for state in states[1:] if state != source]) if goal else _COLUMNS[mode]
    table = pd.DataFrame({theirs: frame[ours].to_numpy() for ours, theirs in names.items()})
    if not goal:
        for name in set(_SIMILARITIES) & set(names):
            table[names[name]] = 1 - table[names[name]]
    by, ascending = ["Impact_component", "Test_avg_shift"], [False, True]
    if mode == "mixture_model":
        table[names["impact_fraction"]] *= 100
        table["Impact_component"] = table["Impact_component"].astype(int)
    else:
        table[SIG] = (table[names["pvals_adj"]] < 0.05).astype(int)
        effect = "Shift_to_goal_end"
        if mode == "vs_null":
            effect = "Test_vs_null_avg_shift"
            table.insert(2, effect, table["Test_avg_shift"] - table["Null_avg_shift"])
        by, ascending = [SIG, effect, names["pvals_adj"]], [False, False, True]
    table = pd.concat([genes, table], axis=1).sort_values(TOKEN, ignore_index=True)
    table.sort_values(by, ascending=ascending, kind="stable").to_csv(path)


def _genes(adata: AnnData, rows: np.ndarray, vocabulary: Vocabulary | None) -> pd.DataFrame:
    """Token, symbol and Ensembl id of genes."""
    tokens = adata.var[keys.TOKEN_ID].to_numpy()[rows] if keys.TOKEN_ID in adata.var else None
    if tokens is None or tokens.dtype.kind not in "iu" or (tokens < 0).any():
        msg = f"No tokens of the ranked genes in .var[{keys.TOKEN_ID!r}]. Run `sg.pp.tokenize(adata, model)` first."
        raise ValueError(msg)
    if vocabulary is None:
        ids, symbols = adata.var_names.astype(str).to_numpy()[rows], keys.symbols(adata)
        symbols = np.full(len(ids), "") if symbols is None else symbols[rows]
    elif tokens.max(initial=0) >= len(vocabulary):
        msg = f".var[{keys.TOKEN_ID!r}] has tokens that vocabulary {vocabulary.name!r} lacks. Name the model of the tokens."
        raise ValueError(msg)
    else:
        ids = vocabulary.ids[tokens]
        symbols = np.full(len(ids), "") if vocabulary.symbols is None else vocabulary.symbols[tokens]
    if not all(ENSEMBL_GENE.match(name) for name in ids):
        msg = (
            "var_names are not all Ensembl ids. Name the model of the tokens: `sg.export_official(adata, path, model)`."
        )
        raise ValueError(msg)
    return pd.DataFrame({TOKEN: tokens, SYMBOL: symbols, GENE: ids})


def _goal_columns(others: list[str]) -> dict[str, str]:
    """Official columns by ours, in the official order."""
    names = {}
    for ours, text in _PARTS.items():
        names[ours] = text.format("goal" if ours == "effect" else "Goal")
        names |= {keys.state_column(ours, state): f"{_ALTERNATIVES[ours]}{state}" for state in others}
    return names | {"n_cells": N}
