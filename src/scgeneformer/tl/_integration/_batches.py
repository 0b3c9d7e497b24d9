"""Batches, labels and conditions of cells, checked against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgeneformer import _keys as keys
from scgeneformer import _log as logg
from scgeneformer import stats

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


def categories_of(
    data: AnnData | MuData, column: str, mod: str, rows: np.ndarray, *, least: int = 2, missing: bool = False
) -> pd.Categorical:
    """A column of the cells `rows` as categories that occur there.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If it has fewer than `least` values or, unless `missing` is allowed, cells have none.
    """
    values = keys.obs_column(data, column, mod).iloc[rows]
    n_missing = int(values.isna().sum())
    if n_missing and not missing:
        msg = f"{n_missing} cells have no value in .obs[{column!r}]. Fill it, or leave these cells out: `adata[adata.obs[{column!r}].notna()]`."
        raise ValueError(msg)
    categories = pd.Categorical(values.astype("category").cat.remove_unused_categories())
    if len(categories.categories) < least:
        found = ", ".join(map(repr, map(str, categories.categories))) or "none"
        msg = f".obs[{column!r}] has only {found} in the cells to compare. Name a column with at least {least} values."
        raise ValueError(msg)
    return categories


def check_condition(batches: pd.Categorical, conditions: pd.Categorical, batch_key: str, condition_key: str) -> None:
    """Refuse to remove batches that cannot be distinguished from the condition, and warn where some cannot.

    Raises
    ------
    ValueError
        If every batch is of one condition.
    """
    table = pd.crosstab(batches, conditions).to_numpy() > 0  # (n_batches, n_conditions)
    if (table.sum(axis=1) <= 1).all():
        msg = (
            f"Every batch of .obs[{batch_key!r}] has a single condition of .obs[{condition_key!r}]: differences "
            "between conditions cannot be distinguished from those between batches, and would be removed with them. "
            "Compare conditions within batches, or leave `condition_key` out to integrate anyway."
        )
        raise ValueError(msg)
    alone = conditions.categories[table.sum(axis=0) == 1]
    if len(alone):
        names = ", ".join(map(repr, map(str, alone)))
        logg.warning(
            f"In .obs[{condition_key!r}], {names} is in one batch only: what is particular to it may be removed with the batch."
        )


def composition(batches: pd.Categorical, labels: pd.Categorical) -> pd.DataFrame:
    """Number of cells of each batch, and the total variation distance of its labels from those of all cells; one row per batch."""
    share = stats.shares(batches.codes, labels.codes)
    labelled = labels.codes >= 0
    overall = np.bincount(labels.codes[labelled], minlength=len(labels.categories)) / labelled.sum()
    return pd.DataFrame(
        {
            "n_cells": np.bincount(batches.codes, minlength=len(batches.categories)),
            "total_variation": [stats.total_variation(of_batch, overall) for of_batch in share],
        },
        index=keys.slot_names(batches.categories, "Batches"),
    )
