"""A reference from annotated data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer import _keys as keys
from scgeneformer import stats
from scgeneformer._slots import provenance, read_embedding

MOST_HELD_OUT, SHARE_HELD_OUT = 20_000, 0.1

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from mudata import MuData
    from numpy.random import Generator


def build(
    data: AnnData | MuData,
    labels: str,
    *,
    name: str,
    use_rep: str = keys.embedding_key(keys.GENEFORMER),
    n_neighbors: int = 15,
    metric: str = "euclidean",
    exact: bool | None = None,
    donor: str | None = None,
    obs: Sequence[str] = (),
    rng: int | Generator | None = 0,
    mod: str = "rna",
) -> dict[str, Any]:
    """Fields of a `Reference`, see its `from_adata`; `name` is what errors call `data`."""
    adata, slot = keys.as_adata(data, mod), f"{name}.obs"
    classes = pd.Categorical(keys.obs_column(data, labels, mod, slot=slot)).remove_unused_categories()
    keys.slot_names(classes.categories, f"Labels in {slot}[{labels!r}]")
    points = read_embedding(adata, use_rep, name=name).astype(np.float32, copy=False)
    labelled = np.isfinite(points).all(axis=1) & (classes.codes >= 0)
    if not labelled.any():
        msg = f"No cell of the reference has both a label in .obs[{labels!r}] and a place in .obsm[{use_rep!r}]."
        raise ValueError(msg)
    columns = {labels: classes[labelled]}
    if donor is not None:
        columns[donor] = _donors(keys.obs_column(data, donor, mod, slot=slot)[labelled], donor)
    for column in (obs,) if isinstance(obs, str) else obs:
        if column not in columns:
            columns[column] = _storable(keys.obs_column(data, column, mod, slot=slot)[labelled])
    _check_left_out(columns[labels], None if donor is None else columns[donor], labels, donor)
    seed = rng if isinstance(rng, int) else int(np.random.default_rng(rng).integers(2**31))
    rows, n_held_out = _held_out_last(columns[labels].codes, seed)
    n_cells = len(rows)
    return {
        "points": np.ascontiguousarray(points[np.flatnonzero(labelled)[rows]]),
        "cells": pd.DataFrame(columns, index=adata.obs_names[labelled].astype(str)).iloc[rows],
        "labels": labels,
        "use_rep": use_rep,
        "embedding": provenance(adata, use_rep),
        "n_neighbors": min(n_neighbors, n_cells - n_held_out),
        "metric": metric,
        "exact": n_cells <= stats.LARGEST_EXACT if exact is None else exact,
        "donor": donor,
        "n_held_out": n_held_out,
        "seed": seed,
    }


def _held_out_last(codes: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
    """Order of cells in which those that are held out come last, and how many there are: none in small references.

    Drawn at random, except one cell of each label, so that no label is lost.
    """
    n = len(codes)
    if n <= stats.LARGEST_EXACT:
        return np.arange(n), 0
    order = np.random.default_rng(seed).permutation(n)
    first = np.unique(codes[order], return_index=True)[1]
    drawn = np.delete(order, first)[: min(MOST_HELD_OUT, int(SHARE_HELD_OUT * n))]
    return np.concatenate([np.delete(np.arange(n), drawn), np.sort(drawn)]), len(drawn)


def _donors(column: pd.Series, donor: str) -> pd.Categorical:
    donors = _storable(column)
    n_missing = int(pd.isna(donors).sum())
    if n_missing:
        msg = f"{n_missing} labelled cells of the reference have no donor in .obs[{donor!r}]. Name their donor, or remove their labels."
        raise ValueError(msg)
    return pd.Categorical(donors).remove_unused_categories()


def _check_left_out(
    labels: pd.Categorical, donors: pd.Categorical | None, label_column: str, donor: str | None
) -> None:
    """Raise if nothing is left to measure distances from, once a cell or donor is left out."""
    n_left_out = 1 if donors is None else int(np.bincount(donors.codes).max())
    if n_left_out == len(labels):
        unit = "one labelled cell" if donors is None else f"labelled cells of one donor (.obs[{donor!r}])"
        msg = f"The reference has {unit} only: if left out, none remains to measure distances from. Add others."
        raise ValueError(msg)
    single = labels.categories[np.bincount(labels.codes, minlength=len(labels.categories)) == 1]
    if len(single):
        names = ", ".join(map(repr, map(str, single)))
        msg = (
            f"Labels with a single cell in .obs[{label_column!r}] of the reference: {names}. Without that cell, none "
            "is left to compare with. Add cells, merge the label with another, or make it missing (NaN)."
        )
        raise ValueError(msg)


def _storable(column: pd.Series) -> Any:
    """A column as files of tables can hold it: numbers, booleans and categories as they are, anything else as categories of strings."""
    if (
        isinstance(column.dtype, pd.CategoricalDtype)
        or isinstance(column.dtype, np.dtype)
        and column.dtype.kind in "biuf"
    ):
        return column.to_numpy() if isinstance(column.dtype, np.dtype) else pd.Categorical(column)
    return pd.Categorical(column.astype(str).where(column.notna()))
