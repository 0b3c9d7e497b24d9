"""Which cells train, validate and test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer import evaluation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from ._cell_labels import CellTask

SETS = ("train", "validation", "test")


def choose_split(
    cells: AnnData,
    tasks: Sequence[CellTask],
    labels: np.ndarray,
    given: evaluation.Split | str | None,
    *,
    sample: str | None,
    balance: Sequence[str] | None,
    rng: int,
    among: np.ndarray | None = None,
    **sizes: float,
) -> evaluation.Split:
    """The split that is given, as such or by the name of a column, or a new one; labelled cells only, no sample in two sets.

    A new one is drawn from the cells `among`, or from all.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If the split shares a sample between sets or leaves nothing to train on, or none can be drawn.
    """
    samples = None if sample is None else cells.obs[sample].to_numpy()
    if given is None:
        missing = [name for name in balance or () if name not in cells.obs]
        if missing:
            msg = f"No columns {missing} in .obs, which balance= asks for; it has {list(cells.obs)}."
            raise KeyError(msg)
        covariates = None if balance is None else cells.obs[list(balance)]
        if among is not None:
            labels = np.where(np.isin(np.arange(len(labels)), among)[:, None], labels, np.nan)
        strata, classes = _strata(tasks[0], labels)
        return evaluation.split(strata, groups=samples, balance=covariates, classes=classes, rng=rng, **sizes)
    chosen = _column_split(cells, given) if isinstance(given, str) else given
    labelled = ~np.isnan(labels).all(1)
    chosen = evaluation.Split(**{name: _those(getattr(chosen, name), labelled) for name in SETS})
    if len(chosen.train) == 0:
        msg = "The split has no labelled cell to train on."
        raise ValueError(msg)
    if samples is not None:
        evaluation.check_disjoint(samples, chosen)
    return chosen


def choose_folds(
    cells: AnnData, tasks: Sequence[CellTask], labels: np.ndarray, n_folds: int, *, sample: str | None, rng: int
) -> np.ndarray:
    """Fold in which each cell is tested, -1 for unlabelled ones, (n_obs,); no sample is in two folds."""
    samples = None if sample is None else cells.obs[sample].to_numpy()
    strata, classes = _strata(tasks[0], labels)
    return evaluation.folds(strata, n_folds, groups=samples, classes=classes, rng=rng)


def _those(cells: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return cells[wanted[cells]]


def _strata(task: CellTask, labels: np.ndarray) -> tuple[np.ndarray, list[str] | None]:
    """What sets are to have in equal shares: the first task's labels; cells with labels of other tasks only are a stratum of their own."""
    first, labelled = labels[:, 0], ~np.isnan(labels).all(1)
    if task.kind == "continuous":
        return np.where(labelled, np.nan_to_num(first), np.nan), None
    codes = np.where(labelled, np.nan_to_num(first, nan=len(task.classes)), -1).astype(np.int64)
    if np.sum(codes == len(task.classes)) == 1:  # too few for a stratum
        codes[codes == len(task.classes)] = 0
    return codes, [*task.classes, f"(no {task.name})"]


def _column_split(cells: AnnData, column: str) -> evaluation.Split:
    """The split that a column of ``obs`` describes."""
    if column not in cells.obs:
        msg = f"No column {column!r} in .obs, which has {list(cells.obs)}: split= names one with {SETS}."
        raise KeyError(msg)
    values = cells.obs[column].astype(object)
    unknown = sorted(set(values.dropna().astype(str)) - set(SETS))
    if unknown:
        msg = f".obs[{column!r}] has values {unknown}: a split has {SETS}, or NaN."
        raise ValueError(msg)
    return evaluation.Split(**{name: np.flatnonzero((values == name).to_numpy()) for name in SETS})
