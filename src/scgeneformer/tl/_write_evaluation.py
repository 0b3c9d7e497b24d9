"""Slots of an evaluation: tables for the run, probabilities or numbers for its cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer import _keys as keys
from scgeneformer import evaluation

if TYPE_CHECKING:
    from anndata import AnnData

SETS = ("train", "validation", "test")
# By the part of their slots' names; the model itself has none.
BASELINES = {"probe": "linear probe", "hvg": "regression on HVGs"}


@dataclass(frozen=True)
class Evaluated:
    """What was asked, of whom, and who answered what.

    Attributes
    ----------
    label, kind
        Column of ``obs`` with the truth, and ``"categorical"``, ``"ordinal"`` or ``"continuous"``.
    classes
        Names of classes; none for continuous labels.
    split
        Cells of each set.
    rows
        Cells that were evaluated, (n,).
    truth
        Their codes of classes, or numbers, (n,).
    training
        The same of the training cells.
    answers
        By baseline, the model being ``""``: probabilities (n, n_classes), or numbers (n,).
    name
        What the model is called.
    """

    label: str
    kind: str
    classes: tuple[str, ...]
    split: evaluation.Split
    rows: np.ndarray
    truth: np.ndarray
    training: np.ndarray
    answers: dict[str, np.ndarray]
    name: str

    def named(self, baseline: str) -> str:
        """What `baseline` is called in tables."""
        return BASELINES.get(baseline, self.name)


def write_evaluation(cells: AnnData, key: str, found: Evaluated, **params: Any) -> pd.DataFrame:
    """Score all answers, write the slots that :func:`~scgeneformer.tl.evaluate` names, and return the table of scores."""
    numbers = found.kind == "continuous"
    tables = {} if numbers else _tables_of_classes(found)
    metrics = pd.DataFrame({name: _scores(found, answer) for name, answer in _all_answers(found).items()}).T

    slots = {baseline: keys.answer_key(key, baseline, proba=not numbers) for baseline in found.answers}
    for baseline, answer in found.answers.items():
        values = np.full((cells.n_obs, *answer.shape[1:]), np.nan)
        values[found.rows] = answer
        if numbers:
            cells.obs[slots[baseline]] = values
        else:
            columns = [keys.slot_name(name) for name in found.classes]
            cells.obsm[slots[baseline]] = pd.DataFrame(values, index=cells.obs_names, columns=columns)
    sets = np.full(cells.n_obs, -1)
    for code, name in enumerate(SETS):
        sets[getattr(found.split, name)] = code
    cells.obs[key] = pd.Categorical.from_codes(sets, list(SETS))
    keys.write_params(
        cells, key, labels=found.label, kind=found.kind, classes=found.classes, answers=tuple(slots.values()), **params
    )
    cells.uns[key] |= {"metrics": metrics, **tables}
    return metrics


def _all_answers(found: Evaluated) -> dict[str, np.ndarray]:
    """The answers by name, and that of someone who knows only the labels of the training cells."""
    answers = {found.named(baseline): answer for baseline, answer in found.answers.items()}
    if found.kind == "continuous":
        return answers | {"mean of training cells": np.full(len(found.rows), found.training.mean())}
    frequency = np.bincount(found.training.astype(np.int64), minlength=len(found.classes)) / len(found.training)
    return answers | {"most frequent class": np.tile(frequency, (len(found.rows), 1))}


def _scores(found: Evaluated, answer: np.ndarray) -> pd.Series:
    if found.kind == "continuous":
        return evaluation.regression(found.truth, answer)
    scores = evaluation.classification(found.truth, answer, found.classes).scores
    if found.kind == "ordinal":
        n_levels = len(found.classes)
        level = answer @ np.arange(n_levels)
        scores = pd.concat([scores, evaluation.regression(found.truth, level, n_levels=n_levels)[["mae", "kappa"]]])
    return scores


def _tables_of_classes(found: Evaluated) -> dict[str, pd.DataFrame]:
    """Table of each class, the baselines' F1 beside the model's, and the model's confusion matrix."""
    reports = {
        baseline: evaluation.classification(found.truth, answer, found.classes)
        for baseline, answer in found.answers.items()
    }
    per_class = reports[""].per_class.copy()
    for baseline, report in reports.items():
        if baseline:
            per_class[f"f1_{baseline}"] = report.per_class["f1"]
    confusion = reports[""].confusion
    return {
        "per_class": per_class,
        "confusion": confusion.set_axis([keys.slot_name(name) for name in confusion.columns], axis=1),
    }
