"""Which cells and genes a perturbation is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer import _keys as keys

if TYPE_CHECKING:
    from anndata import AnnData

    from ._task import Task


def selected_cells(adata: AnnData, cells: Any) -> np.ndarray:
    """Whether each cell is asked for, bool (n_obs,).

    Parameters
    ----------
    adata
        The cells.
    cells
        A query of `obs`, one bool for each cell, names in `obs_names`, or None for all.

    Raises
    ------
    ValueError
        If a query cannot be evaluated, there are too few or many bools, or no cell is asked for.
    KeyError
        If a name is unknown.
    """
    if cells is None:
        return np.ones(adata.n_obs, bool)
    if isinstance(cells, str):
        try:
            chosen = adata.obs.eval(cells)
        except Exception as error:
            msg = f"cells={cells!r} is no query of .obs, which has the columns {list(adata.obs)}: {error}"
            raise ValueError(msg) from error
    else:
        chosen = np.asarray(cells)
    chosen = np.asarray(chosen)
    if chosen.dtype != bool:
        names = pd.Index(np.atleast_1d(chosen))
        unknown = names[~names.isin(adata.obs_names)]
        if len(unknown):
            msg = (
                "`cells` is neither a condition on .obs, nor one bool for each cell, nor names in .obs_names, which has no "
                f"{', '.join(map(repr, unknown[:5]))}."
            )
            raise KeyError(msg)
        chosen = adata.obs_names.isin(names)
    if chosen.shape != (adata.n_obs,):
        msg = f"`cells` has {chosen.size} bools, but there are {adata.n_obs} cells."
        raise ValueError(msg)
    if not chosen.any():
        msg = f"cells={cells!r} selects no cell."
        raise ValueError(msg)
    return chosen


def choose_cells(
    adata: AnnData, cells: Any, members: np.ndarray | None, max_cells: int | None, rng: np.random.Generator
) -> np.ndarray:
    """Indices of the cells to perturb: of those asked for, `members` of the source only, at most `max_cells`.

    Raises
    ------
    ValueError
        If the source has no cell among those asked for.
    """
    chosen = np.flatnonzero(selected_cells(adata, cells))
    if members is not None:
        chosen = np.intersect1d(chosen, members)
    if len(chosen) == 0:
        msg = "No cell of the `source` is among `cells`."
        raise ValueError(msg)
    if max_cells is not None and max_cells < len(chosen):
        chosen = np.sort(rng.choice(chosen, max_cells, replace=False))
    return chosen


def tokens_of_genes(task: Task, genes: Sequence[str] | str, *, missing: str, name: str = "genes") -> np.ndarray:
    """Tokens of genes given by `var_names`, Ensembl id or symbol, in their order and once each, int64.

    Raises
    ------
    ValueError
        If a gene is not in the vocabulary, unless `missing` is ``"ignore"``; if none is left.
    """
    genes = list(dict.fromkeys([genes] if isinstance(genes, str) else map(str, genes)))
    names, vocabulary = task.cells.var_names, task.vocabulary
    column = names.get_indexer(genes) if names.is_unique else np.full(len(genes), -1)
    found = np.where(column >= 0, task.token_id[column], -1)
    unknown = found < 0
    if unknown.any():
        found[unknown] = vocabulary.tokens_of([g for g, u in zip(genes, unknown, strict=True) if u])
    lost = [gene for gene, token in zip(genes, found, strict=True) if token < 0]
    if lost and missing == "error":
        msg = (
            f"Genes in `{name}` that are not in vocabulary {vocabulary.name!r}: {', '.join(lost)}. Leave them out, or say "
            "missing='ignore'."
        )
        raise ValueError(msg)
    if lost:
        warnings.warn(f"Left out of `{name}`, not in vocabulary {vocabulary.name!r}: {', '.join(lost)}.", stacklevel=3)
    if (found < 0).all():
        msg = f"No gene in `{name}` is in vocabulary {vocabulary.name!r}."
        raise ValueError(msg)
    return pd.unique(found[found >= 0].astype(np.int64))


def tokens_of_sets(task: Task, sets: Any, *, missing: str, coming_in: bool = False) -> dict[str, np.ndarray]:
    """Tokens of each named set; sets without names, such as pairs, are named by their genes: ``"GATA4+TBX5"``.

    Sets that would fill all ranks of the model are refused if they are `coming_in`, that is overexpressed.
    """
    if not isinstance(sets, Mapping):
        if isinstance(sets, str) or any(isinstance(genes, str) for genes in sets):
            msg = "`sets` must be sets of genes, such as {'name': ['A', 'B']} or [('A', 'B'), ('A', 'C')], not genes."
            raise ValueError(msg)
        sets = {"+".join(map(str, genes)): genes for genes in sets}
    if not sets:
        msg = "`sets` is empty."
        raise ValueError(msg)
    names = [keys.slot_name(name) for name in sets]
    if len(set(names)) < len(names):
        msg = f"Names of `sets` must differ by more than a slash and a bar, which are the same in a file: {list(sets)}."
        raise ValueError(msg)
    tokens = [tokens_of_genes(task, genes, missing=missing, name=f"sets[{name!r}]") for name, genes in sets.items()]
    found = dict(zip(names, tokens, strict=True))
    if coming_in:
        _check_room(task, found)
    return found


def _check_room(task: Task, sets: dict[str, np.ndarray]) -> None:
    room = task.pretrained.encoder.config.max_length - (2 if task.vocabulary.has_cls else 0)
    too_large = [name for name, genes in sets.items() if len(genes) >= room]
    if too_large:
        msg = f"Sets {too_large} have as many genes as the model has ranks ({room}), so that none of the cell's would be left. Split them."
        raise ValueError(msg)


def check_columns(task: Task, genes: np.ndarray, column_of: np.ndarray) -> None:
    """Refuse genes without a column in `var`, by the names of the vocabulary."""
    lost = genes[column_of[genes] < 0]
    if len(lost):
        names = ", ".join(task.vocabulary.ids[lost])
        msg = f"Genes without a column in .var, which would hold their shifts: {names}. Ask for them in `sets`."
        raise ValueError(msg)


def check_expressed(task: Task, genes: np.ndarray, tokens: np.ndarray) -> None:
    """Refuse genes that no cell expresses, by the names of the vocabulary."""
    silent = genes[~np.isin(genes, tokens)]
    if len(silent):
        names = ", ".join(task.vocabulary.ids[silent])
        msg = f"Genes in the tokens of no cell that is perturbed: {names}. Leave them out."
        raise ValueError(msg)


def check_anchor(task: Task, anchor: int, genes: np.ndarray, tokens: np.ndarray | None) -> None:
    """Refuse an anchor without a gene to go with it, or, where it does not come in, that no cell expresses."""
    if not (genes != anchor).any():
        msg = f"No gene goes with `anchor` {task.vocabulary.ids[anchor]}. Name others in `genes`."
        raise ValueError(msg)
    if tokens is not None:
        check_expressed(task, np.array([anchor]), tokens)
