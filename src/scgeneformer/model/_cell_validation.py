"""Cross-validation of classifiers of cells, in which every labelled cell is predicted once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from scgeneformer import evaluation

from .data._cell_splits import choose_folds, choose_split

if TYPE_CHECKING:
    from .data._cell_labels import CellTask


@dataclass(frozen=True, eq=False)
class CellCrossValidation:
    """What models say of cells, and of samples, that they did not see.

    Attributes
    ----------
    fold
        Fold in which each cell was tested, int64 (n_obs,); -1 for cells without a label.
    predicted
        Probabilities of classes, or values of a continuous label, by the model that did not see the cell: DataFrame with a row for each
        cell, NaN where it was not tested.
    scores
        A row for each fold, the last two are their mean and standard deviation; columns as of
        :func:`scgeneformer.evaluation.classification` or :func:`scgeneformer.evaluation.regression`.
    """

    fold: np.ndarray
    predicted: pd.DataFrame
    scores: pd.DataFrame


class CellValidationMixin:
    """Gives a classifier of cells its cross-validation."""

    def cross_validate(
        self,
        n_folds: int = 5,
        *,
        task: str | None = None,
        validation_size: float = 0.1,
        rng: int = 0,
        **train_kwargs: Any,
    ) -> CellCrossValidation:
        """Train a model for each fold, from where this one started, and predict the cells of the fold with it.

        Folds are stratified by the first column of labels; where the data were set up with samples, no sample is in two folds. (The
        official tool tests a part of each fold only, and takes cells in the order of the file.) This model stays as it is.

        Parameters
        ----------
        n_folds
            Number of folds.
        task
            Which column to judge, where several are learned.
        validation_size
            Share of the cells outside the fold by which the best weights are chosen and scores calibrated; 0 for none.
        rng
            Seed of folds, splits, new heads, dropout and order.
        **train_kwargs
            As of :meth:`train`.

        Raises
        ------
        ValueError
            If a class has fewer members than there are folds, there are fewer samples than folds, or the model started from one
            that is no longer there.
        """
        asked, cells, labels = self.task(task), self._cells(), self.labels()
        sample = self.registry["setup_args"].get("sample")
        fold = choose_folds(cells, self.tasks, labels, n_folds, sample=sample, rng=rng)
        truth = labels[:, self.tasks.index(asked)]
        columns = list(asked.classes) or [asked.name]
        predicted = pd.DataFrame(np.nan, index=cells.obs_names, columns=columns)
        scores = {}

        def inner(rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """Cells that train, and a share that validates."""
            if validation_size == 0:
                return rest, rest[:0]
            sizes = {"train_size": 1 - validation_size, "validation_size": validation_size, "test_size": 0.0}
            found = choose_split(
                cells, self.tasks, labels, None, sample=sample, balance=None, rng=rng, among=rest, **sizes
            )
            return found.train, found.validation

        for k in range(n_folds):
            rest, tested = np.flatnonzero((fold >= 0) & (fold != k)), np.flatnonzero(fold == k)
            with torch.random.fork_rng():
                torch.manual_seed(rng * n_folds + k)
                model = self.untrained()
                model.train(split=evaluation.Split(*inner(rest), tested), rng=rng, **train_kwargs)
            soft = asked.kind != "continuous"
            predicted.iloc[tested] = np.asarray(model.predict(indices=tested, task=asked.name, soft=soft)).reshape(
                len(tested), -1
            )
            scores[str(k)] = score(asked, truth[tested], predicted.iloc[tested].to_numpy())
        table = pd.DataFrame(scores).T.rename_axis("fold")
        table = pd.concat([table, table.agg(["mean", "std"])]).rename_axis("fold")
        return CellCrossValidation(fold, predicted, table)


def score(task: CellTask, truth: np.ndarray, predicted: np.ndarray) -> pd.Series:
    """Scores of one task over its labelled cells that could be predicted."""
    there = ~np.isnan(truth) & ~np.isnan(predicted[:, 0])
    truth, predicted = truth[there], predicted[there]
    if task.kind == "continuous":
        return evaluation.regression(truth * task.sd + task.mean, predicted[:, 0])
    return evaluation.classification(truth.astype(np.int64), predicted, task.classes).scores
