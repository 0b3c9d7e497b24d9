"""Columns of cells in official files: all further ones, and the names of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from scgeneformer import _keys as keys

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

OBS_NAMES = "obs_names"  # column by which names of cells come back


def with_names(table: pd.DataFrame, column: str | None, path: Path) -> pd.DataFrame:
    """`table` of cells, named by one of its columns, which is taken out, or numbered.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If the names are not unique.
    """
    if column is not None and column not in table:
        msg = f"{path} has no column {column!r} for `obs_names`, but {list(table.columns)}."
        raise KeyError(msg)
    column = OBS_NAMES if column is None and OBS_NAMES in table else column
    if column is None:
        return table.set_axis(pd.RangeIndex(len(table)).astype(str))
    names = table[column]
    if names.isna().any() or names.duplicated().any():
        msg = f"Column {column!r} of {path} does not name cells: it has missing or duplicate values. Set `obs_names` to another."
        raise ValueError(msg)
    return table.drop(columns=column).set_axis(pd.Index(names.astype(str).to_numpy()))


def labels(adata: AnnData) -> pd.DataFrame:
    """Names of cells and columns of ``.obs`` that are not those of tokens, to be written beside tokens or embeddings.

    Raises
    ------
    ValueError
        If a column would be that of the names.
    """
    obs = keys.read_frame(adata.obs)
    if OBS_NAMES in obs:
        msg = f"Column {OBS_NAMES!r} of .obs would be read as the names of cells. Rename it."
        raise ValueError(msg)
    obs = obs.drop(columns=[keys.N_TOKENS, keys.TOKEN_VOCABULARY], errors="ignore")
    return pd.concat([pd.Series(adata.obs_names, adata.obs_names, name=OBS_NAMES), obs], axis=1)
