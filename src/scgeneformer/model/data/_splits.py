"""Which cells, or which genes, train, validate and test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from scvi.dataloaders import DataSplitter

from scgeneformer import evaluation

from ._gene_labels import tokens_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Unpack

    from anndata import AnnData
    from scvi.data import AnnDataManager

    from scgeneformer.tokens import Vocabulary

    from ._cell_labels import CellTask
    from ._gene_labels import GeneClasses

SETS = ("train", "validation", "test")


class Sizes(TypedDict, total=False):
    """Shares of the sets of a split."""

    train_size: float
    validation_size: float
    test_size: float


def draw_cells(
    manager: AnnDataManager,
    n_cells: int,
    *,
    train_size: float,
    validation_size: float | None,
    shuffle_set_split: bool,
    rng: int,
    external_indexing: list[np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Cells of each set; sizes, `shuffle_set_split` and `external_indexing` as in scvi-tools, the order drawn with `rng`."""
    splitter = DataSplitter(
        manager,
        train_size=train_size,
        validation_size=validation_size,
        shuffle_set_split=shuffle_set_split,
        external_indexing=external_indexing,
    )
    if external_indexing is not None or not shuffle_set_split:
        splitter.setup()
        return {
            name: np.asarray(rows, dtype=np.int64)
            for name, rows in zip(SETS, (splitter.train_idx, splitter.val_idx, splitter.test_idx), strict=True)
        }
    order = np.random.default_rng(rng).permutation(n_cells)
    validation, train, test = np.split(order, [splitter.n_val, splitter.n_val + splitter.n_train])
    return {"train": train, "validation": validation, "test": test}


def choose_split(
    cells: AnnData,
    tasks: Sequence[CellTask],
    labels: np.ndarray,
    given: evaluation.Split | str | None,
    *,
    samples: np.ndarray | None,
    balance: Sequence[str] | None,
    rng: int,
    among: np.ndarray | None = None,
    **sizes: Unpack[Sizes],
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
    _check_range(chosen, len(labels), "cells of the data")
    labelled = ~np.isnan(labels).all(1)
    chosen = evaluation.Split(**{name: rows[labelled[rows]] for name in SETS for rows in [getattr(chosen, name)]})
    if len(chosen.train) == 0:
        msg = "The split has no labelled cell to train on."
        raise ValueError(msg)
    if samples is not None:
        evaluation.check_disjoint(samples, chosen)
    return chosen


def choose_folds(
    tasks: Sequence[CellTask], labels: np.ndarray, n_folds: int, *, samples: np.ndarray | None, rng: int
) -> np.ndarray:
    """Fold in which each cell is tested, -1 for unlabelled ones, (n_obs,); no sample is in two folds."""
    strata, classes = _strata(tasks[0], labels)
    return evaluation.folds(strata, n_folds, groups=samples, classes=classes, rng=rng)


def _strata(task: CellTask, labels: np.ndarray) -> tuple[np.ndarray, list[str] | None]:
    """Strata of a split: labels of the first task; cells with labels of other tasks only are a stratum of their own."""
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


def choose_genes(
    genes: GeneClasses,
    seen: np.ndarray,
    given: evaluation.Split | Mapping[str, Sequence[str]] | None,
    vocabulary: Vocabulary,
    *,
    rng: int,
    **sizes: Unpack[Sizes],
) -> evaluation.Split:
    """The split that is given, or a new one by classes; numbers of genes, those that occur in cells only.

    Parameters
    ----------
    genes
        The classified genes.
    seen
        bool (n_genes,), which occur in a cell. The others can neither be learned from nor tested.
    given
        Numbers of genes, or lists of genes by the name of their set.
    vocabulary
        To find them in.
    rng, **sizes
        As of :func:`scgeneformer.evaluation.split`.

    Raises
    ------
    ValueError
        If a set has genes without a class, or nothing is left to train on.
    """
    if given is None:
        labels = np.where(seen, genes.codes, -1)
        return evaluation.split(labels, classes=genes.names, rng=rng, **sizes)
    if isinstance(given, Mapping):
        given = _named_sets(genes, given, vocabulary)
    _check_range(given, len(genes), "rows of `model.genes`")
    sets = {name: getattr(given, name) for name in SETS}
    chosen = evaluation.Split(**{name: numbers[seen[numbers]] for name, numbers in sets.items()})
    if len(np.unique(genes.codes[chosen.train])) < 2:
        msg = "The training genes of this split that occur in cells are of fewer than two classes."
        raise ValueError(msg)
    return chosen


def _check_range(split: Any, n: int, what: str) -> None:
    """Raise if `split` is not a split, or has more than `n` items."""
    if not isinstance(split, evaluation.Split):
        msg = (
            f"split={split!r} is a {type(split).__name__}. Pass a `sg.evaluation.Split`, or another form that `train` "
            "accepts."
        )
        raise TypeError(msg)
    for name in SETS:
        numbers = getattr(split, name)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < n:
            msg = f"split.{name} has numbers outside 0 to {n - 1}, the {what}."
            raise ValueError(msg)


def _named_sets(genes: GeneClasses, given: Mapping[str, Sequence[str]], vocabulary: Vocabulary) -> evaluation.Split:
    unknown = sorted(set(given) - set(SETS))
    if unknown:
        msg = f"split has sets {unknown}; it can have {SETS}."
        raise ValueError(msg)
    sets = {}
    for name in SETS:
        tokens = tokens_of(given.get(name, ()), vocabulary, f"split[{name!r}]")
        other = tokens[~np.isin(tokens, genes.tokens)]
        if len(other):
            msg = f"split[{name!r}] has {len(other)} genes without a class, such as {vocabulary.ids[other[0]]}. Leave them out."
            raise ValueError(msg)
        sets[name] = np.searchsorted(genes.tokens, tokens)
    return evaluation.Split(**sets)
